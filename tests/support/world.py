"""Manager and proxy on one memory store, in one process and in virtual time; nothing of ours is replaced.

Only the place where engines run is simulated (`tests.support.simulated_place`). A test moves the clock,
calls models as a client does, and may kill the manager after any of its writes.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from tests.manual_clock import ManualClock
from tests.support.background import beside
from tests.support.manual_timers import ManualTimers, settle
from tests.support.models import manifest
from tests.support.simulated_place import Instance, SimulatedPlace

from flexinfer.api import codec
from flexinfer.api.meta import ObjectKey
from flexinfer.api.v1alpha2.model import Model
from flexinfer.controllers.model import ModelReconciler
from flexinfer.errors import NotFound, RequestError
from flexinfer.kube.controller import Controller
from flexinfer.kube.informer import Informer
from flexinfer.kube.memory import MemoryStore
from flexinfer.kube.store import ENDPOINT_SLICES, MODELS, Object, Resource
from flexinfer.lifecycle.phases import TRANSITIONS
from flexinfer.metrics.proxy import ProxyMetrics
from flexinfer.proxy.activator import Activator, QueueTicket
from flexinfer.proxy.endpoints import EndpointSlice, decode_slice
from flexinfer.routing.base import Endpoint

STEPS = 100
"""More than the longest chain: write, watch, reconcile, slice, watch, dispatch."""
PROXY = "flexinfer-proxy"
TEST = "test"


class Killed(BaseException):
    """The manager is gone, at once."""


class DeadlyStore(MemoryStore):
    """Counts what the manager writes; after the write with the number `deadly` it is killed."""

    def __init__(self, clock: ManualClock, deadly: int | None) -> None:
        super().__init__(clock, rand=random.Random(0))
        self.writes: list[str] = []
        self._deadly = deadly

    async def patch(self, resource: Resource, *args: Any, **kwargs: Any) -> Object:
        done = await super().patch(resource, *args, **kwargs)
        if kwargs.get("field_manager") not in (PROXY, TEST):
            self._count(f"patch {resource.plural}/{kwargs.get('subresource') or 'metadata'}")
        return done

    async def apply(self, resource: Resource, *args: Any, **kwargs: Any) -> Object:
        done = await super().apply(resource, *args, **kwargs)
        self._count(f"apply {resource.plural}")
        return done

    async def delete(self, resource: Resource, *args: Any, **kwargs: Any) -> None:
        await super().delete(resource, *args, **kwargs)
        if resource != MODELS:
            self._count(f"delete {resource.plural}")

    def _count(self, what: str) -> None:
        self.writes.append(what)
        if len(self.writes) == self._deadly:
            raise Killed


class Call:
    """One request of a client: waits, is sent to a replica, or is refused. Never two of these."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.endpoint: Endpoint | None = None
        self.error: RequestError | None = None
        self.instance: Instance | None = None
        try:
            self.ticket: QueueTicket | None = world.activator.admit(world.activator.resolve(name), self)
        except RequestError as error:
            self.ticket, self.error = None, error
            return
        if self.ticket.endpoint is not None:
            self.dispatch(self.ticket.endpoint)

    @property
    def waits(self) -> bool:
        return self.endpoint is None and self.error is None

    def dispatch(self, endpoint: Endpoint) -> None:
        """A closed port is met and reported, as the proxy does."""
        assert self.waits
        assert self.ticket is not None
        instances = self.world.place.instances(self.name)
        found = [one for one in instances if one.port == endpoint.port and one.state == "ready"]
        if not found:
            assert self.ticket.refused("conn_refused", lambda: True), "met a closed port twice"
            return
        self.endpoint, self.instance = endpoint, found[0]

    def reject(self, error: RequestError) -> None:
        assert self.waits
        self.error = error

    def answered(self) -> None:
        """The answer is complete; the engine must have been there all the time."""
        assert self.ticket is not None
        assert self.instance is not None, "it never reached a replica"
        assert self.instance.state == "ready", "cut while it was answered"
        self.ticket.release("success", output_tokens=1, streamed=False)


class World:
    def __init__(self, deadly: int | None = None) -> None:
        self.clock = ManualClock()
        self.timers = ManualTimers(self.clock, STEPS)
        self.store = DeadlyStore(self.clock, deadly)
        self.models: Informer[Model] = self._informer(MODELS, codec.from_object)
        self.slices: Informer[EndpointSlice] = self._informer(ENDPOINT_SLICES, decode_slice)
        self.place = SimulatedPlace(self.store, self.clock, self.timers, lambda key: self.controller.enqueue(key))
        self.activator = Activator(
            self.store,
            self.models,
            self.slices,
            ProxyMetrics(self.clock),
            self.clock,
            call_later=self.timers.call_later,
        )  # fmt: skip
        self.place.usage = lambda name: self.activator.usage(name)
        self.told: list[str] = []
        """Phases and Ready reasons of the Model `m`, as watches told them."""
        self.wrong_turns: list[tuple[str | None, str | None]] = []
        """Changes of phase that `lifecycle.phases` does not have."""
        self.reconciles = 0
        self.deaths = 0
        self.controller = self._new_controller()
        self._alive: asyncio.Task[None] | None = None

    def _informer(self, resource: Resource, decode: Any) -> Informer[Any]:
        return Informer(self.store, resource, decode, clock=self.clock, sleep=self.timers.sleep)

    def _new_controller(self) -> Controller:
        """A manager as it starts: it remembers nothing."""
        reconciler = ModelReconciler(self.store, self.models, self.place, self.clock)
        return Controller(
            "model",
            reconciler.reconcile,
            clock=self.clock,
            rand=random.Random(0),
            call_later=self.timers.call_later,
            on_result=self._reconciled,
        )

    def _reconciled(self, _key: ObjectKey, _took_s: float, error: Exception | None) -> None:
        self.reconciles += 1
        assert error is None, error

    def _changed(self, key: ObjectKey, old: Model | None, new: Model | None) -> None:
        if old is not None and new is not None and old.metadata.uid == new.metadata.uid:
            before, after = old.status.phase, new.status.phase
            if after != before and (after is None or after not in TRANSITIONS[before]):
                self.wrong_turns.append((before, after))
        if key.name == "m" and new is not None:
            ready = new.condition("Ready")
            told = "ScalingDown" if ready is not None and ready.reason == "ScalingDown" else new.status.phase or "new"
            if not self.told or self.told[-1] != told:
                self.told.append(told)
        self.controller.on_change(key, old, new)

    async def manage(self) -> None:
        """The manager, started again whenever it was killed."""
        while True:
            self._alive = asyncio.create_task(self.controller.run())
            try:
                await asyncio.wait({self._alive})
            finally:
                self._alive.cancel()
                await asyncio.gather(self._alive, return_exceptions=True)
            failed = None if self._alive.cancelled() else self._alive.exception()
            if isinstance(failed, BaseExceptionGroup):
                failed = failed.split(Killed)[1]
            if failed is not None:
                raise failed
            self.deaths += 1
            self.controller = self._new_controller()
            for key, _model in self.models.items():  # noqa: PERF102
                self.controller.enqueue(key)

    async def restart_manager(self) -> None:
        """Killed wherever it is, and started again."""
        assert self._alive is not None
        self._alive.cancel()
        await settle(STEPS)

    # -- what a test does

    async def create(self, name: str = "m", **spec: Any) -> None:
        await self.store.create(MODELS, manifest(name, **spec))
        await settle(STEPS)

    async def change(self, name: str = "m", **spec: Any) -> None:
        await self.store.patch(MODELS, ObjectKey("default", name), {"spec": spec}, field_manager=TEST)
        await settle(STEPS)

    async def delete(self, name: str = "m") -> None:
        await self.store.delete(MODELS, ObjectKey("default", name))
        await settle(STEPS)

    async def advance(self, seconds: float) -> None:
        await self.timers.advance(seconds)

    async def call(self, name: str = "m") -> Call:
        call = Call(self, name)
        await settle(STEPS)
        return call

    async def model(self, name: str = "m") -> Model | None:
        try:
            return codec.from_object(await self.store.get(MODELS, ObjectKey("default", name)))
        except NotFound:
            return None

    async def status(self, name: str = "m") -> dict[str, Any]:
        status: dict[str, Any] = (await self.store.get(MODELS, ObjectKey("default", name)))["status"]
        return status

    async def reason(self, condition: str = "Ready", name: str = "m") -> str:
        model = await self.model(name)
        found = model.condition(condition) if model else None
        return found.reason if found else ""

    async def addresses(self) -> list[tuple[int, bool]]:
        """Port and readiness of everything that clients could be sent to."""
        items = (await self.store.list(ENDPOINT_SLICES)).items
        return [(item["ports"][0]["port"], item["endpoints"][0]["conditions"]["ready"]) for item in items]


@asynccontextmanager
async def living(world: World) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        for work in (world.models.run(), world.slices.run()):
            await stack.enter_async_context(beside(work))
        await world.models.wait_synced()
        await world.slices.wait_synced()
        for work in (world.activator.run(), world.manage()):
            await stack.enter_async_context(beside(work))
        await world.activator.started.wait()
        world.models.add_handler(world._changed)
        await settle(STEPS)
        yield world
        assert world.wrong_turns == []
