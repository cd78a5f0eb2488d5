"""The places that the Workloads suite holds to the protocol, each with what a test may see of it from outside."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Protocol

import aiohttp
from tests.manual_clock import ManualClock
from tests.support.manual_timers import ManualTimers, settle
from tests.support.models import manifest
from tests.support.processes import live
from tests.support.simulated_place import SimulatedPlace

from flexinfer.api import codec
from flexinfer.api.meta import ObjectKey
from flexinfer.api.v1alpha2.model import Model
from flexinfer.clock import SystemClock
from flexinfer.kube.memory import MemoryStore
from flexinfer.kube.store import ENDPOINT_SLICES, MODELS, Object, Resource
from flexinfer.lifecycle.decide import Decision
from flexinfer.lifecycle.observed import Failure, Observed, Replica, Usage
from flexinfer.lifecycle.workloads import Workloads
from flexinfer.local.artifacts import Places
from flexinfer.local.ports import Ports
from flexinfer.local.process import Keeper
from flexinfer.local.replica import Machine
from flexinfer.local.state import State
from flexinfer.local.workloads import LocalWorkloads, Options
from flexinfer.placement.nodefacts import NodeFacts

KEY = ObjectKey("default", "m")


class WatchedStore(MemoryStore):
    """`on_withdrawal` is called when a slice has been deleted."""

    on_withdrawal: Callable[[], None] = staticmethod(lambda: None)
    writes = 0

    async def apply(self, *args: Any, **kwargs: Any) -> Object:
        self.writes += 1
        return await super().apply(*args, **kwargs)

    async def delete(self, resource: Resource, *args: Any, **kwargs: Any) -> None:
        await super().delete(resource, *args, **kwargs)
        self.writes += 1
        self.on_withdrawal()


class Place(Protocol):
    """A further place (a cluster) is one more of these."""

    workloads: Workloads
    store: WatchedStore
    told: list[ObjectKey]

    def running(self) -> int:
        """Engines that have not ended."""
        ...

    def end(self, replica: Replica) -> None:
        """The engine ends by itself."""
        ...

    def leftovers(self) -> list[str]:
        """What is still kept of the model."""
        ...

    async def wait(self) -> None:
        """A little time."""
        ...


class Simulated:
    def __init__(self) -> None:
        clock = ManualClock()
        self.timers = ManualTimers(clock)
        self.store = WatchedStore(clock)
        self.told: list[ObjectKey] = []
        self.workloads = self.place = SimulatedPlace(self.store, clock, self.timers, self.told.append)

    def running(self) -> int:
        return sum(instance.running for instance in self.place.instances())

    def end(self, replica: Replica) -> None:
        next(one for one in self.place.instances() if one.observed().name == replica.name).end(1)

    def leftovers(self) -> list[str]:
        return ["m"] if self.place.knows("m") else []

    async def wait(self) -> None:
        await self.timers.advance(0.1)


class Local:
    """Real processes, started by a real keeper."""

    def __init__(self, machine: Machine, folder: Path) -> None:
        self.state = machine.state
        self.store = WatchedStore(machine.clock)
        self.told: list[ObjectKey] = []
        self.pids: set[int] = set()
        self.usage = Usage()
        self.workloads = LocalWorkloads(
            machine,
            self.store,
            lambda: NodeFacts(cores=2, memory_mib=4096),
            Options(places=Places(models_dir=folder), usage=lambda _name: self.usage),
            self.told.append,
        )

    def running(self) -> int:
        self.pids |= {engine.pid for engine in self.workloads.engines() if engine.pid}
        return len(live(list(self.pids)))

    def end(self, replica: Replica) -> None:
        assert replica.pid is not None
        self.running()
        os.kill(replica.pid, signal.SIGKILL)

    def leftovers(self) -> list[str]:
        return [str(entry) for part in ("logs", "engines") for entry in (self.state.root / part).iterdir()]

    async def wait(self) -> None:
        self.running()
        await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def local(folder: Path) -> AsyncIterator[Local]:
    state = State(folder / "state")
    state.prepare()
    keeper = Keeper(state.mark)
    keeping = asyncio.create_task(keeper.run())
    try:
        async with aiohttp.ClientSession() as session:
            machine = Machine(
                keeper=keeper, state=state, ports=Ports(), session=session, clock=SystemClock(), env=dict(os.environ)
            )
            place = Local(machine, folder / "models")
            yield place
            await place.workloads.stop()
    finally:
        keeping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await keeping


class Subject:
    """A place with the Model `m` in its store, and the shortest way to ask something of it."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.store = place.store
        self.workloads = place.workloads
        self._model: Model | None = None

    @property
    def model(self) -> Model:
        assert self._model is not None, "create it first"
        return self._model

    async def create(self, **config: Any) -> None:
        self._model = codec.from_object(await self.store.create(MODELS, manifest("m", config=config)))

    async def change(self, **config: Any) -> None:
        self._model = codec.from_object(await self.store.patch(MODELS, KEY, {"spec": {"config": config}}))

    async def converge(
        self, replicas: int, *, serving: bool = True, failure: Failure | None = None, replace: tuple[str, ...] = ()
    ) -> None:
        decision = Decision(
            replicas=replicas, serving=serving, phase="Ready", tier="hot", message="", conditions=(),
            failure=failure, replace=replace,
        )  # fmt: skip
        await self.workloads.converge(self.model, decision)

    async def observe(self) -> Observed:
        return await self.workloads.observe(self.model)

    async def until(self, condition: Callable[[Observed], bool], limit_s: float = 15.0) -> Observed:
        deadline = asyncio.get_running_loop().time() + limit_s
        while not condition(observed := await self.observe()):
            assert asyncio.get_running_loop().time() < deadline, f"it did not come true: {observed}"
            await self.place.wait()
        return observed

    async def ready(self, replicas: int) -> tuple[Replica, ...]:
        """Converged: so many run, are ready and are offered to clients."""
        await self.converge(replicas)
        states = ["ready"] * replicas
        observed = await self.until(lambda observed: [replica.state for replica in observed.replicas] == states)
        await self.converge(replicas)
        return observed.replicas

    async def offered(self) -> dict[str, bool]:
        """Addresses in EndpointSlices, and whether clients may be sent there."""
        await settle()
        return {
            f"{endpoint['addresses'][0]}:{item['ports'][0]['port']}": endpoint["conditions"]["ready"]
            for item in (await self.store.list(ENDPOINT_SLICES)).items
            for endpoint in item["endpoints"]
        }
