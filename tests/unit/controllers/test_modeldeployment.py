"""A ModelDeployment and the Model that it makes, owns and reports."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.manual_clock import ManualClock
from tests.support.deployments import deployment
from tests.support.models import manifest

from flexinfer.api import admission, codec
from flexinfer.api.meta import ObjectKey
from flexinfer.api.wellknown import DEPLOYMENT_FINALIZER
from flexinfer.controllers.modeldeployment import ModelDeploymentReconciler
from flexinfer.errors import NotFound
from flexinfer.kube.informer import Informer
from flexinfer.kube.memory import MemoryStore
from flexinfer.kube.store import MODEL_DEPLOYMENTS, MODELS, Object, Resource

KEY = ObjectKey("default", "demo")


class World:
    """A store, and a reconciler that is called by hand once its caches have caught up."""

    def __init__(self, clock: ManualClock) -> None:
        self.store = MemoryStore(clock, admit=lambda resource, obj: list(admission.admit_stored(obj)))
        self.deployments = Informer(self.store, MODEL_DEPLOYMENTS, codec.deployment_from_object)
        self.models = Informer(self.store, MODELS, codec.from_object)
        self.reconciler = ModelDeploymentReconciler(self.store, self.deployments, self.models, clock)

    async def reconcile(self, times: int = 3) -> None:
        for _ in range(times):
            await self.settle()
            await self.reconciler.reconcile(KEY)
        await self.settle()

    async def settle(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    async def make(self, **spec: Any) -> Object:
        obj = deployment(**spec)
        obj["metadata"]["namespace"] = "default"
        return await self.store.create(MODEL_DEPLOYMENTS, obj)

    async def get(self, resource: Resource = MODEL_DEPLOYMENTS) -> Object:
        return await self.store.get(resource, KEY)

    async def versions(self) -> tuple[str, ...]:
        return tuple([(await self.get(kind))["metadata"]["resourceVersion"] for kind in (MODEL_DEPLOYMENTS, MODELS)])

    async def model_says(self, **status: Any) -> None:
        await self.store.patch(MODELS, KEY, {"status": status}, subresource="status")

    async def conditions(self) -> dict[str, tuple[str, str, str]]:
        found = (await self.get())["status"]["conditions"]
        return {one["type"]: (one["status"], one["reason"], one.get("message", "")) for one in found}


@pytest.fixture
async def world(clock: ManualClock) -> AsyncIterator[World]:
    one = World(clock)
    async with asyncio.TaskGroup() as tasks:
        following = [tasks.create_task(informer.run()) for informer in (one.deployments, one.models)]
        await one.deployments.wait_synced()
        await one.models.wait_synced()
        yield one
        for task in following:
            task.cancel()


def condition(kind: str, status: str, reason: str, message: str = "") -> dict[str, str]:
    return {"type": kind, "status": status, "reason": reason, "message": message}


async def test_its_model_is_made_and_owned(world: World):
    made = await world.make(modelCacheRef="shared")
    await world.reconcile()
    model = await world.get(MODELS)
    assert model["spec"]["source"] == "ollama://llama3:8b"
    assert model["metadata"]["ownerReferences"] == [
        {
            "apiVersion": "ai.flexinfer/v1alpha1",
            "kind": "ModelDeployment",
            "name": "demo",
            "uid": made["metadata"]["uid"],
            "controller": True,
        }
    ]
    found = await world.get()
    assert (found["metadata"]["finalizers"], found["status"]["phase"]) == ([DEPLOYMENT_FINALIZER], "Pending")
    assert (await world.conditions())["NotYetEffective"] == (
        "True",
        "NotYetEffective",
        "these fields do not act yet: spec.modelCacheRef",
    )


async def test_at_rest_nothing_is_written(world: World):
    await world.make()
    await world.reconcile()
    before = await world.versions()
    await world.reconcile(5)
    assert await world.versions() == before


async def test_a_changed_spec_changes_the_model_and_what_is_given_up_goes(world: World):
    await world.make(replicas=2, nodeSelector={"a": "b"})
    await world.reconcile()
    await world.store.patch(MODEL_DEPLOYMENTS, KEY, {"spec": {"replicas": 3, "nodeSelector": None}})
    await world.reconcile()
    spec = (await world.get(MODELS))["spec"]
    assert (spec["replicas"], "nodeSelector" in spec) == (3, False)


async def test_who_changes_the_model_by_hand_is_put_right_in_the_fields_that_it_has(world: World):
    await world.make(replicas=2)
    await world.reconcile()
    await world.store.patch(MODELS, KEY, {"spec": {"replicas": 5, "image": "x:1"}})
    await world.reconcile()
    spec = (await world.get(MODELS))["spec"]
    assert (spec["replicas"], spec["image"]) == (2, "x:1")
    before = await world.versions()
    await world.reconcile(4)
    assert await world.versions() == before


@pytest.mark.parametrize(
    ("owned", "whose"),
    [
        pytest.param(False, "is nobody's", id="one that somebody applied"),
        pytest.param(True, "belongs to Model other", id="one that another object owns"),
    ],
)
async def test_a_model_that_is_not_its_own_is_never_taken_over(world: World, owned, whose):
    other = await world.store.create(MODELS, manifest("other"))
    owner = {"apiVersion": "ai.flexinfer/v1alpha2", "kind": "Model", "name": "other", "controller": True}
    obj = manifest("demo")
    obj["metadata"]["ownerReferences"] = [{**owner, "uid": other["metadata"]["uid"]}] if owned else []
    before = await world.store.create(MODELS, obj)
    await world.make()
    await world.reconcile()
    assert await world.get(MODELS) == before
    assert (await world.get())["status"]["phase"] == "Failed"
    message = f"the Model demo {whose}: it stays untouched; delete or rename one of the two"
    assert (await world.conditions())["Ready"] == ("False", "NameTaken", message)
    await world.store.delete(MODEL_DEPLOYMENTS, KEY)
    await world.reconcile()
    assert await world.get(MODELS) == before
    with pytest.raises(NotFound):
        await world.get()


async def test_a_model_that_the_cache_has_not_seen_is_not_taken_over(clock: ManualClock):
    world = World(clock)
    made = await world.make()
    following = asyncio.create_task(world.deployments.run())
    await world.deployments.wait_synced()
    before = await world.store.create(MODELS, manifest("demo"))
    await world.reconciler.reconcile(KEY)
    following.cancel()
    assert await world.get(MODELS) == before
    assert made["metadata"]["name"] == "demo"
    assert (await world.conditions())["Ready"][1] == "NameTaken"


async def test_a_taken_name_that_becomes_free_is_used(world: World):
    await world.store.create(MODELS, manifest("demo"))
    await world.make()
    await world.reconcile()
    await world.store.delete(MODELS, KEY)
    await world.reconcile()
    assert (await world.get(MODELS))["spec"]["backend"] == "ollama"
    assert (await world.get())["status"]["phase"] == "Pending"


async def test_a_spec_of_which_no_model_can_be_made_leaves_the_one_before_it_running(world: World):
    await world.make(replicas=2)
    await world.reconcile()
    await world.model_says(phase="Ready", endpoint="http://demo.default.svc")
    await world.store.patch(MODEL_DEPLOYMENTS, KEY, {"spec": {"replicas": 30}})
    await world.reconcile()
    assert (await world.get(MODELS))["spec"]["replicas"] == 2
    assert (await world.get())["status"]["phase"] == "Failed"
    assert await world.conditions() == {
        "Ready": ("False", "ValidationFailed", "spec.replicas: 30: expected at most 10"),
        "Progressing": ("False", "ValidationFailed", "spec.replicas: 30: expected at most 10"),
    }


async def test_deletion_waits_for_the_model(world: World):
    await world.make()
    await world.reconcile()
    await world.store.patch(MODELS, KEY, {"metadata": {"finalizers": ["x.y/hold"]}})
    await world.store.delete(MODEL_DEPLOYMENTS, KEY)
    await world.reconcile()
    assert (await world.get())["status"]["phase"] == "Terminating"
    assert "deletionTimestamp" in (await world.get(MODELS))["metadata"]
    await world.store.patch(MODELS, KEY, {"metadata": {"finalizers": None}})
    await world.reconcile()
    for kind in (MODELS, MODEL_DEPLOYMENTS):
        with pytest.raises(NotFound):
            await world.get(kind)


@pytest.mark.parametrize(
    ("said", "phase", "conditions"),
    [
        pytest.param(
            {"phase": "Loading", "message": "LoadingWeights", "conditions": [
                condition("Ready", "False", "StartingBackend", "LoadingWeights"),
                condition("Loaded", "False", "StartingBackend")]},
            "Pending",
            {"Ready": ("False", "Reconciling", "StartingBackend: LoadingWeights"),
             "ModelLoaded": ("False", "Reconciling", "StartingBackend"),
             "Progressing": ("True", "Reconciling", "LoadingWeights")},
            id="loading",
        ),
        pytest.param(
            {"phase": "Ready", "endpoint": "http://demo.default.svc", "gpu": {"node": "n", "vendor": "nvidia"},
             "conditions": [condition("Ready", "True", "BackendReady"), condition("Loaded", "True", "BackendReady")]},
            "Running",
            {"Ready": ("True", "DeploymentReady", ""), "ModelLoaded": ("True", "DeploymentReady", ""),
             "GPUAllocated": ("True", "GPUAllocated", ""), "EndpointReady": ("True", "ServiceReady", ""),
             "Progressing": ("False", "DeploymentReady", "")},
            id="serving",
        ),
        pytest.param(
            {"phase": "Idle", "conditions": [condition("Ready", "False", "WaitingForActivation", "asleep")]},
            "Running",
            {"Ready": ("False", "Reconciling", "WaitingForActivation: asleep"),
             "ModelLoaded": ("False", "Reconciling", ""), "Progressing": ("False", "DeploymentReady", "")},
            id="asleep",
        ),
        pytest.param(
            {"phase": "Failed", "message": "no", "conditions": [
                condition("Ready", "False", "EngineExited", "no"),
                condition("Schedulable", "False", "NoNodes", "none")]},
            "Failed",
            {"Ready": ("False", "ModelLoadFailed", "EngineExited: no"),
             "ModelLoaded": ("False", "Reconciling", ""),
             "GPUAllocated": ("False", "GPUAllocationFailed", "none"),
             "Progressing": ("False", "ModelLoadFailed", "no")},
            id="failed",
        ),
    ],
)  # fmt: skip
async def test_the_models_state_in_the_words_of_the_first_generation(world: World, said, phase, conditions):
    await world.make()
    await world.reconcile()
    await world.model_says(**said)
    await world.reconcile()
    assert ((await world.get())["status"]["phase"], await world.conditions()) == (phase, conditions)


async def test_figures_and_places_are_passed_on(world: World):
    await world.make()
    await world.reconcile()
    await world.model_says(
        phase="Ready",
        replicas=2,
        selector="flexinfer.ai/model=demo",
        endpoint="http://demo.default.svc",
        lastActiveTime="2026-01-01T00:00:05.250000Z",
        gpu={"node": "n", "device": "0", "vendor": "amd", "architecture": "gfx90a", "memoryMB": 4},
        metrics={"tokensPerSecond": "12.5", "loadTimeSeconds": "3.000", "avgLatencyMs": "80"},
    )
    await world.reconcile()
    status = (await world.get())["status"]
    del status["conditions"]
    assert status == {
        "phase": "Running",
        "observedGeneration": 1,
        "replicas": 2,
        "selector": "flexinfer.ai/model=demo",
        "allocatedGPU": {"node": "n", "device": "0", "type": "gfx90a", "memoryMB": 4},
        "endpoints": {"internal": "http://demo.default.svc"},
        "lastAccessTime": "2026-01-01T00:00:05Z",
        "metrics": {"tokensPerSecond": "12.5", "avgModelLoadTime": "3.000", "avgLatencyMs": "80"},
        "tokensPerSecond": "12.5",
    }
