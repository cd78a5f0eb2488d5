"""The slices that lead the Service of a sleeping Model to the proxies, on the memory store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from tests.manual_clock import ManualClock
from tests.support.background import beside
from tests.support.manual_timers import settle
from tests.support.models import manifest

from flexinfer.api import codec
from flexinfer.api.meta import ObjectKey
from flexinfer.controllers import wake
from flexinfer.controllers.wake import WakeReconciler
from flexinfer.kube.controller import Controller
from flexinfer.kube.informer import Informer
from flexinfer.kube.memory import MemoryStore
from flexinfer.kube.scoped import ScopedInformer
from flexinfer.kube.store import ENDPOINT_SLICES, MODELS, Object, Selection

SYSTEM = "flexinfer-system"
PROXIES = "flexinfer-proxy"
SERVICE = "kubernetes.io/service-name"
OURS = {"endpointslice.kubernetes.io/managed-by": "flexinfer"}


class Counting(MemoryStore):
    """Remembers what the reconciler writes."""

    def __init__(self) -> None:
        super().__init__(ManualClock())
        self.writes: list[str] = []

    async def apply(self, *args: Any, **kwargs: Any) -> Object:
        self.writes.append(f"apply {args[1]['metadata']['name']}")
        return await super().apply(*args, **kwargs)

    async def delete(self, *args: Any, **kwargs: Any) -> None:
        if kwargs.get("uid"):
            self.writes.append(f"delete {args[1].name}")
        await super().delete(*args, **kwargs)


class World:
    def __init__(self) -> None:
        self.store = Counting()
        self.stack = AsyncExitStack()

    async def manager(self, *, reachable: bool = True) -> None:
        """Start one; it may be called again, as a manager that takes over."""
        models = ScopedInformer(self.store, MODELS, codec.from_object)
        slices = ScopedInformer(self.store, ENDPOINT_SLICES, wake.decode)
        proxies = Informer(self.store, ENDPOINT_SLICES, wake.decode, Selection(SYSTEM, {SERVICE: PROXIES}))
        reconciler = WakeReconciler(self.store, models, slices, proxies, reachable=reachable)
        controller = Controller("wake", reconciler.reconcile)
        for informer in (models, slices, proxies):
            await self.stack.enter_async_context(beside(informer.run()))
            await informer.wait_synced()
        reconciler.watch(controller.enqueue)
        await self.stack.enter_async_context(beside(controller.run()))
        await settle(200)

    async def slice(self, name: str, service: str, *addresses: str, namespace: str = "default", ready: bool = True):
        obj = {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": name, "namespace": namespace, "labels": {SERVICE: service}},
            "addressType": "IPv6" if any(":" in one for one in addresses) else "IPv4",
            "ports": [{"name": "http", "port": 8000}],
            "endpoints": [{"addresses": [one], "conditions": {"ready": ready}} for one in addresses],
        }
        await super(Counting, self.store).apply(ENDPOINT_SLICES, obj, field_manager="test", force=True)
        await settle(200)

    async def proxies(self, *addresses: str, family: str = "4") -> None:
        await self.slice(f"p{family}", PROXIES, *addresses, namespace=SYSTEM)

    async def model(self, name: str = "m") -> None:
        await self.store.create(MODELS, manifest(name))
        await settle(200)

    async def ready_condition(self, status: str, reason: str) -> None:
        condition = {"type": "Ready", "status": status, "reason": reason}
        patch = {"status": {"conditions": [condition]}}
        await self.store.patch(MODELS, ObjectKey("default", "m"), patch, subresource="status")
        await settle(200)

    async def led(self) -> dict[str, tuple[list[str], int]]:
        """Slices of ours: where they lead."""
        found = (await self.store.list(ENDPOINT_SLICES, Selection("default", OURS))).items
        return {
            obj["metadata"]["name"]: (
                [address for one in obj["endpoints"] for address in one["addresses"]],
                obj["ports"][0]["port"],
            )
            for obj in found
        }


@pytest.fixture
async def world() -> AsyncIterator[World]:
    one = World()
    async with one.stack:
        await one.manager()
        yield one


async def test_the_service_of_a_sleeping_model_leads_to_every_ready_proxy(world: World):
    await world.proxies("10.0.0.2", "10.0.0.1")
    await world.slice("p-new", PROXIES, "10.0.0.9", namespace=SYSTEM, ready=False)
    await world.model()
    assert await world.led() == {"m-wake-ipv4": (["10.0.0.1", "10.0.0.2"], 8083)}
    (obj,) = (await world.store.list(ENDPOINT_SLICES, Selection("default", OURS))).items
    assert obj["metadata"]["labels"][SERVICE] == "m"
    assert [owner["name"] for owner in obj["metadata"]["ownerReferences"]] == ["m"]
    assert obj["ports"][0]["name"] == "http"


async def test_it_leads_to_the_replica_alone_once_one_is_ready_and_back_when_it_is_gone(world: World):
    await world.proxies("10.0.0.1")
    await world.model()
    await world.slice("m-1", "m", "10.1.0.1", ready=False)
    assert await world.led() != {}
    await world.slice("m-1", "m", "10.1.0.1")
    assert await world.led() == {}
    await world.slice("m-1", "m")
    assert await world.led() == {"m-wake-ipv4": (["10.0.0.1"], 8083)}
    assert world.store.writes == ["apply m-wake-ipv4", "delete m-wake-ipv4", "apply m-wake-ipv4"]


async def test_it_leads_to_the_proxies_before_the_last_replica_goes(world: World):
    await world.proxies("10.0.0.1")
    await world.model()
    await world.slice("m-1", "m", "10.1.0.1")
    await world.ready_condition("False", "ScalingDown")
    assert await world.led() == {"m-wake-ipv4": (["10.0.0.1"], 8083)}
    await world.ready_condition("True", "BackendReady")
    assert await world.led() == {}


async def test_proxies_that_come_and_go_are_followed(world: World):
    await world.model()
    assert await world.led() == {}
    await world.proxies("10.0.0.1")
    await world.proxies("fd00::1", family="6")
    await world.proxies("10.0.0.1", "10.0.0.2")
    assert await world.led() == {
        "m-wake-ipv4": (["10.0.0.1", "10.0.0.2"], 8083),
        "m-wake-ipv6": (["fd00::1"], 8083),
    }
    await world.proxies()
    assert await world.led() == {"m-wake-ipv6": (["fd00::1"], 8083)}


async def test_a_manager_that_takes_over_writes_nothing(world: World):
    await world.proxies("10.0.0.1")
    await world.model()
    await world.slice("other", "n", "10.1.0.1")
    await world.model("n")
    world.store.writes.clear()
    await world.manager()
    assert world.store.writes == []


async def test_what_somebody_else_made_of_the_slice_is_set_right_once(world: World):
    await world.proxies("10.0.0.1")
    await world.model()
    patch = {"endpoints": [{"addresses": ["10.9.9.9"], "conditions": {"ready": True}}]}
    await world.store.patch(ENDPOINT_SLICES, ObjectKey("default", "m-wake-ipv4"), patch)
    await settle(200)
    assert await world.led() == {"m-wake-ipv4": (["10.0.0.1"], 8083)}
    assert world.store.writes == ["apply m-wake-ipv4"] * 2


async def test_where_callers_may_not_reach_the_proxies_a_service_leads_nowhere():
    world = World()
    async with world.stack:
        await world.manager(reachable=False)
        await world.proxies("10.0.0.1")
        await world.model()
        assert await world.led() == {}
