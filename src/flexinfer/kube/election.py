"""Leader election on a Lease: at most one of several processes writes, and one that stops is soon replaced.

Who leads renews the Lease and may write until `renew_deadline_s` after it *sent* the last renewal that
succeeded. The others watch the Lease and claim it when it has stood unchanged for its duration by their
own clock, which is later than that by at least `lease_s - renew_deadline_s`: nobody's wall clock matters.
Every claim and renewal has the version it stands on as a precondition.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple

from flexinfer import logs
from flexinfer.api.meta import ObjectKey
from flexinfer.clock import Clock, SystemClock
from flexinfer.errors import AlreadyExists, Conflict, LeaseLost, NotFound, StoreError
from flexinfer.kube.deadline import sleeper, within
from flexinfer.kube.informer import Informer
from flexinfer.kube.store import LEASES, Object, ObjectStore, Selection
from flexinfer.kube.wiretime import micro_time
from flexinfer.kube.workqueue import CallLater

log = logs.get("election")

_RELEASE_LIMIT_S: Final = 2.0
# A Lease that somebody wrote by hand without a duration must not be claimed from under them at once.
_UNSTATED_LEASE_S: Final = 15


class BootClock(SystemClock):
    """A clock that goes on while the machine is suspended: what it slept through has passed."""

    def monotonic(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)


class Timing(NamedTuple):
    lease_s: int = 15
    """How long a silent holder is left in peace; others may use other values, each Lease states its own."""
    renew_deadline_s: float = 10.0
    """How long the leader may write after its last renewal."""
    retry_s: float = 2.0


class Seen(NamedTuple):
    """A Lease as it was last seen."""

    holder: str
    """Empty where it was released."""
    lease_s: float
    transitions: int
    version: str
    """Empty where it was deleted: its holder is left in peace all the same."""
    at: float
    """When this version was first seen."""


class Step(NamedTuple):
    kind: Literal["wait", "read", "create", "claim", "renew", "lost"]
    limit_s: float
    """How long to wait at most, or how long the call may take."""


class Candidate:
    """What to do next, given what was seen; every method that needs the time is told it."""

    def __init__(self, identity: str, timing: Timing) -> None:
        self.identity = identity
        self._timing = timing
        self.seen: Seen | None = None
        self._renewed_at: float | None = None
        self._not_before = 0.0
        self._must_read = True

    def left_s(self, now: float) -> float:
        """How long it may still write; 0 when it does not lead."""
        if self._renewed_at is None:
            return 0.0
        return max(0.0, self._renewed_at + self._timing.renew_deadline_s - now)

    def next_step(self, now: float) -> Step:
        return self._as_leader(now) if self._renewed_at is not None else self._as_follower(now)

    def _as_leader(self, now: float) -> Step:
        left_s = self.left_s(now)
        if left_s <= 0 or self.seen is None or self.seen.holder != self.identity:
            return Step("lost", 0.0)
        if now < self._not_before:
            return Step("wait", min(left_s, self._not_before - now))
        # One call that hangs must leave time for another.
        limit_s = min(left_s, max(left_s / 2, self._timing.retry_s))
        if self._must_read:
            return Step("read", limit_s)
        return Step("renew" if self.seen.version else "create", limit_s)

    def _as_follower(self, now: float) -> Step:
        claimable_at = self._not_before
        if self.seen and self.seen.holder not in {"", self.identity}:
            claimable_at = max(claimable_at, self.seen.at + self.seen.lease_s)
        if self._must_read:
            claimable_at = self._not_before
        if now < claimable_at:
            return Step("wait", claimable_at - now)
        limit_s = self._timing.renew_deadline_s / 2
        if self._must_read:
            return Step("read", limit_s)
        return Step("claim" if self.seen and self.seen.version else "create", limit_s)

    def saw(self, lease: Object, now: float) -> None:
        version = lease["metadata"]["resourceVersion"]
        self._must_read = False
        if self.seen and self.seen.version == version:
            return
        spec = lease.get("spec") or {}
        self.seen = Seen(
            spec.get("holderIdentity") or "",
            float(spec.get("leaseDurationSeconds") or _UNSTATED_LEASE_S),
            int(spec.get("leaseTransitions") or 0),
            version,
            now,
        )

    def absent(self) -> None:
        """There is no Lease; if there was one, its holder may still believe in it."""
        self._must_read = False
        if self.seen:
            self.seen = self.seen._replace(version="")

    def wrote(self, lease: Object, sent_at: float, now: float) -> None:
        """A claim or renewal that was sent at `sent_at` succeeded."""
        self.saw(lease, now)
        self._renewed_at = sent_at
        self._not_before = sent_at + self._timing.retry_s

    def contested(self) -> None:
        """A write met another version than it stood on: somebody else's, or our own whose answer was lost."""
        self._must_read = True

    def failed(self, now: float, wait_s: float) -> None:
        """Nobody knows what became of the call."""
        self._must_read = True
        self._not_before = now + wait_s

    def step_down(self) -> None:
        self._renewed_at = None
        self._must_read = True
        self._not_before = 0.0

    def lease_body(self, key: ObjectKey, wall_time: datetime, kind: str) -> Object:
        """What "create", "claim" and "renew" write."""
        stamp = micro_time(wall_time)
        meta: Object = {"name": key.name, "namespace": key.namespace}
        if kind != "create" and self.seen:
            meta = {"resourceVersion": self.seen.version}
        if kind == "renew":
            return {"metadata": meta, "spec": {"renewTime": stamp}}
        spec: Object = {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": self._timing.lease_s,
            "renewTime": stamp,
        }
        if self.seen is None or self.seen.holder != self.identity:
            spec["acquireTime"] = stamp
            spec["leaseTransitions"] = self.seen.transitions + 1 if self.seen else 0
        return {"metadata": meta, "spec": spec}


class Election:
    def __init__(
        self,
        store: ObjectStore,
        key: ObjectKey,
        identity: str,
        *,
        timing: Timing | None = None,
        clock: Clock | None = None,
        call_later: CallLater | None = None,
        rand: random.Random | None = None,
    ) -> None:
        """`identity` is of this process alone, not of its machine or its pod's name."""
        self._store = store
        self._key = key
        self._timing = timing or Timing()
        self._clock = clock or BootClock()
        self._call_later = call_later
        self._rand = rand or random.Random()
        self._candidate = Candidate(identity, self._timing)
        self._changed = asyncio.Event()
        self.under_way: set[asyncio.Future[Any]] = set()
        """Writes of this process that have no answer yet."""

    def left_s(self) -> float:
        """How long this process may still write; 0 when it does not lead."""
        return self._candidate.left_s(self._clock.monotonic())

    async def run(self, lead: Callable[[], Awaitable[None]]) -> None:
        """Wait for the lead, then run `lead`; release the Lease when that returns, raises or is cancelled.

        Raises LeaseLost, after `lead` has been cancelled and has ended, when renewing did not succeed in time.
        """
        await self._acquire()
        log.info("leading", lease=str(self._key), identity=self._candidate.identity)
        leading = asyncio.ensure_future(lead())
        renewing = asyncio.ensure_future(self._renew())
        try:
            await asyncio.wait({leading, renewing}, return_when=asyncio.FIRST_COMPLETED)
            lost = not leading.done()
        finally:
            # It may still have to write while it ends: the Lease is kept until then.
            await _ended(leading)
            await _ended(renewing)
            await self._release()
        if lost:
            log.warning("lost the lead", lease=str(self._key), identity=self._candidate.identity)
            raise LeaseLost(f"{self._key}: not renewed within {self._timing.renew_deadline_s:g} s")
        leading.result()

    async def _acquire(self) -> None:
        leases: Informer[Object] = Informer(
            self._store,
            LEASES,
            lambda lease: lease,
            Selection(self._key.namespace, fields={"metadata.name": self._key.name}),
            rand=self._rand,
            clock=self._clock,
            sleep=sleeper(self._call_later),
        )
        leases.add_handler(self._on_change)
        watching = asyncio.ensure_future(leases.run())
        try:
            while not self.left_s():
                await self._take(self._candidate.next_step(self._clock.monotonic()))
        finally:
            await _ended(watching)

    async def _renew(self) -> None:
        """Returns when the lead is lost."""
        while (step := self._candidate.next_step(self._clock.monotonic())).kind != "lost":
            await self._take(step)

    def _on_change(self, _key: ObjectKey, _old: Object | None, lease: Object | None) -> None:
        if lease is None:
            self._candidate.absent()
        else:
            self._candidate.saw(lease, self._clock.monotonic())
        self._changed.set()

    async def _take(self, step: Step) -> None:
        if step.kind == "wait":
            await self._wait(step.limit_s)
            return
        if step.kind == "lost":
            self._candidate.step_down()
            return
        sent_at = self._clock.monotonic()
        try:
            lease = await within(step.limit_s, self._call(step.kind), self._call_later)
        except NotFound:
            self._candidate.absent()
        except (Conflict, AlreadyExists):
            self._candidate.contested()
        except (OSError, StoreError) as error:
            waited_s = self._clock.monotonic() - sent_at
            pause_s = self._timing.retry_s * self._rand.uniform(0.75, 1.0)
            log.warning("lease call failed", lease=str(self._key), call=step.kind, error=repr(error))
            self._candidate.failed(self._clock.monotonic(), max(0.0, pause_s - waited_s))
        else:
            now = self._clock.monotonic()
            if step.kind == "read":
                self._candidate.saw(lease, now)
            else:
                self._candidate.wrote(lease, sent_at, now)

    async def _call(self, kind: str) -> Object:
        if kind == "read":
            return await self._store.get(LEASES, self._key)
        body = self._candidate.lease_body(self._key, self._clock.now(), kind)
        if kind == "create":
            return await self._store.create(LEASES, body)
        return await self._store.patch(LEASES, self._key, body)

    async def _wait(self, limit_s: float) -> None:
        self._changed.clear()
        try:
            await within(limit_s, self._changed.wait(), self._call_later)
        except TimeoutError:
            return

    async def _release(self) -> None:
        """Others need not wait for the end of a lease that its holder gives back."""
        limit_s, seen = min(self.left_s(), _RELEASE_LIMIT_S), self._candidate.seen
        self._candidate.step_down()
        if not limit_s or seen is None:
            return
        if self.under_way:
            with suppress(TimeoutError):
                await within(limit_s, asyncio.wait(set(self.under_way)), self._call_later)
        if self.under_way:
            log.warning("lease not released, a write is under way; it will lapse", lease=str(self._key))
            return
        body = {
            "metadata": {"resourceVersion": seen.version},
            "spec": {"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": micro_time(self._clock.now())},
        }
        try:
            await within(limit_s, self._store.patch(LEASES, self._key, body), self._call_later)
        except (OSError, StoreError) as error:
            log.warning("lease not released, it will lapse", lease=str(self._key), error=repr(error))
        else:
            log.info("released the lead", lease=str(self._key), identity=self._candidate.identity)


async def _ended(task: asyncio.Future[Any]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
