"""A place that runs models in virtual time: the `Workloads` protocol without processes.

An engine is ready `config.loadSeconds` after its start and ends by itself after `config.exitAfterSeconds`,
with `config.exitCode`, as the simulator backend's do. It writes EndpointSlices as local mode does, and
gives devices and memory away as local mode does: what a model needs is its `gpu.vramEstimateMB`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from datetime import datetime

from tests.manual_clock import ManualClock
from tests.support.manual_timers import ManualTimer, ManualTimers

from flexinfer.api.meta import ObjectKey
from flexinfer.api.v1alpha2.model import Model
from flexinfer.kube.store import ObjectStore
from flexinfer.lifecycle import restarts
from flexinfer.lifecycle.decide import Decision
from flexinfer.lifecycle.observed import Failure, Observed, Replica, ReplicaState, Usage
from flexinfer.local.seats import Pick, Seats, Taken
from flexinfer.local.slices import Address, Slices
from flexinfer.placement import devices
from flexinfer.placement.devices import Choice
from flexinfer.placement.nodefacts import NodeFacts
from flexinfer.placement.room import Held

FIRST_PORT = 9000


class Instance:
    """One engine, started again when it ends by itself, until it gives up."""

    def __init__(self, place: SimulatedPlace, model: Model, index: int) -> None:
        self.place = place
        self.model = model
        self.index = index
        self.port = next(place.ports)
        self.state: ReplicaState = "loading"
        self.started_at = place.clock.now()
        self.ready_at: datetime | None = None
        self.restarts = 0
        self.failure: Failure | None = None
        self._timers: list[ManualTimer] = []
        self._start()

    @property
    def running(self) -> bool:
        return self.failure is None and self.state != "backoff"

    def observed(self) -> Replica:
        return Replica(
            name=f"{self.model.metadata.name}-{self.index}",
            state=self.state,
            started_at=self.started_at,
            substage="LoadingWeights" if self.state == "loading" else "",
            ready_at=self.ready_at,
            restarts=self.restarts,
            pid=self.port if self.running else None,
            address=f"127.0.0.1:{self.port}",
        )

    def _start(self) -> None:
        config = self.model.spec.config
        self.place.starts += 1
        self.state, self.started_at, self.ready_at = "loading", self.place.clock.now(), None
        self._timers = [self.place.timers.call_later(config.get("loadSeconds", 0.0), self._ready)]
        if (lives_s := config.get("exitAfterSeconds")) is not None and not self.place.mended:
            self._timers.append(self.place.timers.call_later(lives_s, lambda: self.end(config.get("exitCode", 1))))

    def _ready(self) -> None:
        self.state, self.ready_at = "ready", self.place.clock.now()
        self.place.notify(self.model.key)

    def end(self, code: int) -> None:
        """The engine ends by itself."""
        ready_for_s = (self.place.clock.now() - self.ready_at).total_seconds() if self.ready_at else 0.0
        self.restarts = restarts.counted(self.restarts, ready_for_s)
        self.cancel()
        pause_s = restarts.backoff_s(self.restarts)
        if pause_s is None:
            when = "after it had been ready" if self.ready_at else "before it was ready"
            message = f"the engine ended {when}: exit code {code}\n  its last line"
            self.failure = Failure(reason="EngineExited", message=message, at=self.place.clock.now())
        else:
            self.restarts += 1
            self.state = "backoff"
            self._timers = [self.place.timers.call_later(pause_s, self._start_again)]
        self.place.notify(self.model.key)

    def _start_again(self) -> None:
        self._start()
        self.place.notify(self.model.key)

    def cancel(self) -> None:
        for timer in self._timers:
            timer.cancel()


class _Spot:
    def __init__(self, store: ObjectStore) -> None:
        self.instances: list[Instance] = []
        self.failure: Failure | None = None
        self.failed_generation = 0
        self.slices = Slices(store)


def _pick(model: Model) -> Pick:
    need_mib = (model.spec.gpu.vram_estimate_mb or 0) if model.spec.gpu else 0

    def pick(facts: NodeFacts, held: Sequence[Held]) -> Choice:
        return devices.choose(model, facts, held, need_mib=need_mib, gpu_engine=False)

    return pick


class SimulatedPlace:
    """`stop_s`: how long an engine takes to end when it is told to. `mended`: engines no longer end by themselves."""

    def __init__(
        self, store: ObjectStore, clock: ManualClock, timers: ManualTimers, notify: Callable[[ObjectKey], None]
    ) -> None:
        self.clock = clock
        self.timers = timers
        self.notify = notify
        self.stop_s = 0.0
        self.usage: Callable[[str], Usage] = lambda _name: Usage()
        self.facts = NodeFacts()
        self.mended = False
        self.starts = 0
        self.stops = 0
        self.ports = itertools.count(FIRST_PORT)
        self.seats = Seats(clock, lambda: self.facts, lambda name: self.usage(name), lambda key: self.notify(key))
        self._store = store
        self._spots: dict[ObjectKey, _Spot] = {}

    def instances(self, name: str = "m") -> list[Instance]:
        spot = self._spots.get(ObjectKey("default", name))
        return list(spot.instances) if spot else []

    def knows(self, name: str) -> bool:
        return ObjectKey("default", name) in self._spots

    async def observe(self, model: Model) -> Observed:
        spot = self._spots.get(model.key) or _Spot(self._store)
        self.seats.saw(model)
        failed = next((instance.failure for instance in spot.instances if instance.failure), None)
        running = [instance for instance in spot.instances if instance.failure is None]
        self.seats.keep(model.key, [instance.index for instance in running])
        choice = self.seats.choose(model, _pick(model))
        fault = None
        if choice.reason and not choice.wait and not running:
            fault = Failure(reason=choice.reason, message=choice.message, at=self.clock.now())
        return Observed(
            replicas=tuple(instance.observed() for instance in running),
            failure=failed or spot.failure or fault,
            failed_generation=model.metadata.generation if failed or fault else spot.failed_generation,
            endpoint="http://127.0.0.1:8080/v1",
            open_requests=self.usage(model.metadata.name).open,
            blocked=None if running else self.seats.blocked(model, choice, _pick(model)),
            yields_to=self.seats.yields_to(model.key),
        )

    async def converge(self, model: Model, decision: Decision) -> None:
        spot = self._spots.setdefault(model.key, _Spot(self._store))
        spot.failure, spot.failed_generation = decision.failure, model.metadata.generation
        self.seats.saw(model)
        if decision.replicas > 0 and decision.serving:
            self.seats.stays(model.key)
        spot.instances = [instance for instance in spot.instances if instance.failure is None]
        if any(one.model.metadata.generation != model.metadata.generation for one in spot.instances):
            await self._shrink(model.key, spot, 0)
        if len(spot.instances) > decision.replicas:
            await self._shrink(model.key, spot, decision.replicas)
        taken = {instance.index for instance in spot.instances}
        free = (number for number in itertools.count() if number not in taken)
        while len(spot.instances) < decision.replicas:
            choice = self.seats.choose(model, _pick(model))
            if choice.reason:
                self.seats.claim(model, _pick(model))
                break
            instance = Instance(self, model, next(free))
            spot.instances.append(instance)
            held = choice.holds(model.metadata.name)
            self.seats.take(model.key, instance.index, Taken(held=held, replica=instance.observed))
        if len(spot.instances) >= decision.replicas:
            self.seats.claim_over(model.key)
        ready = {
            one.index: Address("127.0.0.1", one.port, decision.serving)
            for one in spot.instances
            if one.state == "ready"
        }
        await spot.slices.publish(model, ready)

    async def remove(self, key: ObjectKey) -> None:
        spot = self._spots.get(key)
        if spot is not None:
            await self._shrink(key, spot, 0)
            self.seats.forget(key)
            self._spots.pop(key, None)

    async def _shrink(self, key: ObjectKey, spot: _Spot, left: int) -> None:
        leaving = spot.instances[left:]
        await spot.slices.withdraw(key, [instance.index for instance in leaving] if left else None)
        for instance in leaving:
            instance.cancel()
            instance.state = "stopping"
            self.stops += 1
        if leaving and self.stop_s:
            await self.timers.sleep(self.stop_s)
        spot.instances = spot.instances[:left]
        self.seats.keep(key, [instance.index for instance in spot.instances])
