"""Kubernetes Events: what happened to an object, told once and counted from then on.

The first time is written at once; each repeat is only counted, and the count is written in a series whose
pauses double from `_FIRST_PAUSE_S` to `_LONGEST_PAUSE_S`. An object that has ever new things to say for one
reason is held back by an allowance, so that a loop which reports at every turn costs a few writes an hour.
Events are told, not kept: what cannot be written is dropped, and the work goes on.
"""

from __future__ import annotations

import asyncio
import heapq
import random
import secrets
from collections import OrderedDict
from datetime import datetime
from typing import Final, NamedTuple

from flexinfer import logs
from flexinfer.api.meta import ObjectKey
from flexinfer.clock import Clock, SystemClock
from flexinfer.errors import AlreadyExists, NotFound, NotLeading, StoreError
from flexinfer.kube.deadline import sleeper, within
from flexinfer.kube.store import EVENTS, Object, ObjectStore
from flexinfer.kube.wiretime import micro_time
from flexinfer.kube.workqueue import CallLater

log = logs.get("events")

_NOTE_BYTES: Final = 1024
_WORD_LENGTH: Final = 128
_FIRST_PAUSE_S: Final = 10.0
_LONGEST_PAUSE_S: Final = 300.0
_FORGET_AFTER_S: Final = 600.0
_BURST: Final = 5
_REFILL_S: Final = 300.0
_MOST_SERIES: Final = 4096
_MOST_WAITING: Final = 1024
_TRIES: Final = 4
_CALL_LIMIT_S: Final = 10.0


class Happening(NamedTuple):
    """One thing that happened; two that are equal are one series."""

    about: tuple[str, str, str, str, str]
    """apiVersion, kind, namespace, name and uid of the object."""
    warning: bool
    reason: str
    """For a program: one word, `LikeThis`."""
    action: str
    """What was being done, in the same way."""
    note: str

    @property
    def uid(self) -> str:
        return self.about[4]


class Write(NamedTuple):
    """What has to reach the API: a new Event (`times` is 1), or the new count of one that is there."""

    name: str
    happening: Happening
    times: int
    first_at: datetime
    last_at: datetime


class _Series:
    def __init__(self, name: str, at: datetime, now: float) -> None:
        self.name = name
        self.first_at = self.last_at = at
        self.count = self.written = 1
        self.last_heard = now
        self.pause_s = _FIRST_PAUSE_S
        self.due: float | None = None


class _Allowance:
    """New Events that one object may still cause for one reason: a bucket that fills slowly."""

    def __init__(self, now: float) -> None:
        self._tokens = float(_BURST)
        self._at = now

    def take(self, now: float) -> bool:
        self._tokens = min(float(_BURST), self._tokens + (now - self._at) / _REFILL_S)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class EventBook:
    """What was told about which object, and what of it has to be written now."""

    def __init__(self) -> None:
        self._series: OrderedDict[Happening, _Series] = OrderedDict()
        self._allowances: OrderedDict[tuple[str, str], _Allowance] = OrderedDict()
        self._due: list[tuple[float, int, Happening]] = []
        self._pushed = 0
        self.held_back = 0
        """Happenings that no Event tells of, because their object had used up its allowance."""

    def note(self, happening: Happening, at: datetime, now: float) -> Write | None:
        """Count `happening`; returns the new Event that tells of it, if there has to be one."""
        series = self._series.get(happening)
        if series is None or now - series.last_heard > _FORGET_AFTER_S:
            return self._begin(happening, at, now)
        self._series.move_to_end(happening)
        series.count += 1
        series.last_at = at
        series.last_heard = now
        if series.due is None:
            series.due = now + series.pause_s
            self._pushed += 1
            heapq.heappush(self._due, (series.due, self._pushed, happening))
        return None

    def _begin(self, happening: Happening, at: datetime, now: float) -> Write | None:
        subject = (happening.uid, happening.reason)
        allowance = self._allowances.setdefault(subject, _Allowance(now))
        self._allowances.move_to_end(subject)
        if len(self._allowances) > _MOST_SERIES:
            self._allowances.popitem(last=False)
        if not allowance.take(now):
            self.held_back += 1
            return None
        series = _Series(_event_name(happening), at, now)
        self._series[happening] = series
        self._series.move_to_end(happening)
        if len(self._series) > _MOST_SERIES:
            self._series.popitem(last=False)
        return Write(series.name, happening, 1, at, at)

    def due(self, now: float) -> list[Write]:
        """The counts that have to be written by now."""
        writes = []
        while self._due and self._due[0][0] <= now:
            due, _, happening = heapq.heappop(self._due)
            series = self._series.get(happening)
            if series is None or series.due != due:
                continue
            series.due = None
            series.written = series.count
            series.pause_s = min(_LONGEST_PAUSE_S, series.pause_s * 2)
            writes.append(Write(series.name, happening, series.count, series.first_at, series.last_at))
        return writes

    def next_due(self) -> float | None:
        return self._due[0][0] if self._due else None

    def unwritten(self) -> list[Write]:
        """The counts that are not written yet, for the end of the process."""
        writes = []
        for happening, series in self._series.items():
            if series.count > series.written:
                series.written = series.count
                writes.append(Write(series.name, happening, series.count, series.first_at, series.last_at))
        return writes

    def forget(self, happening: Happening) -> None:
        """Its Event is gone (they expire after an hour): tell it anew."""
        self._series.pop(happening, None)


class EventRecorder:
    """Writes Events in the background; recording one never waits and never fails."""

    def __init__(
        self,
        store: ObjectStore,
        controller: str,
        instance: str,
        *,
        clock: Clock | None = None,
        call_later: CallLater | None = None,
        rand: random.Random | None = None,
    ) -> None:
        """`controller` is a name like `flexinfer.ai/manager`, `instance` tells its processes apart."""
        self._store = store
        self._controller = controller
        self._instance = _bounded(instance, _WORD_LENGTH)
        self._clock = clock or SystemClock()
        self._call_later = call_later
        self._sleep = sleeper(call_later)
        self._rand = rand or random.Random()
        self._book = EventBook()
        self._waiting: OrderedDict[tuple[str, bool], Write] = OrderedDict()
        self._wake = asyncio.Event()
        self.dropped = 0
        """Events that could not be written, or not in time."""

    @property
    def held_back(self) -> int:
        return self._book.held_back

    def record(self, obj: Object, reason: str, note: str, *, warning: bool = False, action: str = "Reconcile") -> None:
        """`obj` needs `apiVersion`, `kind` and `metadata`; a note is one line and cut after 1,024 bytes."""
        meta = obj["metadata"]
        about = (obj["apiVersion"], obj["kind"], meta.get("namespace") or "", meta["name"], meta.get("uid") or "")
        happening = Happening(
            about, warning, _bounded(reason, _WORD_LENGTH), _bounded(action, _WORD_LENGTH), _bounded(note, _NOTE_BYTES)
        )
        if write := self._book.note(happening, self._clock.now(), self._clock.monotonic()):
            self._enqueue(write)
        # A repeat may have set a timer that is due before the others.
        self._wake.set()

    def _enqueue(self, write: Write) -> None:
        """A newer count of an Event takes the place of one that still waits; creating it stays in front."""
        self._waiting[(write.name, write.times == 1)] = write
        if len(self._waiting) > _MOST_WAITING:
            self._waiting.popitem(last=False)
            self.dropped += 1

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            self._wake.clear()
            for write in self._book.due(self._clock.monotonic()):
                self._enqueue(write)
            while self._waiting:
                _, write = self._waiting.popitem(last=False)
                await self._deliver(write)
            await self._rest()

    async def flush(self) -> None:
        """Write what is still to be told; for the end of the process, after `run` was cancelled."""
        for write in [*self._waiting.values(), *self._book.unwritten()]:
            await self._try(write)
        self._waiting.clear()

    async def _rest(self) -> None:
        """Until something is recorded, or a count is due."""
        due = self._book.next_due()
        if due is None:
            await self._wake.wait()
            return
        try:
            await within(max(0.0, due - self._clock.monotonic()), self._wake.wait(), self._call_later)
        except TimeoutError:
            return

    async def _deliver(self, write: Write) -> None:
        for tried in range(_TRIES):
            if await self._try(write):
                return
            if tried < _TRIES - 1:
                await self._sleep(2.0**tried * self._rand.uniform(0.5, 1.0))
        self.dropped += 1

    async def _try(self, write: Write) -> bool:
        """Whether nothing is left to be done about `write`."""
        try:
            await within(_CALL_LIMIT_S, self._send(write), self._call_later)
        except AlreadyExists:
            return True  # Its name is of it alone: the answer to an earlier try was lost.
        except NotFound:
            self._book.forget(write.happening)
        except NotLeading:
            self.dropped += 1
        except (OSError, StoreError) as error:
            told = {"object": "/".join(write.happening.about[1:4]), "reason": write.happening.reason}
            if isinstance(error, StoreError) and error.status < 500 and error.status != 429:
                # A namespace that ends takes no new Events; a right that is missing stays missing.
                log.warning("event refused", **told, error=str(error))
                self.dropped += 1
                return True
            log.debug("event not written yet", **told, error=repr(error))
            return False
        return True

    async def _send(self, write: Write) -> None:
        namespace = write.happening.about[2] or "default"
        if write.times == 1:
            await self._store.create(EVENTS, self._event(write, namespace))
            return
        series = {"count": write.times, "lastObservedTime": micro_time(write.last_at)}
        await self._store.patch(EVENTS, ObjectKey(namespace, write.name), {"series": series})

    def _event(self, write: Write, namespace: str) -> Object:
        happening = write.happening
        api_version, kind, object_namespace, name, uid = happening.about
        regarding = {"apiVersion": api_version, "kind": kind, "name": name, "namespace": object_namespace, "uid": uid}
        return {
            "metadata": {"name": write.name, "namespace": namespace},
            "eventTime": micro_time(write.first_at),
            "type": "Warning" if happening.warning else "Normal",
            "reason": happening.reason,
            "action": happening.action,
            "note": happening.note,
            "regarding": {field: value for field, value in regarding.items() if value},
            "reportingController": self._controller,
            "reportingInstance": self._instance,
        }


def _event_name(happening: Happening) -> str:
    return f"{happening.about[3][:230].rstrip('.-')}.{secrets.token_hex(8)}"


def _bounded(text: str, limit: int) -> str:
    """One line of at most `limit` bytes."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    encoded = line.encode(errors="replace")
    if len(encoded) <= limit:
        return encoded.decode()
    return encoded[: limit - 3].decode(errors="ignore") + "…"
