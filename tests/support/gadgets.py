"""A small controller as ours are built, for faults of the control plane: a Gadget has parts, a job, a record outside.

Observe (informers), decide, converge (server-side apply with owner references), report (status). The record
lives in another namespace, where no owner reference reaches: a finalizer has it removed.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack, suppress
from typing import Any, Final, Self

from tests.support.background import ended

from flexinfer.api.meta import ObjectKey
from flexinfer.clock import Clock, SystemClock
from flexinfer.errors import AlreadyExists, NotFound
from flexinfer.kube.apply import Applied, Child, converge, owned_by
from flexinfer.kube.controller import Controller, Result
from flexinfer.kube.deadline import sleeper
from flexinfer.kube.events import EventRecorder
from flexinfer.kube.informer import Informer
from flexinfer.kube.store import (
    CONFIG_MAPS,
    CUSTOM_RESOURCE_DEFINITIONS,
    JOBS,
    Object,
    ObjectStore,
    Resource,
    Selection,
)
from flexinfer.kube.workqueue import CallLater

GADGETS: Final = Resource("sample.test", "v1", "gadgets", "Gadget")
FINALIZER: Final = "sample.test/record"
OWNER_LABEL: Final = "sample.test/gadget"
OWNER_UID: Final = "sample.test/owner-uid"
MANAGER: Final = "gadget-manager"

_ANY: Final = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
CRD: Final[Object] = {
    "metadata": {"name": "gadgets.sample.test"},
    "spec": {
        "group": "sample.test",
        "scope": "Namespaced",
        "names": {"plural": "gadgets", "singular": "gadget", "kind": "Gadget", "listKind": "GadgetList"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": _ANY, "status": _ANY}}},
            }
        ],
    },
}

RULES: Final = [
    {"apiGroups": ["sample.test"], "resources": ["gadgets"], "verbs": ["get", "list", "watch", "patch"]},
    {"apiGroups": ["sample.test"], "resources": ["gadgets/status"], "verbs": ["patch"]},
    {"apiGroups": ["sample.test"], "resources": ["gadgets/finalizers"], "verbs": ["update"]},
    {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list", "watch", "create", "patch", "delete"]},
    {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["get", "list", "watch", "create", "patch", "delete"]},
    {
        "apiGroups": ["coordination.k8s.io"],
        "resources": ["leases"],
        "verbs": ["get", "list", "watch", "create", "patch"],
    },
    {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch"]},
]


def gadget(namespace: str, name: str, **spec: Any) -> Object:
    """`parts`: how many ConfigMaps; `text`: what stands in them; `outside`: the namespace of its record."""
    return {"metadata": {"name": name, "namespace": namespace}, "spec": spec}


async def install(store: ObjectStore) -> None:
    """The Gadget kind, served."""
    with suppress(AlreadyExists):
        await store.create(CUSTOM_RESOURCE_DEFINITIONS, CRD)
    async with asyncio.timeout(30):
        while True:
            with suppress(NotFound):
                await store.list(GADGETS)
                return
            await asyncio.sleep(0.1)


def children(one: Object) -> list[Child]:
    """What a Gadget should have in its own namespace."""
    meta, spec = one["metadata"], one["spec"]
    owner = {"apiVersion": "sample.test/v1", "kind": "Gadget", "name": meta["name"], "uid": meta["uid"]}
    owned = {"namespace": meta["namespace"], "labels": {OWNER_LABEL: meta["name"]}, "ownerReferences": [owner]}
    parts = [
        Child(
            CONFIG_MAPS,
            {
                "metadata": {**owned, "name": f"{meta['name']}-part-{number}"},
                "data": {"text": spec.get("text", "")},
            },
        )
        for number in range(spec.get("parts", 1))
    ]
    template = {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "example.test/c:1"}]}}
    job = {"metadata": {**owned, "name": f"{meta['name']}-job"}, "spec": {"suspend": True, "template": template}}
    return [*parts, Child(JOBS, job)]


def record(one: Object) -> Object:
    meta = one["metadata"]
    return {
        "metadata": {
            "name": f"{meta['namespace']}.{meta['name']}",
            "namespace": one["spec"]["outside"],
            "labels": {OWNER_UID: meta["uid"]},
        },
        "data": {"gadget": meta["name"]},
    }


class GadgetReconciler:
    def __init__(
        self,
        store: ObjectStore,
        gadgets: Informer[Object],
        owned: dict[Resource, Informer[Object]],
        events: EventRecorder | None = None,
    ) -> None:
        self._store = store
        self._gadgets = gadgets
        self._owned = owned
        self._events = events
        self._applied: dict[ObjectKey, tuple[str, Applied]] = {}
        """Of the Gadget with this uid; a namesake begins anew."""
        self._reported: dict[ObjectKey, tuple[str, Object]] = {}
        self.reconciles = 0

    async def reconcile(self, key: ObjectKey) -> Result:
        self.reconciles += 1
        one = self._gadgets.get(key)
        if one is None:
            self._applied.pop(key, None)
            self._reported.pop(key, None)
            return Result()
        if "deletionTimestamp" in one["metadata"]:
            await self._finish(key, one)
            return Result()
        mine = self._mine(one)
        desired = children(one)
        if len(mine) < len(desired) and not await self._is_there(key, one):
            return Result()
        if FINALIZER not in one["metadata"].get("finalizers", ()):
            await self._set_finalizers(key, one, [*one["metadata"].get("finalizers", ()), FINALIZER])
        stored = await self._converge(key, one, desired, mine)
        await self._report(key, one, stored)
        return Result()

    def _mine(self, one: Object) -> list[Child]:
        """Its children as the caches have them."""
        return [
            Child(resource, obj)
            for resource, informer in self._owned.items()
            for _, obj in informer.items()
            if owned_by(obj, one["metadata"]["uid"])
        ]

    async def _is_there(self, key: ObjectKey, one: Object) -> bool:
        """Before anything is made: the cache may tell of an object that is long gone."""
        try:
            live = (await self._store.get(GADGETS, key))["metadata"]
        except NotFound:
            return False
        return live["uid"] == one["metadata"]["uid"] and "deletionTimestamp" not in live

    async def _converge(self, key: ObjectKey, one: Object, desired: list[Child], mine: list[Child]) -> list[Child]:
        uid = one["metadata"]["uid"]
        known, applied = self._applied.get(key, ("", Applied()))
        if known != uid:
            if "outside" in one["spec"]:
                await self._store.apply(CONFIG_MAPS, record(one), field_manager=MANAGER, force=True)
            applied = Applied()
            self._applied[key] = (uid, applied)
        return await converge(self._store, desired, mine, owner_uid=uid, field_manager=MANAGER, applied=applied)

    async def _report(self, key: ObjectKey, one: Object, stored: list[Child]) -> None:
        meta = one["metadata"]
        status = {"observedGeneration": meta["generation"], "children": len(stored), "phase": "Ready"}
        if one.get("status") == status or self._reported.get(key) == (meta["uid"], status):
            return
        await self._store.patch(
            GADGETS,
            key,
            {"metadata": {"uid": meta["uid"]}, "status": status},
            subresource="status",
            field_manager=MANAGER,
        )
        self._reported[key] = (meta["uid"], status)
        if self._events:
            self._events.record(one, "Converged", f"{len(stored)} children")

    async def _finish(self, key: ObjectKey, one: Object) -> None:
        left = [name for name in one["metadata"].get("finalizers", ()) if name != FINALIZER]
        if left == one["metadata"].get("finalizers", []):
            return
        if "outside" in one["spec"]:
            await self._remove_record(record(one))
        with suppress(NotFound):
            await self._set_finalizers(key, one, left)

    async def _remove_record(self, wanted: Object) -> None:
        key = ObjectKey(wanted["metadata"]["namespace"], wanted["metadata"]["name"])
        with suppress(NotFound):
            there = (await self._store.get(CONFIG_MAPS, key))["metadata"]
            if there.get("labels", {}).get(OWNER_UID) == wanted["metadata"]["labels"][OWNER_UID]:
                await self._store.delete(CONFIG_MAPS, key, uid=there["uid"])

    async def _set_finalizers(self, key: ObjectKey, one: Object, finalizers: list[str]) -> None:
        meta = one["metadata"]
        patch = {"metadata": {"finalizers": finalizers, "resourceVersion": meta["resourceVersion"], "uid": meta["uid"]}}
        await self._store.patch(GADGETS, key, patch, field_manager=MANAGER)


class GadgetManager:
    """The controller with its caches, in one namespace. `async with` runs it."""

    def __init__(
        self,
        store: ObjectStore,
        namespace: str,
        *,
        reads: ObjectStore | None = None,
        clock: Clock | None = None,
        call_later: CallLater | None = None,
        events: bool = False,
    ) -> None:
        """`reads` is where lists and watches go, if elsewhere."""
        clock = clock or SystemClock()
        rand = random.Random(1)

        def informer(resource: Resource) -> Informer[Object]:
            return Informer(
                reads or store,
                resource,
                lambda obj: obj,
                Selection(namespace),
                rand=rand,
                clock=clock,
                sleep=sleeper(call_later),
            )

        self.gadgets = informer(GADGETS)
        self.owned = {resource: informer(resource) for resource in (CONFIG_MAPS, JOBS)}
        self.events = EventRecorder(store, "sample.test/gadgets", "sample", clock=clock, call_later=call_later)
        self.reconciler = GadgetReconciler(store, self.gadgets, self.owned, self.events if events else None)
        self.errors: list[Exception] = []
        self.controller = Controller(
            "gadgets",
            self.reconciler.reconcile,
            clock=clock,
            rand=rand,
            call_later=call_later,
            cap_s=5.0,
            on_result=lambda _key, _took_s, error: self.errors.append(error) if error else None,
        )
        self._tasks = AsyncExitStack()

    async def run(self) -> None:
        """Until cancelled."""
        self.gadgets.add_handler(self.controller.on_change)
        for informer in self.owned.values():
            informer.add_handler(self._on_child)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.gadgets.run())
            for informer in self.owned.values():
                tasks.create_task(informer.run())
            tasks.create_task(self.events.run())
            # A cache that is not filled yet would show children that are there as missing.
            for informer in (self.gadgets, *self.owned.values()):
                await informer.wait_synced()
            tasks.create_task(self.controller.run())

    async def __aenter__(self) -> Self:
        self._tasks.push_async_callback(ended, asyncio.create_task(self.run()))
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self._tasks.aclose()

    def _on_child(self, _key: ObjectKey, old: Object | None, new: Object | None) -> None:
        for obj in (old, new):
            if obj is not None and (name := obj["metadata"].get("labels", {}).get(OWNER_LABEL)):
                self.controller.enqueue(ObjectKey(obj["metadata"]["namespace"], name))


async def state(store: ObjectStore, namespace: str) -> Object:
    """All that a run leaves: each object without what the server chose."""
    left = {}
    for resource in (GADGETS, CONFIG_MAPS, JOBS):
        for obj in (await store.list(resource, Selection(namespace))).items:
            meta = obj["metadata"]
            if meta["name"] != "kube-root-ca.crt":
                left[f"{resource.kind}/{meta['name']}"] = {
                    "spec": obj.get("spec", {}).get("suspend", obj.get("spec"))
                    if resource is JOBS
                    else obj.get("spec"),
                    "data": obj.get("data"),
                    "status": obj.get("status") if resource is GADGETS else None,
                    "finalizers": meta.get("finalizers", []),
                    "labels": {name: value for name, value in meta.get("labels", {}).items() if name != OWNER_UID},
                    "owners": [owner["name"] for owner in meta.get("ownerReferences", ())],
                    "deleting": "deletionTimestamp" in meta,
                }
    return left


async def until_ready(store: ObjectStore, key: ObjectKey, limit_s: float = 40.0) -> Object:
    """The Gadget, once its status is about the spec that it has."""
    async with asyncio.timeout(limit_s):
        while True:
            one = await store.get(GADGETS, key)
            if one.get("status", {}).get("observedGeneration") == one["metadata"]["generation"]:
                return one
            await asyncio.sleep(0.02)


async def until_gone(store: ObjectStore, key: ObjectKey, limit_s: float = 40.0) -> None:
    async with asyncio.timeout(limit_s):
        with suppress(NotFound):
            while True:
                await store.get(GADGETS, key)
                await asyncio.sleep(0.02)
