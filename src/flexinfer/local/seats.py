"""Seats: what the replicas of this machine hold, and who makes room for whom.

A model that is asked for and finds no room makes a claim: those that `lifecycle.eviction` names yield
to it, and what it will hold is promised to it, so that nobody else takes it meanwhile. Each model is
scaled down by its own reconcile, endpoints first; a request that comes for it in time ends the yielding.
Members of a shared GPU group have one seat between them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime

import msgspec

from flexinfer import logs
from flexinfer.api import defaults
from flexinfer.api.meta import ObjectKey
from flexinfer.api.v1alpha2.model import Model
from flexinfer.clock import Clock
from flexinfer.lifecycle import eviction, scaling
from flexinfer.lifecycle.eviction import Eviction, Seat
from flexinfer.lifecycle.observed import Blocked, Replica, Usage
from flexinfer.placement.devices import Choice
from flexinfer.placement.nodefacts import NodeFacts
from flexinfer.placement.room import Held

log = logs.get("local")

Pick = Callable[[NodeFacts, Sequence[Held]], Choice]
"""The devices that a model gets of a machine where others hold these."""
LONG_AGO_S = 1e9
ENDED_KEPT = 100


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """What one replica holds."""

    held: tuple[Held, ...]
    replica: Callable[[], Replica]

    def shown_at(self, at: datetime | None) -> bool:
        """Whether a reading of this time shows its memory as taken. One that loads has had but a part of it."""
        ready_at = self.replica().ready_at
        return at is None or (ready_at is not None and ready_at <= at)


class _Ended(msgspec.Struct, frozen=True, kw_only=True):
    """What a replica has given back."""

    held: tuple[Held, ...]
    ready_at: datetime | None
    at: datetime

    def shown_at(self, at: datetime | None) -> bool:
        return at is not None and self.ready_at is not None and self.ready_at <= at < self.at


class _Yield(msgspec.Struct, frozen=True, kw_only=True):
    to: ObjectKey
    at: datetime


class _Holder:
    def __init__(self, model: Model) -> None:
        self.model = model
        """As it was last seen."""
        self.taken: dict[int, Taken] = {}
        """By index of the replica."""
        self.yields: _Yield | None = None


class Seats:
    """`notify` is called for a model that ought to be looked at again."""

    def __init__(
        self,
        clock: Clock,
        facts: Callable[[], NodeFacts],
        usage: Callable[[str], Usage],
        notify: Callable[[ObjectKey], None],
    ) -> None:
        self._clock = clock
        self._facts = facts
        self._usage = usage
        self._notify = notify
        self._holders: dict[ObjectKey, _Holder] = {}
        self._claims: dict[ObjectKey, tuple[Held, ...] | None] = {}
        """Who waits for room, the first one first, and what is promised to it; None: nothing yet."""
        self._ended: deque[_Ended] = deque(maxlen=ENDED_KEPT)

    def saw(self, model: Model) -> None:
        """The newest version."""
        holder = self._holders.get(model.key)
        if holder is None:
            self._holders[model.key] = _Holder(model)
        else:
            holder.model = model

    def choose(self, model: Model, pick: Pick) -> Choice:
        """What it gets just now."""
        return self._choices(model, pick)(frozenset())

    def blocked(self, model: Model, choice: Choice, pick: Pick) -> Blocked | None:
        """Why it has to wait for what it was refused; None where it has not, or where waiting does not help."""
        if not choice.wait or not choice.reason:
            return None
        return Blocked(reason=choice.reason, message=self._plan(model, pick).message)

    def claim(self, model: Model, pick: Pick) -> None:
        """It is wanted and waits: others make room where they can."""
        self._claims.setdefault(model.key, None)
        found = self._plan(model, pick)
        by_name = {_name(key): key for key in self._holders}
        for name in found.victims:
            key = by_name[name]
            holder = self._holders[key]
            last_active = holder.model.status.last_active_time
            # A proxy may write a use that is a little ahead of its clock.
            holder.yields = _Yield(to=model.key, at=max(self._clock.now(), last_active or self._clock.now()))
            log.info("makes room", model=str(key), wanted=str(model.key), why=found.message)
            self._notify(key)
        gone = frozenset(_name(key) for key in self._holders if self._leaves(key))
        choice = self._choices(model, pick)(gone)
        self._claims[model.key] = None if choice.reason else choice.holds(_name(model.key))

    def claim_over(self, key: ObjectKey) -> None:
        """It has what it wanted, or does not want it any more."""
        if key not in self._claims:
            return
        del self._claims[key]
        self._look_again()
        for other, holder in self._holders.items():
            if holder.yields is not None and holder.yields.to == key and holder.taken:
                self._notify(other)

    def take(self, key: ObjectKey, index: int, taken: Taken) -> None:
        """A replica is started."""
        holder = self._holders[key]
        holder.taken[index] = taken
        holder.yields = None

    def keep(self, key: ObjectKey, indexes: Iterable[int]) -> None:
        """These replicas of it are left; whoever waits looks again when others are gone."""
        holder = self._holders.get(key)
        left = set(indexes)
        if holder is None or holder.taken.keys() <= left:
            return
        for index in holder.taken.keys() - left:
            taken = holder.taken.pop(index)
            self._ended.append(_Ended(held=taken.held, ready_at=taken.replica().ready_at, at=self._clock.now()))
        self._look_again()

    def stays(self, key: ObjectKey) -> None:
        """It was decided that it does not make room."""
        holder = self._holders.get(key)
        if holder is not None and holder.yields is not None and not self.yields_to(key):
            taker, holder.yields = holder.yields.to, None
            self._notify(taker)

    def forget(self, key: ObjectKey) -> None:
        self.claim_over(key)
        self.keep(key, ())
        self._holders.pop(key, None)

    def yields_to(self, key: ObjectKey) -> str:
        """The model that it makes room for, or made room for; empty once it is used again."""
        holder = self._holders.get(key)
        if holder is None or holder.yields is None or self._usage(key.name).busy:
            return ""
        last_active = holder.model.status.last_active_time
        if last_active is not None and last_active > holder.yields.at:
            return ""
        if holder.taken and (_pinned(holder.model) or holder.yields.to not in self._claims):
            return ""
        return _name(holder.yields.to)

    # -- inside

    def _choices(self, model: Model, pick: Pick) -> Callable[[frozenset[str]], Choice]:
        """What it would get, by who is gone. One look at the machine serves them all."""
        node, group = self._facts(), _group(model)

        def choice(gone: frozenset[str]) -> Choice:
            members = self._members(group) if group is not None else ()
            member = next((key for key in members if key != model.key and _name(key) not in gone), None)
            if group is not None and member is not None:
                message = f"the shared group {group[1]} runs one model, and {_name(member)} has its place"
                return Choice(reason="Preempted", message=message, wait=True)
            return pick(_with(node, self._given_back(gone)), list(self._held(model.key, gone, node)))

        return choice

    def _given_back(self, gone: frozenset[str]) -> Iterator[_Ended]:
        """Since the last readings, in truth or in thought."""
        yield from self._ended
        for key, holder in self._holders.items():
            if _name(key) in gone:
                for taken in holder.taken.values():
                    yield _Ended(held=taken.held, ready_at=taken.replica().ready_at, at=self._clock.now())

    def _held(self, asking: ObjectKey, gone: frozenset[str], node: NodeFacts) -> Iterator[Held]:
        for key, holder in self._holders.items():
            if _name(key) in gone:
                continue
            for taken in holder.taken.values():
                for one in taken.held:
                    shown = taken.shown_at(_read_at(node, one))
                    yield one if shown else msgspec.structs.replace(one, used_mib=0)
        for key, promised in self._claims.items():
            if key != asking:
                yield from (msgspec.structs.replace(one, used_mib=0) for one in promised or ())

    def _members(self, group: tuple[str, str]) -> Iterator[ObjectKey]:
        """Who has the place of a group, or a promise of it."""
        for key, holder in self._holders.items():
            if _group(holder.model) == group and (holder.taken or self._claims.get(key) is not None):
                yield key

    def _plan(self, model: Model, pick: Pick) -> Eviction:
        choices = self._choices(model, pick)

        def lacks(gone: frozenset[str]) -> str:
            choice = choices(gone)
            return choice.message if choice.reason else ""

        seats = [self._seat(key, holder) for key, holder in self._holders.items() if holder.taken and key != model.key]
        return eviction.plan(seats, lacks)

    def _seat(self, key: ObjectKey, holder: _Holder) -> Seat:
        usage, last_active = self._usage(key.name), holder.model.status.last_active_time
        since_s = (self._clock.now() - last_active).total_seconds() if last_active is not None else LONG_AGO_S
        return Seat(
            name=_name(key),
            idle_s=min(usage.idle_s, max(0.0, since_s)),
            busy=self._busy(holder, usage),
            leaving=self._leaves(key),
        )

    def _busy(self, holder: _Holder, usage: Usage) -> str:
        if usage.busy:
            return "is busy"
        if _pinned(holder.model):
            return "is kept running"
        return "" if all(taken.replica().state == "ready" for taken in holder.taken.values()) else "is loading"

    def _leaves(self, key: ObjectKey) -> bool:
        holder = self._holders[key]
        if not holder.taken:
            return False
        if all(taken.replica().state == "stopping" for taken in holder.taken.values()):
            # One that changed comes back at once if it is in use.
            return holder.yields is not None or not (_pinned(holder.model) or self._usage(key.name).busy)
        return bool(self.yields_to(key))

    def _look_again(self) -> None:
        for key in self._claims:
            self._notify(key)


def _read_at(node: NodeFacts, held: Held) -> datetime | None:
    for device in node.devices:
        if (device.vendor, device.index) == (held.vendor, held.index) and not device.unified:
            reading = node.reading(device)
            return reading.at if reading is not None else None
    return node.at


def _with(node: NodeFacts, ended: Iterable[_Ended]) -> NodeFacts:
    """The readings as they would be by now, with what has been given back since."""
    readings, free = list(node.readings), node.memory_free_mib
    own_memory = {(device.vendor, device.index) for device in node.devices if not device.unified}
    for one in ended:
        for held in one.held:
            if (held.vendor, held.index) not in own_memory:
                free = free + held.mib if free is not None and one.shown_at(node.at) else free
                continue
            for place, reading in enumerate(readings):
                if (reading.vendor, reading.index) != (held.vendor, held.index) or not one.shown_at(reading.at):
                    continue
                # Of one that had a device whole it is not known how much that was.
                more = reading.free_mib + held.mib if reading.free_mib is not None and held.mib else None
                readings[place] = msgspec.structs.replace(reading, free_mib=more)
    return msgspec.structs.replace(node, readings=tuple(readings), memory_free_mib=free)


def _name(key: ObjectKey) -> str:
    return key.name if key.namespace == "default" else str(key)


def _group(model: Model) -> tuple[str, str] | None:
    gpu = model.spec.gpu
    return (model.key.namespace, gpu.shared) if gpu is not None and gpu.shared else None


def _pinned(model: Model) -> bool:
    return scaling.pinned(defaults.resolve(model.spec))
