"""Timers that fire when a test moves the manual clock past them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tests.manual_clock import ManualClock

from flexinfer.kube.deadline import sleeper


class ManualTimer:
    def __init__(self, due: float, callback: Callable[[], None]) -> None:
        self.due = due
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class ManualTimers:
    def __init__(self, clock: ManualClock, steps: int = 20) -> None:
        """`steps` is how far things run between two timers: the longest chain of callbacks in the test."""
        self._clock = clock
        self._steps = steps
        self._timers: list[ManualTimer] = []

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> ManualTimer:
        timer = ManualTimer(self._clock.monotonic() + delay_s, callback)
        self._timers.append(timer)
        return timer

    async def sleep(self, delay_s: float) -> None:
        await sleeper(self.call_later)(delay_s)

    @property
    def pending(self) -> list[float]:
        """When the timers that are set would fire."""
        return sorted(timer.due for timer in self._timers if not timer.cancelled)

    async def advance(self, seconds: float) -> None:
        """Move the clock; each timer fires at its time, and what it wakes runs before the next."""
        end = self._clock.monotonic() + seconds
        await settle(self._steps)
        while due := [timer for timer in self._timers if not timer.cancelled and timer.due <= end]:
            timer = min(due, key=lambda timer: timer.due)
            self._timers.remove(timer)
            self._clock.advance(max(0.0, timer.due - self._clock.monotonic()))
            timer.callback()
            await settle(self._steps)
        self._timers = [timer for timer in self._timers if not timer.cancelled]
        self._clock.advance(end - self._clock.monotonic())


async def settle(steps: int = 20) -> None:
    """Let everything run that can run without time passing."""
    for _ in range(steps):
        await asyncio.sleep(0)
