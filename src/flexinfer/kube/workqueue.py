"""Deduplicating delay queue: which key is worked on next.

A key is in flight at most once. One that is added while in flight comes again when it is done; added
any number of times before that, it comes once. A key that waits for a delay has one timer, the earliest
asked for; back-off doubles per key from `base_s` to `cap_s`, with jitter, until `forget`.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections import deque
from collections.abc import Callable, Hashable
from typing import Generic, Protocol, TypeVar

from flexinfer.clock import Clock

K = TypeVar("K", bound=Hashable)


class TimerHandle(Protocol):
    def cancel(self) -> None: ...


CallLater = Callable[[float, Callable[[], None]], TimerHandle]
"""`asyncio.AbstractEventLoop.call_later`, or what a test puts in its place."""


class QueueState(Generic[K]):
    """The queue without a loop: every method that needs the time is told it."""

    def __init__(self, *, base_s: float, cap_s: float, rand: random.Random) -> None:
        self._base_s = base_s
        self._cap_s = cap_s
        self._rand = rand
        self._ready: deque[K] = deque()
        self._dirty: set[K] = set()
        self._in_flight: set[K] = set()
        self._due: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._pushed = 0
        self._failures: dict[K, int] = {}

    def __len__(self) -> int:
        """Keys that are ready to be worked on, those that wait for their own work to end included."""
        return len(self._dirty)

    def failures(self, key: K) -> int:
        return self._failures.get(key, 0)

    def add(self, key: K) -> None:
        if key in self._dirty:
            return
        self._dirty.add(key)
        if key not in self._in_flight:
            self._ready.append(key)

    def add_after(self, key: K, delay_s: float, now: float) -> None:
        if delay_s <= 0:
            self.add(key)
            return
        due = now + delay_s
        if due < self._due.get(key, float("inf")):
            self._due[key] = due
            self._pushed += 1
            heapq.heappush(self._heap, (due, self._pushed, key))

    def add_backed_off(self, key: K, now: float) -> float:
        """Add the key after its next back-off; returns the delay: half of it fixed, half random."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        whole = min(self._cap_s, self._base_s * 2.0 ** min(failures, 64))
        delay_s = whole * (0.5 + 0.5 * self._rand.random())
        self.add_after(key, delay_s, now)
        return delay_s

    def forget(self, key: K) -> None:
        """The key did well: its next back-off begins at the base again."""
        self._failures.pop(key, None)

    def take(self, now: float) -> K | None:
        """The next key, which is in flight from here until `done`; None when there is none yet."""
        while self._heap and self._heap[0][0] <= now:
            due, _, key = heapq.heappop(self._heap)
            if self._due.get(key) == due:
                del self._due[key]
                self.add(key)
        if not self._ready:
            return None
        key = self._ready.popleft()
        self._dirty.discard(key)
        self._in_flight.add(key)
        return key

    def done(self, key: K) -> None:
        self._in_flight.discard(key)
        if key in self._dirty:
            self._ready.append(key)

    def next_due(self) -> float | None:
        """When the next delayed key becomes ready."""
        while self._heap and self._due.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None


class WorkQueue(Generic[K]):
    """QueueState with a clock, for any number of workers on one event loop."""

    def __init__(
        self,
        clock: Clock,
        *,
        base_s: float = 0.2,
        cap_s: float = 60.0,
        rand: random.Random | None = None,
        call_later: CallLater | None = None,
    ) -> None:
        self._clock = clock
        self._state: QueueState[K] = QueueState(base_s=base_s, cap_s=cap_s, rand=rand or random.Random())
        self._call_later = call_later
        self._wake = asyncio.Event()
        self._timer: TimerHandle | None = None
        self._timer_due = float("inf")
        self._closed = False

    def __len__(self) -> int:
        return len(self._state)

    def failures(self, key: K) -> int:
        return self._state.failures(key)

    def add(self, key: K) -> None:
        self._state.add(key)
        self._wake.set()

    def add_after(self, key: K, delay_s: float) -> None:
        self._state.add_after(key, delay_s, self._clock.monotonic())
        self._wake.set()

    def add_backed_off(self, key: K) -> float:
        delay_s = self._state.add_backed_off(key, self._clock.monotonic())
        self._wake.set()
        return delay_s

    def forget(self, key: K) -> None:
        self._state.forget(key)

    def done(self, key: K) -> None:
        self._state.done(key)
        self._wake.set()

    def close(self) -> None:
        """Nothing more is handed out; every `get` returns None."""
        self._closed = True
        self._set_timer(None)
        self._wake.set()

    async def get(self) -> K | None:
        """The next key, in flight until `done(key)`; None once the queue is closed."""
        while not self._closed:
            key = self._state.take(self._clock.monotonic())
            self._set_timer(self._state.next_due())
            if key is not None:
                return key
            self._wake.clear()
            await self._wake.wait()
        return None

    def _set_timer(self, due: float | None) -> None:
        if due == (self._timer_due if self._timer else None):
            return
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if due is not None:
            call_later = self._call_later or asyncio.get_running_loop().call_later
            self._timer_due = due
            self._timer = call_later(max(0.0, due - self._clock.monotonic()), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._wake.set()
