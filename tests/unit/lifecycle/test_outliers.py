"""Replicas that answer badly, come back, or come and go: outlier rule, panic rule, slow start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pytest

from flexinfer.lifecycle import outliers
from flexinfer.lifecycle.activation import Activation, Limits
from flexinfer.lifecycle.modelfacts import ModelFacts
from flexinfer.lifecycle.modelqueue import Request


class Node(NamedTuple):
    name: str


A, B = Node("a"), Node("b")


def least_loaded(nodes: Sequence[Node], in_flight: Mapping[str, int]) -> Node:
    return min(nodes, key=lambda node: in_flight.get(node.name, 0))


class Proxy:
    """One model whose replicas answer as the test says."""

    def __init__(self, *nodes: Node, slots: int = 4) -> None:
        self.machine: Activation[Node] = Activation(least_loaded, Limits(shun_s=5.0))
        self.machine.model_changed("m", ModelFacts(phase="Ready", slots=slots), 0.0)
        queue = self.machine.queue("m")
        assert queue is not None
        self.queue = queue
        self.machine.endpoints_changed("m", nodes, 0.0)

    def begin(self, now: float) -> Request[Node]:
        request = Request(self.queue)
        self.machine.request_arrived(request, now)
        return request

    def end(self, request: Request[Node], now: float, *, failed: bool = False) -> bool:
        out = failed and self.machine.failed(request, now)
        if not failed:
            self.machine.succeeded(request, now)
        self.machine.request_done(request, now)
        return out

    def ask(self, now: float, bad: str = "") -> str:
        """One request from arrival to end; the replica that answered. Those named in `bad` answer 500."""
        request = self.begin(now)
        assert request.endpoint is not None
        self.end(request, now, failed=request.endpoint.name in bad)
        return request.endpoint.name


@pytest.mark.parametrize(
    ("failures", "out_s"),
    [
        pytest.param(4, 0.0, id="four in a row are bad luck"),
        pytest.param(5, 10.0, id="five are a broken replica"),
        pytest.param(6, 20.0, id="twice as long after the next"),
        pytest.param(500, 300.0, id="never longer than five minutes"),
    ],
)
def test_back_off(failures, out_s):
    assert outliers.back_off_s(failures) == out_s


@pytest.mark.parametrize(
    ("replicas", "in_rotation", "may"),
    [
        pytest.param(1, 1, False, id="the only one stays"),
        pytest.param(2, 2, True, id="one of two may leave"),
        pytest.param(2, 1, False, id="the second of two stays"),
        pytest.param(5, 4, True, id="two of five"),
        pytest.param(5, 3, False, id="three of five would be most"),
    ],
)
def test_the_panic_rule(replicas, in_rotation, may):
    assert outliers.may_leave(replicas, in_rotation) is may


def test_a_replica_that_fails_five_times_straight_gets_nothing_until_its_time_is_over():
    proxy = Proxy(A, B)
    assert [proxy.ask(0.0, bad="a") for _ in range(8)] == ["a"] * 5 + ["b"] * 3
    assert proxy.machine.wake_at <= 10.0
    assert [proxy.ask(9.9, bad="a") for _ in range(3)] == ["b"] * 3
    proxy.machine.tick(10.0)
    # One failure more, and it is out again, for longer.
    assert [proxy.ask(11.5, bad="a") for _ in range(3)] == ["a", "b", "b"]
    proxy.machine.tick(31.4)
    assert proxy.ask(31.4) == "b"
    proxy.machine.tick(31.5)
    assert [proxy.ask(33.0) for _ in range(2)] == ["a", "a"]
    assert proxy.queue.streaks == {}


def test_a_closed_port_of_another_replica_brings_none_back_early():
    proxy = Proxy(A, B, Node("c"))
    assert [proxy.ask(0.0, bad="a") for _ in range(5)] == ["a"] * 5
    request = proxy.begin(1.0)
    assert request.endpoint == B
    proxy.machine.request_refused(request, 1.0)
    assert proxy.queue.out == {"a": 10.0, "b": 6.0}
    proxy.end(request, 2.0)
    proxy.machine.tick(6.0)
    assert proxy.queue.out == {"a": 10.0}
    proxy.machine.tick(10.0)
    assert proxy.queue.out == {}


def test_a_success_between_failures_clears_them():
    proxy = Proxy(A, B)
    for bad in ("a", "a", "a", "a", "", "a", "a", "a", "a"):
        assert proxy.ask(0.0, bad) == "a"
    assert proxy.ask(0.0) == "a"


def test_what_was_open_when_a_replica_left_does_not_count_again():
    proxy = Proxy(A, B, slots=16)
    open_ones = [proxy.begin(0.0) for _ in range(16)]
    for request in open_ones:
        assert request.endpoint is not None
        proxy.end(request, 1.0, failed=request.endpoint == A)
    assert proxy.queue.streaks == {"a": 5}


def test_f41_all_replicas_fail_and_are_tried_all_the_same():
    proxy = Proxy(A, B)
    answered = [proxy.ask(0.0, bad="ab") for _ in range(40)]
    assert answered == ["a"] * 5 + ["b"] * 35
    alone = Proxy(A)
    assert [alone.ask(0.0, bad="a") for _ in range(40)] == ["a"] * 40


def test_f40_a_replica_that_comes_back_gets_no_more_than_its_share_and_one_in_its_first_second():
    proxy = Proxy(A, slots=64)
    before = [proxy.begin(0.0) for _ in range(20)]
    proxy.machine.endpoints_changed("m", (A, B), 1.0)
    given = [proxy.begin(1.0 + number / 20).endpoint for number in range(20)]
    assert len(before) == 20
    assert given.count(B) <= 20 / 2 + 1
    later = [proxy.begin(2.5).endpoint for _ in range(10)]
    assert later == [B] * 10


def test_f40_a_newcomer_takes_what_nobody_else_has_a_slot_for():
    proxy = Proxy(A, slots=2)
    for _ in range(6):
        proxy.begin(0.0)
    proxy.machine.endpoints_changed("m", (A, B), 1.0)
    assert proxy.queue.in_flight == {"a": 2, "b": 2}


def test_f42_replicas_that_come_and_go_every_100_ms_get_nothing_once_they_are_gone():
    proxy = Proxy(A, B, slots=2)
    open_ones: list[Request[Node]] = []
    lost = 0
    for step in range(600):
        now = step / 10
        there = (A, B) if step % 2 else (B,)
        proxy.machine.endpoints_changed("m", there, now)
        if len(open_ones) > 2:
            proxy.end(open_ones.pop(0), now)
        request = proxy.begin(now)
        if request.endpoint is None:
            assert request.state == "waiting"
            lost += request.state == "ended"
        else:
            assert request.endpoint in there
        open_ones.append(request)
    for number in range(20):
        for request in [r for r in open_ones if r.state == "running"]:
            proxy.end(request, 61.0 + number)
    assert (lost, proxy.queue.open, proxy.queue.depth) == (0, 0, 0)


C, D = Node("c"), Node("d")


def test_a_replica_that_is_out_stays_out_when_others_come_and_go():
    proxy = Proxy(A, B, C)
    assert [proxy.ask(0.0, bad="a") for _ in range(5)] == ["a"] * 5
    refused = proxy.begin(1.0)
    assert refused.endpoint == B
    proxy.machine.request_refused(refused, 1.0)
    proxy.machine.endpoints_changed("m", (A, B, C, D), 2.0)
    assert (proxy.queue.out, sorted(proxy.queue.available)) == ({"a": 10.0, "b": 6.0}, ["c", "d"])
    proxy.machine.endpoints_changed("m", (A, B, D), 3.0)
    assert (proxy.queue.out, sorted(proxy.queue.available)) == ({"b": 6.0}, ["a", "d"])
    assert proxy.queue.streaks == {"a": 5}


class Addressed(NamedTuple):
    name: str
    host: str


@pytest.mark.parametrize(
    "after",
    [
        pytest.param([(Addressed("a", "10.0.0.9"), Addressed("b", "10.0.0.2"))], id="another one of its name"),
        pytest.param(
            [(Addressed("b", "10.0.0.2"),), (Addressed("a", "10.0.0.1"), Addressed("b", "10.0.0.2"))],
            id="it was not ready in between",
        ),
    ],
)
def test_a_replica_that_has_changed_is_not_out_any_more(after: list[tuple[Addressed, ...]]):
    a, b = Addressed("a", "10.0.0.1"), Addressed("b", "10.0.0.2")
    machine: Activation[Addressed] = Activation(least_loaded, Limits())
    machine.model_changed("m", ModelFacts(phase="Ready", slots=4), 0.0)
    machine.endpoints_changed("m", (a, b), 0.0)
    queue = machine.queue("m")
    assert queue is not None
    request = Request(queue)
    machine.request_arrived(request, 1.0)
    machine.request_refused(request, 1.0)
    assert queue.out == {"a": 6.0}
    for endpoints in after:
        machine.endpoints_changed("m", endpoints, 2.0)
    assert (queue.out, sorted(queue.available)) == ({}, ["a", "b"])


@pytest.mark.parametrize(
    ("out", "replicas", "in_rotation", "back"),
    [
        pytest.param({"a": 10.0}, 2, 1, [], id="half of them stay"),
        pytest.param({"a": 10.0}, 1, 0, ["a"], id="the last one"),
        pytest.param({"a": 20.0, "b": 10.0}, 3, 1, ["b"], id="one of three is too few, the next one due comes back"),
        pytest.param({"a": 20.0, "b": 10.0}, 2, 0, ["b"], id="one of two is enough"),
        pytest.param({}, 3, 0, [], id="all ports are closed"),
    ],
)
def test_who_is_called_back_when_others_leave(out, replicas, in_rotation, back):
    assert outliers.called_back(out, replicas, in_rotation) == back
