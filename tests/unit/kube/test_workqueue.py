from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.support.manual_timers import settle

from flexinfer.kube.workqueue import QueueState, WorkQueue


class AlwaysHalf(random.Random):
    """Jitter of nothing: `0.5 + 0.5 * random()` is one."""

    def random(self) -> float:
        return 1.0


def state() -> QueueState[str]:
    return QueueState(base_s=1.0, cap_s=60.0, rand=AlwaysHalf())


def taken(queue: QueueState[str], now: float) -> list[str]:
    found = []
    while (key := queue.take(now)) is not None:
        found.append(key)
    return found


def test_keys_come_once_in_the_order_they_were_added():
    queue = state()
    for key in ("a", "b", "a", "c", "b"):
        queue.add(key)
    assert taken(queue, 0) == ["a", "b", "c"]


def test_a_key_added_while_in_flight_comes_when_it_is_done():
    queue = state()
    queue.add("a")
    assert queue.take(0) == "a"
    queue.add("a")
    queue.add("a")
    assert taken(queue, 0) == []
    queue.done("a")
    assert taken(queue, 0) == ["a"]
    queue.done("a")
    assert taken(queue, 0) == []


def test_a_delayed_key_comes_at_the_earliest_time_asked_for():
    queue = state()
    queue.add_after("a", 10, now=0)
    queue.add_after("a", 5, now=1)
    queue.add_after("a", 20, now=2)
    assert queue.next_due() == 6
    assert taken(queue, 5.9) == []
    assert taken(queue, 6) == ["a"]
    assert queue.next_due() is None


def test_a_delay_of_nothing_is_now():
    queue = state()
    queue.add_after("a", 0, now=0)
    assert taken(queue, 0) == ["a"]


def test_back_off_doubles_per_key_up_to_the_cap_until_forgotten():
    queue = state()
    assert [queue.add_backed_off("a", 0) for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert queue.add_backed_off("b", 0) == 1
    assert queue.failures("a") == 8
    queue.forget("a")
    assert queue.failures("a") == 0
    assert queue.add_backed_off("a", 0) == 1


def test_back_off_has_jitter_of_half():
    queue: QueueState[str] = QueueState(base_s=8, cap_s=8, rand=random.Random(7))
    delays = [queue.add_backed_off("a", 0) for _ in range(200)]
    assert 4 <= min(delays) < 4.2
    assert 7.8 < max(delays) <= 8


def test_back_off_of_a_key_that_fails_for_ever_stays_finite():
    queue = state()
    assert {queue.add_backed_off("a", 0) for _ in range(3000)} == {1, 2, 4, 8, 16, 32, 60}


class QueueMachine(RuleBasedStateMachine):
    """Against a model: which keys somebody still expects, and when the earliest delay ends."""

    keys = st.sampled_from("abc")

    def __init__(self) -> None:
        super().__init__()
        self.queue = QueueState[str](base_s=1.0, cap_s=8.0, rand=random.Random(1))
        self.now = 0.0
        self.expected: set[str] = set()
        self.delayed: dict[str, float] = {}
        self.in_flight: set[str] = set()

    @rule(key=keys)
    def add(self, key):
        self.queue.add(key)
        self.expected.add(key)

    @rule(key=keys, delay_s=st.integers(0, 5))
    def add_after(self, key, delay_s):
        self.queue.add_after(key, delay_s, self.now)
        self._delay(key, delay_s)

    @rule(key=keys)
    def add_backed_off(self, key):
        self._delay(key, self.queue.add_backed_off(key, self.now))

    def _delay(self, key, delay_s):
        if delay_s <= 0:
            self.expected.add(key)
        else:
            self.delayed[key] = min(self.delayed.get(key, float("inf")), self.now + delay_s)

    @rule(key=keys)
    def forget(self, key):
        self.queue.forget(key)

    @rule(seconds=st.integers(1, 4))
    def pass_time(self, seconds):
        self.now += seconds

    @rule()
    def take(self):
        for key in [key for key, due in self.delayed.items() if due <= self.now]:
            del self.delayed[key]
            self.expected.add(key)
        ready = self.expected - self.in_flight
        key = self.queue.take(self.now)
        if not ready:
            assert key is None
        else:
            assert key in ready
            self.expected.discard(key)
            self.in_flight.add(key)

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data())
    def done(self, data):
        key = data.draw(st.sampled_from(sorted(self.in_flight)))
        self.queue.done(key)
        self.in_flight.discard(key)

    @invariant()
    def the_next_delay_is_known(self):
        assert self.queue.next_due() == min(self.delayed.values(), default=None)

    @invariant()
    def the_depth_is_what_is_expected(self):
        assert len(self.queue) == len(self.expected)

    def teardown(self):
        for key in self.in_flight:
            self.queue.done(key)
        assert sorted(taken(self.queue, float("inf"))) == sorted(self.expected | self.delayed.keys())


TestQueue = QueueMachine.TestCase
TestQueue.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


# The asyncio shell


@pytest.fixture
def queue(clock, timers):
    return WorkQueue[str](clock, base_s=1.0, cap_s=60.0, rand=AlwaysHalf(), call_later=timers.call_later)


async def test_get_waits_for_a_key(queue):
    waiting = asyncio.create_task(queue.get())
    await settle()
    assert not waiting.done()
    queue.add("a")
    assert await waiting == "a"


async def test_one_key_goes_to_one_of_several_workers(queue):
    waiting = [asyncio.create_task(queue.get()) for _ in range(3)]
    await settle()
    queue.add("a")
    await settle()
    assert [task.result() for task in waiting if task.done()] == ["a"]
    queue.close()
    assert sorted(map(str, await asyncio.gather(*waiting))) == ["None", "None", "a"]


async def test_a_delayed_key_wakes_a_worker_at_its_time(queue, timers):
    waiting = asyncio.create_task(queue.get())
    queue.add_after("a", 10)
    queue.add_after("b", 5)
    await timers.advance(4.9)
    assert not waiting.done()
    await timers.advance(0.1)
    assert waiting.result() == "b"


async def test_a_key_added_while_in_flight_wakes_a_worker_when_done(queue):
    queue.add("a")
    assert await queue.get() == "a"
    queue.add("a")
    waiting = asyncio.create_task(queue.get())
    await settle()
    assert not waiting.done()
    queue.done("a")
    assert await waiting == "a"


async def test_close_ends_every_get_and_leaves_no_timer(queue, timers):
    waiting = [asyncio.create_task(queue.get()) for _ in range(2)]
    queue.add_after("a", 10)
    await settle()
    assert timers.pending == [10]
    queue.close()
    assert [await task for task in waiting] == [None, None]
    assert await queue.get() is None
    assert timers.pending == []


async def test_the_timer_of_the_event_loop_is_the_default(clock):
    queue = WorkQueue[str](clock)
    queue.add_after("a", 3600)
    waiting = asyncio.create_task(queue.get())
    await settle()
    queue.close()
    assert await waiting is None
