"""When a proxy reports the use of a Model: at once to wake it, else now and then, and not what others have said."""

from __future__ import annotations

import itertools

import pytest
from tests.support.onemodel import A, Proxy


def warm(idle_timeout_s: float) -> Proxy:
    proxy = Proxy(idle_timeout_s=idle_timeout_s, phase="Ready", slots=100)
    proxy.ready(A, now=0.0)
    return proxy


def touches(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith("touch")]


@pytest.mark.parametrize(
    ("idle_timeout_s", "every_s"),
    [
        pytest.param(300.0, 30.0, id="every 30 s"),
        pytest.param(900.0, 30.0, id="no less often where a model may idle for long"),
        pytest.param(30.0, 10.0, id="three times an idle window that is short"),
    ],
)
def test_while_a_request_is_open(idle_timeout_s: float, every_s: float):
    proxy = warm(idle_timeout_s)
    assert proxy.arrive(1, 1.0) == ["dispatch 1 a", "touch 1"]
    for beat in range(1, 5):
        due = 1.0 + beat * every_s
        assert proxy.machine.wake_at == due
        assert proxy.tick(due - 0.5) == []
        assert proxy.tick(due) == [f"touch {due:g}"]


@pytest.mark.parametrize(
    ("idle_timeout_s", "every_s"),
    [
        pytest.param(300.0, 60.0, id="every minute"),
        pytest.param(30.0, 10.0, id="three times an idle window that is short"),
    ],
)
def test_with_short_requests_all_the_time(idle_timeout_s: float, every_s: float):
    proxy = warm(idle_timeout_s)
    said: list[float] = []
    for number in range(1, 1000):
        now = number * 0.5
        lines = [*proxy.tick(now), *proxy.arrive(number, now), *proxy.done(number, now + 0.1)]
        said += [now for _ in touches(lines)]
    gaps = {later - earlier for earlier, later in itertools.pairwise(said)}
    assert gaps == {every_s}


def test_the_end_of_use_is_told_once_its_time_has_come():
    proxy = warm(300.0)
    proxy.arrive(1, 1.0)
    proxy.done(1, 9.0)
    assert proxy.machine.wake_at == 31.0
    assert proxy.tick(31.0) == []
    assert proxy.machine.wake_at == 61.0
    assert proxy.tick(61.0) == ["touch 9"]
    assert proxy.tick(300.0) == []


def test_to_wake_a_model_it_is_reported_at_once_whoever_said_what_before():
    proxy = Proxy(reported_age_s=0.0)
    assert proxy.arrive(1, 1.0) == ["activate"]


def test_what_another_proxy_has_reported_is_not_said_again_so_soon():
    proxy = warm(300.0)
    proxy.change(10.0, idle_timeout_s=300.0, phase="Ready", slots=100, reported_age_s=2.0)
    assert proxy.arrive(1, 11.0) == ["dispatch 1 a"], "somebody said so at 8"
    assert proxy.tick(37.9) == []
    assert proxy.tick(38.0) == ["touch 38"], "30 s after that, since it is still open"


def test_an_older_report_of_another_proxy_changes_nothing():
    proxy = warm(300.0)
    proxy.arrive(1, 1.0)
    proxy.change(20.0, idle_timeout_s=300.0, phase="Ready", slots=100, reported_age_s=50.0)
    assert proxy.tick(31.0) == ["touch 31"]


def test_a_use_that_could_not_be_written_is_written_again_soon():
    proxy = warm(300.0)
    proxy.arrive(1, 1.0)
    proxy.machine.use_unwritten(proxy.queue, 1.5)
    assert proxy.machine.wake_at == 4.5
    assert proxy.tick(4.5) == ["touch 4.5"]
