"""Replicas whose ports are closed while they are still said to be ready: who tries them again, and when."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.support.onemodel import A, B, Proxy

from flexinfer.lifecycle.activation import Limits


def proxy_with_a_closed_port(requests: int) -> Proxy:
    """All of them wait since 1 s for the only replica, that is tried at 6 s."""
    proxy = Proxy(Limits(shun_s=5.0), slots=4)
    proxy.ready(A, now=0.0)
    for number in range(1, requests + 1):
        proxy.arrive(number, 0.0)
    for number in range(1, requests + 1):
        proxy.refused(number, 1.0)
    return proxy


def test_one_that_waits_tries_a_replica_whose_port_was_closed_and_the_others_follow_when_it_is_answered():
    proxy = proxy_with_a_closed_port(requests=3)
    assert proxy.tick(6.0) == ["dispatch 1 a"]
    assert proxy.arrive(4, 6.05) == []
    assert proxy.began(1, 6.1) == ["activation ready after 5.1", "dispatch 2 a", "dispatch 3 a", "dispatch 4 a"]


def test_an_answer_that_takes_long_to_begin_holds_nobody_up():
    proxy = proxy_with_a_closed_port(requests=3)
    proxy.tick(6.0)
    assert proxy.machine.wake_at == 6.5
    assert proxy.tick(6.5) == ["activation ready after 5.5", "dispatch 2 a", "dispatch 3 a"]


@pytest.mark.parametrize(
    "end",
    [
        pytest.param(lambda proxy: proxy.refused(1, 6.1), id="the port is still closed"),
        pytest.param(lambda proxy: proxy.done(1, 6.1), id="its client left, or the way there failed"),
    ],
)
def test_what_was_no_success_is_tried_again_by_the_next_one_only_and_later(end: Callable[[Proxy], list[str]]):
    proxy = proxy_with_a_closed_port(requests=3)
    proxy.tick(6.0)
    assert end(proxy) == []
    assert proxy.tick(11.0) == []
    assert proxy.tick(11.1) == ["dispatch 2 a"]


def test_f39_while_all_ports_stay_closed_each_replica_sees_one_request_every_time_it_is_tried():
    proxy = Proxy(Limits(shun_s=5.0), slots=64, cold_start_timeout_s=1000.0)
    proxy.ready(A, B, now=0.0)
    sent = [line for number in range(60) for line in proxy.arrive(number, 0.0)]
    sent += [line for number in range(60) for line in proxy.refused(number, 0.1)]
    for tenth in range(1, 300):
        lines = proxy.tick(tenth / 10)
        tried = [int(line.split()[1]) for line in lines if line.startswith("dispatch")]
        assert len(tried) <= 2
        sent += lines
        sent += [line for number in tried for line in proxy.refused(number, tenth / 10)]
    assert len([line for line in sent if line.startswith("dispatch")]) <= 72


def test_a_replica_that_nobody_waits_for_is_simply_back_when_its_time_is_over():
    proxy = Proxy(Limits(shun_s=5.0), slots=4)
    proxy.ready(A, B, now=0.0)
    proxy.arrive(1, 0.0)
    assert proxy.refused(1, 1.0) == ["dispatch 1 b"]
    assert (proxy.tick(6.0), sorted(proxy.queue.available), proxy.queue.out) == ([], ["a", "b"], {})
