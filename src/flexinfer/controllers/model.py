"""Reconcile one Model: observe, decide, converge, report.

The same file runs a cluster and a laptop; where the replicas live is behind `Workloads`, where the
objects live behind `ObjectStore`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from flexinfer import logs
from flexinfer.api import codec
from flexinfer.api.meta import ObjectKey
from flexinfer.api.v1alpha2.model import Model, ModelStatus
from flexinfer.api.wellknown import MODEL_FINALIZER
from flexinfer.clock import Clock
from flexinfer.errors import Conflict, NotFound
from flexinfer.kube.controller import Result
from flexinfer.kube.informer import Handler
from flexinfer.kube.store import MODELS, Object, ObjectStore
from flexinfer.lifecycle.decide import Decision, decide
from flexinfer.lifecycle.modelnames import NameTable, conflict_message, further_names
from flexinfer.lifecycle.observed import Observed, Traffic
from flexinfer.lifecycle.status import status_of
from flexinfer.lifecycle.transitions import told
from flexinfer.lifecycle.workloads import Workloads

log = logs.get("controller.model")


class Events(Protocol):
    def record(
        self, obj: Object, reason: str, note: str, *, warning: bool = False, action: str = "Reconcile"
    ) -> None: ...


class Models(Protocol):
    """The Models there are: an informer, or several over some namespaces."""

    def get(self, key: ObjectKey) -> Model | None: ...

    def add_handler(self, handler: Handler[Model]) -> None: ...


TRAFFIC_EVERY_S = 15.0


class ModelReconciler:
    def __init__(
        self,
        store: ObjectStore,
        models: Models,
        workloads: Workloads,
        clock: Clock,
        traffic_of: Callable[[ObjectKey], Traffic | None] = lambda _key: None,
        events: Events | None = None,
    ) -> None:
        self._store = store
        self._models = models
        self._workloads = workloads
        self._clock = clock
        self._traffic_of = traffic_of
        self._events = events
        self._traffic_read: dict[ObjectKey, float] = {}
        self._written: dict[ObjectKey, tuple[str, ModelStatus]] = {}
        """Version of the Model that the last status was made from, and that status."""
        self._names: dict[str, NameTable] = {}
        """By namespace."""

    def watch_names(self, enqueue: Callable[[ObjectKey], None]) -> None:
        """Know which names Models share; `enqueue` gets those whose conflicts a change of another one touches."""

        def changed(key: ObjectKey, _old: Model | None, model: Model | None) -> None:
            table = self._names.setdefault(key.namespace, NameTable())
            gone = model is None or model.metadata.deletion_timestamp is not None
            names = table.drop(key.name) if gone or model is None else table.put(key.name, further_names(model))
            touched = {other for name in names for other in table.wanting(name)} - {key.name}
            for other in sorted(touched):
                enqueue(ObjectKey(key.namespace, other))

        self._models.add_handler(changed)

    async def reconcile(self, key: ObjectKey) -> Result:
        model = self._models.get(key)
        if model is None:
            self._written.pop(key, None)
            self._traffic_read.pop(key, None)
            await self._workloads.remove(key)
            return Result()
        if model.metadata.deletion_timestamp is not None:
            return await self._delete(model)
        if MODEL_FINALIZER not in model.metadata.finalizers:
            held = await self._set_finalizers(model, [*model.metadata.finalizers, MODEL_FINALIZER])
            if held is None:
                # Somebody changed it meanwhile: their event brings this key back.
                return Result()
            # What is written from here on stands on the version that this write made, not on the cache's.
            model = held
        observed = await self._observe(model)
        decision = decide(model, observed, self._clock.now())
        await self._workloads.converge(model, decision)
        reached = await self._observe(model)
        outcome = decide(model, reached, self._clock.now())
        await self._report(model, reached, outcome)
        due = [one for one in (outcome.requeue_after_s, reached.again_in_s) if one is not None]
        return Result(requeue_after_s=min(due, default=None))

    async def _observe(self, model: Model) -> Observed:
        observed = await self._workloads.observe(model)
        table = self._names.get(model.key.namespace)
        conflicts = table.conflicts(model.key.name) if table is not None else {}
        return msgspec.structs.replace(observed, alias_conflict=conflict_message(conflicts)) if conflicts else observed

    async def _delete(self, model: Model) -> Result:
        await self._workloads.remove(model.key)
        left = [name for name in model.metadata.finalizers if name != MODEL_FINALIZER]
        if left != model.metadata.finalizers:
            await self._set_finalizers(model, left)
        return Result()

    async def _set_finalizers(self, model: Model, finalizers: list[str]) -> Model | None:
        """The Model as it is then; None when it has changed meanwhile, or is gone."""
        patch = {"metadata": {"finalizers": finalizers, "resourceVersion": model.metadata.resource_version}}
        try:
            made = await self._store.patch(MODELS, model.key, patch, field_manager="flexinfer-manager")
        except (Conflict, NotFound):
            log.debug("finalizers not written, the model changed meanwhile", model=str(model.key))
            return None
        return codec.from_object(made)

    async def _report(self, model: Model, observed: Observed, decision: Decision) -> None:
        version, left = self._written.get(model.key, ("", None))
        if left is not None and version == model.metadata.resource_version:
            # The cache has not caught up with our own write: what that left is what the Model says.
            left = msgspec.structs.replace(left, last_active_time=model.status.last_active_time)
            model = msgspec.structs.replace(model, status=left)
        status = status_of(model, observed, decision, self._clock.now(), self._traffic(model.key))
        patch = status_patch(model.status, status)
        if not patch:
            return
        if status.phase != model.status.phase:
            log.info("phase", model=str(model.key), was=model.status.phase, now=status.phase, message=status.message)
        try:
            await self._store.patch(
                MODELS, model.key, {"status": patch}, subresource="status", field_manager="flexinfer-manager"
            )
        except NotFound:
            log.debug("status not written, the model is gone", model=str(model.key))
        self._written[model.key] = (model.metadata.resource_version, status)
        if self._events is not None:
            about = described(model)
            for one in told(model.status, status, observed.notes):
                self._events.record(about, one.reason, one.note, warning=one.warning)

    def _traffic(self, key: ObjectKey) -> Traffic | None:
        """Live figures, now and then: each report is a change that brings the key back."""
        now = self._clock.monotonic()
        if now - self._traffic_read.get(key, -TRAFFIC_EVERY_S) < TRAFFIC_EVERY_S:
            return None
        traffic = self._traffic_of(key)
        if traffic is not None:
            self._traffic_read[key] = now
        return traffic


def described(model: Model) -> Object:
    """What an Event says that it is about."""
    key = model.key
    return {
        "apiVersion": model.api_version,
        "kind": model.kind,
        "metadata": {"namespace": key.namespace, "name": key.name, "uid": model.metadata.uid},
    }


def status_patch(old: msgspec.Struct, new: msgspec.Struct) -> dict[str, Any]:
    """Merge patch from one status to the other; never names `lastActiveTime`, which is the proxy's."""
    before, after = codec.encode_status(old), codec.encode_status(new)
    patch: dict[str, Any] = {name: value for name, value in after.items() if before.get(name) != value}
    patch |= {name: None for name in before if name not in after}
    patch.pop("lastActiveTime", None)
    # A merge patch merges objects: what a nested object lost must be named.
    for name, value in patch.items():
        if isinstance(value, dict) and isinstance(before.get(name), dict):
            patch[name] = {**dict.fromkeys(before[name].keys() - value.keys()), **value}
    return patch
