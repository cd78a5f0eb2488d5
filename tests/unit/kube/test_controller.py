from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
from tests.support.manual_timers import settle

from flexinfer.api.meta import ObjectKey
from flexinfer.errors import Conflict
from flexinfer.kube.controller import Controller, Result


@pytest.fixture
def start(clock, timers):
    """A running controller around a reconcile function; it is stopped when the block ends."""

    @asynccontextmanager
    async def running(reconcile, workers=2, **options):
        controller = Controller(
            "test",
            reconcile,
            workers,
            clock=clock,
            rand=random.Random(1),
            base_s=1.0,
            cap_s=60.0,
            call_later=timers.call_later,
            **options,
        )
        task = asyncio.create_task(controller.run())
        try:
            yield controller
        finally:
            controller.stop()
            await task

    return running


def key(name) -> ObjectKey:
    return ObjectKey("default", str(name))


async def test_reconciles_every_key_once(start):
    seen = []

    async def reconcile(one):
        seen.append(one)
        return Result()

    async with start(reconcile) as controller:
        for name in ("a", "b", "a"):
            controller.enqueue(key(name))
        await settle()
    assert seen == [key("a"), key("b")]


async def test_comes_back_when_the_result_says_so(start, timers, clock):
    seen = []

    async def reconcile(_one):
        seen.append(clock.monotonic())
        return Result(requeue_after_s=30 if len(seen) < 3 else None)

    async with start(reconcile) as controller:
        controller.enqueue(key("a"))
        await timers.advance(200)
    assert seen == [0, 30, 60]


async def test_one_key_is_never_reconciled_twice_at_a_time(start):
    running: Counter[ObjectKey] = Counter()
    most: Counter[ObjectKey] = Counter()
    release = asyncio.Event()

    async def reconcile(one):
        running[one] += 1
        most[one] = max(most[one], running[one])
        await release.wait()
        running[one] -= 1
        return Result()

    async with start(reconcile, workers=4) as controller:
        for _ in range(5):
            controller.enqueue(key("a"))
            controller.enqueue(key("b"))
            await settle()
        assert running == {key("a"): 1, key("b"): 1}
        release.set()
        await settle()
    assert most == {key("a"): 1, key("b"): 1}


async def test_a_failing_key_backs_off_and_starts_afresh_after_a_success(start, timers, clock, logged):
    attempts = []

    async def reconcile(_one):
        attempts.append(clock.monotonic())
        if len(attempts) in {1, 2, 3}:
            raise ValueError("not yet")
        return Result()

    async with start(reconcile) as controller:
        controller.enqueue(key("a"))
        await timers.advance(0)
        assert controller.failures(key("a")) == 1
        await timers.advance(30)
        assert controller.failures(key("a")) == 0
    gaps = [later - earlier for earlier, later in pairwise(attempts)]
    assert [0.5 * whole <= gap <= whole for gap, whole in zip(gaps, (1, 2, 4), strict=True)] == [True] * 3
    assert [(entry["event"], entry["object"]) for entry in logged] == [("reconcile failed", "default/a")] * 3


async def test_fifty_poison_objects_do_not_slow_the_others(start, timers, clock):
    """F15: the broken ones back off to the cap, the healthy one is reconciled the moment it changes."""
    attempts: Counter[str] = Counter()
    reconciled_at = []

    async def reconcile(one):
        attempts[one.name] += 1
        if one.name.startswith("poison"):
            raise RuntimeError("poison")
        reconciled_at.append(clock.monotonic())
        return Result()

    changes = [float(second) for second in range(0, 600, 30)]
    async with start(reconcile) as controller:
        for number in range(50):
            controller.enqueue(key(f"poison-{number}"))
        for _ in changes:
            controller.enqueue(key("healthy"))
            await settle()
            await timers.advance(30)
    assert reconciled_at == changes
    poison = [count for name, count in attempts.items() if name != "healthy"]
    # Ten minutes: 1+2+4+…+32 s, then once every 30 to 60 s.
    assert len(poison) == 50
    assert max(poison) <= 27


async def test_results_are_told_to_whoever_counts_them(start, clock):
    told = []

    async def reconcile(one):
        clock.advance(2)
        if one.name == "bad":
            raise Conflict("somebody was faster")
        return Result()

    async with start(reconcile, on_result=lambda *what: told.append(what)) as controller:
        controller.enqueue(key("good"))
        controller.enqueue(key("bad"))
        await settle()
    assert [(one.name, took_s, type(error)) for one, took_s, error in told] == [
        ("good", 2, type(None)),
        ("bad", 2, Conflict),
    ]


async def test_stop_waits_for_what_is_in_flight(start):
    finished = []
    release = asyncio.Event()

    async def reconcile(one):
        await release.wait()
        finished.append(one)
        return Result()

    async with start(reconcile, workers=1) as controller:
        controller.enqueue(key("a"))
        controller.enqueue(key("b"))
        await settle()
        controller.stop()
        await settle()
        assert finished == []
        release.set()
    assert finished == [key("a")]


async def test_a_reconcile_whose_own_task_was_cancelled_costs_no_worker(start, timers):
    attempts = []

    async def reconcile(_one):
        attempts.append(1)
        if len(attempts) == 1:
            inner = asyncio.create_task(asyncio.Event().wait())
            await asyncio.sleep(0)
            inner.cancel()
            await inner
        return Result()

    async with start(reconcile, workers=1) as controller:
        controller.enqueue(key("a"))
        await timers.advance(5)
    assert len(attempts) == 2


async def test_cancelling_run_cancels_what_is_in_flight(clock):
    started = asyncio.Event()
    cancelled = []

    async def reconcile(one):
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(one)
            raise
        return Result()

    controller = Controller("test", reconcile, clock=clock)
    task = asyncio.create_task(controller.run())
    controller.on_change(key("a"), None, "new")
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cancelled == [key("a")]
