"""Converge owned objects on a desired set: apply what is wanted, delete what is not.

Every desired object is applied, so that one write settles creation, change and drift; the store writes
nothing when nothing differs, and with an `Applied` what stands as it was applied is not even sent. Owned
objects that nobody wants any more are deleted with their uid and version as preconditions: a cache that
lags behind can never delete a namesake or what has changed hands.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from flexinfer.api.meta import ObjectKey
from flexinfer.errors import Conflict, NotFound
from flexinfer.kube.store import Object, ObjectStore, Resource, key_of


class Child(NamedTuple):
    resource: Resource
    object: Object

    @property
    def key(self) -> ObjectKey:
        return key_of(self.object)


def owned_by(obj: Object, owner_uid: str) -> bool:
    return any(owner["uid"] == owner_uid for owner in obj["metadata"].get("ownerReferences", ()))


class Applied:
    """What each object was applied as, and which version of it that left."""

    def __init__(self) -> None:
        self._known: dict[tuple[Resource, ObjectKey], tuple[Object, str]] = {}

    def stands(self, desired: Child, stored: Child | None) -> bool:
        """Whether `stored`, from the cache, is what applying `desired` made and nobody has touched since."""
        if stored is None:
            return False
        return self._known.get((desired.resource, desired.key)) == (
            desired.object,
            stored.object["metadata"]["resourceVersion"],
        )

    def note(self, desired: Child, stored: Object) -> None:
        self._known[(desired.resource, desired.key)] = (desired.object, stored["metadata"]["resourceVersion"])

    def forget(self, child: Child) -> None:
        self._known.pop((child.resource, child.key), None)


async def converge(
    store: ObjectStore,
    desired: Sequence[Child],
    owned: Iterable[Child],
    *,
    owner_uid: str,
    field_manager: str,
    applied: Applied | None = None,
) -> list[Child]:
    """Apply `desired` in order, then delete those of `owned` that are not in it; returns what the store has.

    `owned` may come from a cache. Raises what the store raises for an apply; fields of ours that another
    manager took are taken back. `applied` is kept per owner, and dropped with it.
    """
    applied = applied or Applied()
    present = {(child.resource, child.key): child for child in owned}
    stored = []
    for child in desired:
        there = present.pop((child.resource, child.key), None)
        if there is None or not applied.stands(child, there):
            made = await store.apply(child.resource, child.object, field_manager=field_manager, force=True)
            applied.note(child, made)
            there = Child(child.resource, made)
        stored.append(there)
    for child in present.values():
        if owned_by(child.object, owner_uid):
            applied.forget(child)
            await _delete(store, child, owner_uid)
    return stored


async def _delete(store: ObjectStore, child: Child, owner_uid: str) -> None:
    meta = child.object["metadata"]
    if "deletionTimestamp" in meta:
        return
    try:
        await store.delete(child.resource, child.key, uid=meta["uid"], resource_version=meta["resourceVersion"])
    except NotFound:
        return
    except Conflict:
        await _delete_latest(store, child, owner_uid)


async def _delete_latest(store: ObjectStore, child: Child, owner_uid: str) -> None:
    """The cached object was stale: judge the one that is stored. A second conflict is the caller's."""
    try:
        live = await store.get(child.resource, child.key)
        meta = live["metadata"]
        if meta["uid"] == child.object["metadata"]["uid"] and owned_by(live, owner_uid):
            await store.delete(child.resource, child.key, uid=meta["uid"], resource_version=meta["resourceVersion"])
    except NotFound:
        return
