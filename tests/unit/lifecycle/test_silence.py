"""The silence rule: which requests that timed out count, and what several proxies know together."""

from __future__ import annotations

import pytest
from tests.support.onemodel import A, B, Proxy

from flexinfer.lifecycle.silence import Silence, merged


def told(proxy: Proxy) -> dict[str, tuple[float, ...]]:
    return {name: silence.sent_at for name, silence in proxy.queue.silences().items()}


def time_out(proxy: Proxy, number: int, now: float) -> None:
    proxy.machine.timed_out(proxy.requests[number], now)
    proxy.machine.failed(proxy.requests[number], now)
    proxy.done(number, now)


def succeed(proxy: Proxy, number: int, now: float) -> None:
    proxy.machine.succeeded(proxy.requests[number], now)
    proxy.done(number, now)


def hanging() -> Proxy:
    proxy = Proxy(slots=8)
    proxy.ready(A, now=0.0)
    for number in (1, 2, 3, 4):
        proxy.arrive(number, float(number))
    return proxy


def test_three_requests_that_time_out_in_a_row_say_that_the_replica_hangs():
    proxy = hanging()
    time_out(proxy, 1, 11.0)
    time_out(proxy, 2, 12.0)
    assert not proxy.queue.silences()["a"].hangs
    time_out(proxy, 3, 13.0)
    assert proxy.queue.silences() == {"a": Silence(None, (1.0, 2.0, 3.0))}
    assert proxy.queue.silences()["a"].hangs
    time_out(proxy, 4, 14.0)
    assert told(proxy) == {"a": (2.0, 3.0, 4.0)}


def test_a_success_in_between_begins_the_count_anew():
    proxy = hanging()
    time_out(proxy, 1, 11.0)
    time_out(proxy, 2, 12.0)
    succeed(proxy, 3, 12.5)
    assert proxy.queue.silences() == {"a": Silence(12.5, ())}


def test_a_request_that_was_sent_before_a_success_does_not_count():
    """The replica has answered others meanwhile: it is stuck with this one, if at all."""
    proxy = hanging()
    succeed(proxy, 4, 5.0)
    for number in (1, 2, 3):
        time_out(proxy, number, 10.0 + number)
    assert proxy.queue.silences() == {"a": Silence(5.0, ())}


def test_each_replica_has_its_own_count_and_it_goes_with_the_replica():
    proxy = Proxy(slots=8)
    proxy.ready(A, B, now=0.0)
    for number in (1, 2, 3):
        proxy.arrive(number, float(number))
    for number in (1, 2, 3):
        time_out(proxy, number, 10.0)
    assert told(proxy) == {"a": (1.0, 3.0), "b": (2.0,)}
    proxy.ready(B, now=11.0)
    assert told(proxy) == {"b": (2.0,)}


def test_what_was_open_when_a_replica_went_does_not_count_for_another_of_its_name():
    proxy = hanging()
    proxy.ready(now=5.0)
    time_out(proxy, 1, 11.0)
    assert proxy.queue.silences() == {}


def test_other_failures_neither_count_nor_clear():
    proxy = hanging()
    time_out(proxy, 1, 11.0)
    proxy.machine.failed(proxy.requests[2], 11.5)
    proxy.done(2, 11.5)
    assert told(proxy) == {"a": (1.0,)}


def test_who_comes_when_the_only_replica_hangs_waits_for_the_next_one():
    proxy = hanging()
    for number in (1, 2, 3):
        time_out(proxy, number, 11.0)
    assert proxy.arrive(5, 11.001) == ["activate"]
    assert proxy.ready(now=11.002) == []
    assert proxy.ready(B, now=14.0) == ["activation ready after 2.999", "dispatch 5 b"]


def test_where_no_other_one_comes_it_is_tried_again():
    proxy = hanging()
    for number in (1, 2, 3):
        time_out(proxy, number, 11.0)
    proxy.arrive(5, 11.001)
    proxy.arrive(6, 11.002)
    assert proxy.tick(16.0) == ["dispatch 5 a"]
    assert "dispatch 6 a" in proxy.tick(16.5)


@pytest.mark.parametrize(
    ("one", "other", "together"),
    [
        pytest.param(Silence(None, (1.0,)), Silence(None, (2.0,)), Silence(None, (1.0, 2.0)), id="both count"),
        pytest.param(Silence(None, (1.0, 3.0)), Silence(2.0, ()), Silence(2.0, (3.0,)), id="a success clears"),
        pytest.param(Silence(4.0, (5.0,)), Silence(2.0, (3.0, 6.0)), Silence(4.0, (5.0, 6.0)), id="the later success"),
        pytest.param(
            Silence(None, (1.0, 4.0, 5.0)),
            Silence(None, (2.0, 3.0)),
            Silence(None, (3.0, 4.0, 5.0)),
            id="the last ones",
        ),
    ],
)
def test_what_two_proxies_know_together(one, other, together):
    assert merged([{"a": one, "b": one}, {"a": other}]) == {"a": together, "b": one}
    assert merged([{"a": other}, {"a": one}]) == {"a": together}
