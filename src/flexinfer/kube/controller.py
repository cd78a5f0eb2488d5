"""The control loop: keys from a work queue, one reconcile at a time per key.

A reconcile looks at the whole state and says when it wants to look again; one that raises is tried
again after the key's own back-off, so that a broken object slows nothing but itself.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from flexinfer import logs
from flexinfer.api.meta import ObjectKey
from flexinfer.clock import Clock, SystemClock
from flexinfer.errors import Conflict
from flexinfer.kube.workqueue import CallLater, WorkQueue

log = logs.get("controller")


class Result(NamedTuple):
    requeue_after_s: float | None = None
    """Reconcile again after so long even if nothing changes."""


Reconcile = Callable[[ObjectKey], Awaitable[Result]]
OnResult = Callable[[ObjectKey, float, Exception | None], None]
"""Told the key, how long the reconcile took in seconds, and what it raised: for metrics and events."""


class Controller:
    def __init__(
        self,
        name: str,
        reconcile: Reconcile,
        workers: int = 4,
        *,
        clock: Clock | None = None,
        rand: random.Random | None = None,
        base_s: float = 0.2,
        cap_s: float = 60.0,
        call_later: CallLater | None = None,
        on_result: OnResult | None = None,
    ) -> None:
        self.name = name
        self._reconcile = reconcile
        self._workers = workers
        self._clock = clock or SystemClock()
        self._queue: WorkQueue[ObjectKey] = WorkQueue(
            self._clock, base_s=base_s, cap_s=cap_s, rand=rand, call_later=call_later
        )
        self._on_result = on_result

    def enqueue(self, key: ObjectKey) -> None:
        self._queue.add(key)

    def on_change(self, key: ObjectKey, _old: Any, _new: Any) -> None:
        """An informer's handler: every change is a reason to look."""
        self._queue.add(key)

    @property
    def depth(self) -> int:
        """Keys that wait for a worker."""
        return len(self._queue)

    def failures(self, key: ObjectKey) -> int:
        """Reconciles of the key that failed in a row."""
        return self._queue.failures(key)

    def stop(self) -> None:
        """`run` returns when the reconciles in flight have ended."""
        self._queue.close()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as workers:
            for number in range(self._workers):
                workers.create_task(self._work(), name=f"{self.name}-{number}")

    async def _work(self) -> None:
        while (key := await self._queue.get()) is not None:
            try:
                await self._once(key)
            finally:
                self._queue.done(key)

    async def _reconcile_guarded(self, key: ObjectKey) -> Result:
        try:
            return await self._reconcile(key)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task and task.cancelling():
                raise
            # Something the reconcile waited for was cancelled, not this worker.
            raise RuntimeError("the reconcile waited for a task that was cancelled") from error

    async def _once(self, key: ObjectKey) -> None:
        started = self._clock.monotonic()
        failure: Exception | None = None
        try:
            result = await self._reconcile_guarded(key)
        # The border of the loop: whatever one object does to its reconcile, the others go on.
        except Exception as error:
            failure = error
            delay_s = self._queue.add_backed_off(key)
            fields = {"controller": self.name, "object": str(key), "retry_in_s": round(delay_s, 3)}
            if isinstance(error, Conflict):
                log.debug("write conflict, reconciling again", **fields)
            else:
                log.warning("reconcile failed", **fields, exc_info=error)
        else:
            self._queue.forget(key)
            if result.requeue_after_s is not None:
                self._queue.add_after(key, result.requeue_after_s)
        if self._on_result:
            self._on_result(key, self._clock.monotonic() - started, failure)
