"""Children of one owner on a cluster: applied when they differ, never taken from anybody else.

What an earlier owner of the same name left is waited for, not adopted. An object of that name which belongs to
nobody, or to somebody else, stays as it is: the owner is told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from flexinfer.api.meta import ObjectKey
from flexinfer.controllers.clusterview import ClusterView
from flexinfer.errors import FlexInferError, NotFound
from flexinfer.kube import typed
from flexinfer.kube.apply import Applied, Child, owned_by
from flexinfer.kube.store import (
    DEPLOYMENTS,
    NETWORK_POLICIES,
    PERSISTENT_VOLUME_CLAIMS,
    SERVICES,
    Object,
    ObjectStore,
    Resource,
)
from flexinfer.resources import names

FIELD_MANAGER = "flexinfer-manager"
_NOT_OURS = ("deployment.kubernetes.io/", "pv.kubernetes.io/", "volume.kubernetes.io/", "volume.beta.kubernetes.io/")


class NameTaken(FlexInferError):
    """An object that is to be made is there and belongs to somebody else."""

    def __init__(self, resource: Resource, key: ObjectKey, owner: str) -> None:
        whose = f"belongs to {owner}" if owner else "was not made by FlexInfer"
        super().__init__(f"{resource.kind} {key.name} {whose}: rename the Model, or delete that {resource.kind}")


class LeftOver(FlexInferError):
    """A child of an owner that is gone is still there; the garbage collector takes it away."""


class Owner(NamedTuple):
    api_version: str
    kind: str
    key: ObjectKey
    uid: str

    @property
    def reference(self) -> dict[str, Any]:
        return {
            "apiVersion": self.api_version,
            "kind": self.kind,
            "name": self.key.name,
            "uid": self.uid,
            "controller": True,
        }


class _Mark(NamedTuple):
    """What is the same as long as nobody has changed anything but the status."""

    uid: str
    version: int
    rest: object


class _Known(NamedTuple):
    applied: Object
    left: _Mark


class Settled(Applied):
    """Applied, where a status, which others change all the time, is no reason to apply an object again."""

    def __init__(self) -> None:
        super().__init__()
        self._marks: dict[tuple[Resource, ObjectKey], _Known] = {}

    def stands(self, desired: Child, stored: Child | None) -> bool:
        if stored is None:
            return False
        known = self._marks.get((desired.resource, desired.key))
        if known is None or known.applied != desired.object:
            return False
        mark = _mark(desired.resource, stored.object)
        # A cache that has not caught up with our own write is no drift.
        same = mark.uid == known.left.uid
        return same and (mark.version < known.left.version or mark.rest == known.left.rest)

    def note(self, desired: Child, stored: Object) -> None:
        self._marks[(desired.resource, desired.key)] = _Known(desired.object, _mark(desired.resource, stored))

    def forget(self, child: Child) -> None:
        self._marks.pop((child.resource, child.key), None)


def _mark(resource: Resource, obj: Object) -> _Mark:
    """A claim has no generation; of its spec only the size can change, and that is planned from what it is."""
    meta = obj["metadata"]
    version = meta["resourceVersion"]
    # Versions are numbers that grow, as Kubernetes itself takes them to be since 1.35.
    number = int(version) if version.isdigit() else 0
    if not meta.get("generation") and resource != PERSISTENT_VOLUME_CLAIMS:
        return _Mark(meta["uid"], number, version)
    annotations = {
        name: value for name, value in (meta.get("annotations") or {}).items() if not name.startswith(_NOT_OURS)
    }
    owners = sorted(owner["uid"] for owner in meta.get("ownerReferences") or ())
    generation = meta.get("generation") or 0
    rest = (generation, dict(meta.get("labels") or {}), annotations, owners)
    return _Mark(meta["uid"], generation or number, rest)


def seen(resource: Resource, meta: typed.Meta) -> Child:
    """A cached object, as `kube.apply` looks at one."""
    body: Object = {
        "name": meta.name,
        "namespace": meta.namespace,
        "uid": meta.uid,
        "resourceVersion": meta.resource_version,
        "labels": meta.labels,
        "annotations": meta.annotations,
        "ownerReferences": [
            {"kind": owner.kind, "name": owner.name, "uid": owner.uid, "controller": owner.controller}
            for owner in meta.owner_references
        ],
    }
    if meta.generation:
        body["generation"] = meta.generation
    if meta.deletion_timestamp:
        body["deletionTimestamp"] = meta.deletion_timestamp
    return Child(resource, {"metadata": body})


def cached(view: ClusterView, model: ObjectKey) -> list[Child]:
    """What the cache has of a Model's Service, Deployment and NetworkPolicy, whoever made them."""
    service = ObjectKey(model.namespace, names.service(model.name))
    workload = ObjectKey(model.namespace, names.workload(model.name))
    policies = view.network_policies
    there = (
        (SERVICES, view.services.get(service)),
        (DEPLOYMENTS, view.deployments.get(workload)),
        (NETWORK_POLICIES, policies.get(workload) if policies is not None else None),
    )
    return [seen(resource, one.metadata) for resource, one in there if one is not None]


def child(resource: Resource, obj: Mapping[str, Any], owner: Owner) -> Child:
    """`obj` without namespace and owner, as a child of `owner`."""
    meta = {**obj["metadata"], "namespace": owner.key.namespace, "ownerReferences": [owner.reference]}
    return Child(resource, {**obj, "metadata": meta})


def unsettled(desired: Sequence[Child], there: Sequence[Child], applied: Applied) -> list[Child]:
    """Those that have to be applied."""
    cached = {(one.resource, one.key): one for one in there}
    return [one for one in desired if not applied.stands(one, cached.get((one.resource, one.key)))]


async def check_free(store: ObjectStore, desired: Sequence[Child], there: Sequence[Child], owner: Owner) -> None:
    """Raises NameTaken, or LeftOver. What is not in the cache is looked for in the store, once."""
    cached = {(one.resource, one.key): one.object for one in there}
    for one in desired:
        obj = cached.get((one.resource, one.key))
        if obj is None:
            try:
                obj = await store.get(one.resource, one.key)
            except NotFound:
                continue
        if owned_by(obj, owner.uid):
            continue
        controller = next((ref for ref in obj["metadata"].get("ownerReferences") or () if ref.get("controller")), None)
        if controller is not None and (controller["kind"], controller["name"]) == (owner.kind, owner.key.name):
            raise LeftOver(f"{one.resource.kind} {one.key.name} of an earlier {owner.kind} is still there")
        raise NameTaken(one.resource, one.key, f"{controller['kind']} {controller['name']}" if controller else "")
