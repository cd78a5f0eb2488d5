"""ObjectStore in a dict, with the semantics that controllers rely on.

Versions grow with every write, over all kinds. Objects are never changed in place: a write stores a new
dict, and what callers hand in or get out is a copy. Nothing is awaited inside a write, so each is
atomic for everything on the same event loop.

Differences from an API server: one served version per kind; no pruning of unknown fields and no
defaults unless `admit` does it; owner garbage collection happens within the deleting call; deletion takes
no time, so that grace periods mean nothing; a JSON patch cannot replace what is not there; a scale
cannot be applied; there are no evictions, bindings and tokens.
"""

from __future__ import annotations

import random
import re
import uuid
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Final, NamedTuple

import msgspec

from flexinfer.api.meta import ObjectKey, ObjectMeta
from flexinfer.clock import Clock
from flexinfer.errors import AlreadyExists, Conflict, Gone, Invalid, InvalidField, NotFound
from flexinfer.kube import fieldsets, jsonpatch, managers, scales, shapes
from flexinfer.kube.eventlog import EventLog
from flexinfer.kube.managers import Write, Writer
from flexinfer.kube.merge import copy_json, merge_patch, without_nulls
from flexinfer.kube.selection import check_fields, matches, seen
from flexinfer.kube.shapes import Shape
from flexinfer.kube.store import (
    DELETE,
    EVERYTHING,
    Deletion,
    JsonPatch,
    Object,
    ObjectList,
    Resource,
    Selection,
    WatchEvent,
    bookmark,
    key_of,
)
from flexinfer.kube.updates import SYSTEM_FIELDS, allowed_part, check_preconditions, desired, owner_uids
from flexinfer.kube.wiretime import wire_time

Admit = Callable[[Resource, Object], list[InvalidField]]
"""Judges an object before it is stored; it may fill in schema defaults in the object it is given."""

_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_BUILTIN_GROUPS: Final = frozenset({"", "apps", "autoscaling", "batch", "policy"})
_WITHOUT_STATUS: Final = frozenset(
    {"ConfigMap", "EndpointSlice", "Event", "Lease", "Role", "RoleBinding", "Secret", "ServiceAccount"}
)
_WITHOUT_GENERATION: Final = _WITHOUT_STATUS - {"EndpointSlice"} | {"PersistentVolumeClaim", "Service"}


class _Ref(NamedTuple):
    """One stored object."""

    kind: _Kind
    key: ObjectKey


class _Kind:
    """The objects and the events of one kind."""

    def __init__(self, resource: Resource, shape: Shape, log: EventLog) -> None:
        self.resource = resource
        self.shape = shape
        self.log = log
        self.objects: dict[ObjectKey, Object] = {}
        self.has_status = resource.kind not in _WITHOUT_STATUS
        self.has_generation = resource.kind not in _WITHOUT_GENERATION
        # The API server updates built-in kinds without a version, custom resources never.
        self.needs_version = resource.group not in _BUILTIN_GROUPS and not resource.group.endswith(".k8s.io")

    def present(self, selection: Selection) -> list[WatchEvent]:
        return [WatchEvent("ADDED", copy_json(obj)) for obj in self.objects.values() if matches(obj, selection)]

    def check_subresource(self, name: str | None) -> None:
        known = {"status": self.has_status, "scale": self.resource.kind in scales.SCALED_KINDS}
        if name and not known.get(name):
            raise NotFound(f"{self.name} have no subresource {name!r}")

    def find(self, key: ObjectKey) -> Object:
        found = self.objects.get(key)
        if found is None:
            raise NotFound(f'{self.name} "{key.name}" not found')
        return found

    @property
    def name(self) -> str:
        return f"{self.resource.plural}.{self.resource.group}" if self.resource.group else self.resource.plural


class MemoryStore:
    def __init__(
        self,
        clock: Clock,
        *,
        history: int = 2048,
        admit: Admit | None = None,
        shapes: Mapping[str, Shape] | None = None,
        rand: random.Random | None = None,
    ) -> None:
        """`history` bounds the events of each kind that are kept for watches.

        `shapes` are those of our own kinds for server-side apply, by kind (`shapes.from_schema`).
        """
        self._clock = clock
        self._history = history
        self._admit = admit
        self._shapes = shapes or {}
        self._rand = rand or random.Random()
        self._kinds: dict[tuple[str, str], _Kind] = {}
        self._children: dict[str, set[_Ref]] = {}
        self._uids: set[str] = set()
        # A later process starts with a higher version, so that nobody resumes a watch across a restart.
        self._first_version = self._version = int(clock.now().timestamp() * 1000)

    # Reading

    async def get(self, resource: Resource, key: ObjectKey, *, subresource: str | None = None) -> Object:
        kind = self._kind(resource)
        found = kind.find(key)
        kind.check_subresource(subresource)
        return scales.of(found) if subresource == "scale" else copy_json(found)

    async def list(self, resource: Resource, selection: Selection = EVERYTHING) -> ObjectList:
        kind = self._kind(resource)
        check_fields(resource.kind, selection)
        found = [obj for _, obj in sorted(kind.objects.items()) if matches(obj, selection)]
        return ObjectList(copy_json(found), str(self._version))

    async def watch(
        self, resource: Resource, resource_version: str, selection: Selection = EVERYTHING
    ) -> AsyncGenerator[WatchEvent, None]:
        """See ObjectStore. From "" or "0" it begins with an ADDED for every object there is.

        A bookmark comes whenever a quarter of the history has passed by outside the selection.
        """
        kind = self._kind(resource)
        check_fields(resource.kind, selection)
        start = self._start_version(resource_version)
        if start == 0:
            start = self._version
            for event in kind.present(selection):
                yield event
        async with aclosing(self._follow(kind, start, selection)) as events:
            async for event in events:
                yield event

    async def watch_list(
        self, resource: Resource, selection: Selection = EVERYTHING
    ) -> AsyncGenerator[WatchEvent, None]:
        kind = self._kind(resource)
        check_fields(resource.kind, selection)
        start = self._version
        for event in kind.present(selection):
            yield event
        yield bookmark(resource, str(start), initial_end=True)
        async with aclosing(self._follow(kind, start, selection)) as events:
            async for event in events:
                yield event

    async def _follow(self, kind: _Kind, start: int, selection: Selection) -> AsyncGenerator[WatchEvent, None]:
        passed_by = 0
        async with aclosing(kind.log.follow(start)) as entries:
            async for entry in entries:
                event = seen(entry.event, entry.previous, selection)
                if event is not None:
                    passed_by = 0
                    yield _copied(event)
                    continue
                passed_by += 1
                if passed_by * 4 >= self._history:
                    passed_by = 0
                    yield bookmark(kind.resource, str(entry.version))

    def _start_version(self, resource_version: str) -> int:
        if resource_version and not re.fullmatch(r"[0-9]{1,19}", resource_version):
            raise Invalid(f"resourceVersion: {resource_version!r} is not a version of this store")
        start = int(resource_version or 0)
        if start > self._version:
            raise Gone(f"resource version {start} is newer than this store ({self._version})")
        return start

    # Writing

    async def create(self, resource: Resource, obj: Object, *, field_manager: str = "flexinfer") -> Object:
        kind = self._kind(resource)
        new = self._incoming(kind, obj)
        meta = new["metadata"]
        if meta.get("resourceVersion"):
            raise Invalid("metadata.resourceVersion: must not be set on objects to be created")
        return self._create(kind, new, Writer(field_manager, "Update"))

    async def replace(
        self, resource: Resource, obj: Object, *, subresource: str | None = None, field_manager: str = "flexinfer"
    ) -> Object:
        kind = self._kind(resource)
        if subresource == "scale":
            return self._scale(kind, key_of(obj), lambda _: obj, field_manager)
        new = self._incoming(kind, obj)
        old = kind.find(key_of(new))
        kind.check_subresource(subresource)
        if kind.needs_version and not new["metadata"].get("resourceVersion"):
            raise Invalid(f"{kind.name} {key_of(new)}: metadata.resourceVersion: must be specified for an update")
        return self._update(kind, old, new, Writer(field_manager, "Update", subresource or ""))

    async def patch(
        self,
        resource: Resource,
        key: ObjectKey,
        patch: Object | JsonPatch,
        *,
        subresource: str | None = None,
        field_manager: str = "flexinfer",
    ) -> Object:
        kind = self._kind(resource)
        if subresource == "scale":
            return self._scale(kind, key, lambda scale: _patched(scale, patch), field_manager)
        old = kind.find(key)
        kind.check_subresource(subresource)
        new = self._incoming(kind, _patched(old, patch))
        if key_of(new) != key:
            raise Invalid(f"{kind.name} {key}: metadata.name and metadata.namespace cannot change")
        return self._update(kind, old, new, Writer(field_manager, "Update", subresource or ""))

    async def apply(
        self,
        resource: Resource,
        obj: Object,
        *,
        field_manager: str,
        force: bool = False,
        subresource: str | None = None,
    ) -> Object:
        kind = self._kind(resource)
        config = self._incoming(kind, obj)
        if config["metadata"].get("managedFields"):
            raise Invalid("metadata.managedFields: must not be set in an apply")
        writer = Writer(field_manager, "Apply", subresource or "")
        if subresource == "scale":
            raise Invalid("a scale cannot be applied: patch it")
        kind.check_subresource(subresource)
        key = key_of(config)
        old = kind.objects.get(key)
        if old is not None:
            merged = managers.applied(old, config, self._write(kind, writer), force=force)
            merged["metadata"]["resourceVersion"] = config["metadata"].get("resourceVersion")
            merged["metadata"]["uid"] = config["metadata"].get("uid")
            return self._update(kind, old, merged, writer)
        if subresource:
            kind.find(key)
        if config["metadata"].get("resourceVersion") or config["metadata"].get("uid"):
            raise Conflict(f"{kind.name} {key}: the object to apply to is gone")
        return self._create(kind, config, writer)

    async def delete(
        self,
        resource: Resource,
        key: ObjectKey,
        *,
        uid: str | None = None,
        resource_version: str | None = None,
        how: Deletion = DELETE,
    ) -> None:
        """`how` is not acted on: nothing here takes time to end, and dependents always go."""
        kind = self._kind(resource)
        old = kind.find(key)
        check_preconditions(f"{kind.name} {key}", old, uid, resource_version)
        self._delete(_Ref(kind, key))

    async def post(self, resource: Resource, key: ObjectKey, subresource: str, body: Object) -> Object:
        kind = self._kind(resource)
        kind.find(key)
        raise NotFound(f"{kind.name} have no subresource {subresource!r}")

    def _scale(self, kind: _Kind, key: ObjectKey, change: Callable[[Object], Object], manager: str) -> Object:
        old = kind.find(key)
        kind.check_subresource("scale")
        new = scales.scaled(old, change(scales.of(old)))
        return scales.of(self._update(kind, old, new, Writer(manager, "Update", "scale")))

    def _create(self, kind: _Kind, new: Object, writer: Writer) -> Object:
        meta = new["metadata"]
        for name in SYSTEM_FIELDS:
            meta.pop(name, None)
        if kind.has_status:
            new.pop("status", None)
        if not meta.get("name") and meta.get("generateName"):
            meta["name"] = meta["generateName"] + "".join(self._rand.choices("bcdfghjklmnpqrstvwxz2456789", k=5))
        key = key_of(new)
        if not _NAME.fullmatch(key.name) or len(key.name) > 253:
            raise Invalid(f"metadata.name: {key.name!r}: expected a DNS-1123 subdomain, at most 253 characters")
        if key in kind.objects:
            raise AlreadyExists(f'{kind.name} "{key.name}" already exists')
        meta["uid"] = str(uuid.UUID(int=self._rand.getrandbits(128), version=4))
        meta["creationTimestamp"] = self._timestamp()
        if kind.has_generation:
            meta["generation"] = 1
        self._judge(kind, new)
        write = self._write(kind, writer)
        if writer.operation == "Apply":
            new = managers.applied({}, new, write, force=False)
        else:
            meta["managedFields"] = managers.updated({}, new, write)
        self._uids.add(meta["uid"])
        return self._put(kind, key, None, new)

    def _update(self, kind: _Kind, old: Object, new: Object, writer: Writer) -> Object:
        given = new["metadata"]
        check_preconditions(f"{kind.name} {key_of(old)}", old, given.get("uid"), given.get("resourceVersion"))
        new = allowed_part(old, new, subresource=writer.subresource, has_status=kind.has_status)
        meta, before = new["metadata"], old["metadata"]
        if "deletionTimestamp" in before and set(meta.get("finalizers", ())) - set(before.get("finalizers", ())):
            raise Invalid("metadata.finalizers: no new finalizers can be added while the object is being deleted")
        self._judge(kind, new)
        if kind.has_generation and desired(old, has_status=kind.has_status) != desired(new, has_status=kind.has_status):
            meta["generation"] = before.get("generation", 0) + 1
        if writer.operation == "Apply":
            meta["managedFields"] = managers.kept(given["managedFields"], new, kind.shape)
        else:
            meta["managedFields"] = managers.updated(old, new, self._write(kind, writer))
        if new == old:
            unchanged: Object = copy_json(old)
            return unchanged
        key = key_of(old)
        if "deletionTimestamp" in meta and not meta.get("finalizers"):
            return self._remove(_Ref(kind, key), new)
        return self._put(kind, key, old, new)

    def _put(self, kind: _Kind, key: ObjectKey, old: Object | None, new: Object) -> Object:
        new["metadata"]["resourceVersion"] = str(self._next_version())
        kind.objects[key] = new
        ref = _Ref(kind, key)
        self._index_owners(ref, old, new)
        kind.log.append(self._version, WatchEvent("MODIFIED" if old else "ADDED", new), old)
        stored: Object = copy_json(new)
        self._collect([ref])
        return stored

    # Deletion

    def _delete(self, ref: _Ref) -> None:
        old = ref.kind.find(ref.key)
        if not old["metadata"].get("finalizers"):
            self._remove(ref, old)
        elif "deletionTimestamp" not in old["metadata"]:
            new: Object = copy_json(old)
            new["metadata"].update(deletionTimestamp=self._timestamp(), deletionGracePeriodSeconds=0)
            if ref.kind.has_generation:
                new["metadata"]["generation"] += 1
            self._put(ref.kind, ref.key, old, new)

    def _remove(self, ref: _Ref, last: Object) -> Object:
        """Takes the object out; `last` is its final state."""
        stored = ref.kind.objects.pop(ref.key)
        self._index_owners(ref, stored, None)
        gone: Object = copy_json(last)
        gone["metadata"]["resourceVersion"] = str(self._next_version())
        ref.kind.log.append(self._version, WatchEvent("DELETED", gone), stored)
        uid = stored["metadata"]["uid"]
        self._uids.discard(uid)
        self._collect(list(self._children.get(uid, ())))
        returned: Object = copy_json(gone)
        return returned

    def _collect(self, candidates: _Refs) -> None:
        """Delete those whose owners are all gone, by uid."""
        pending = deque(sorted(candidates, key=lambda ref: (ref.kind.name, ref.key)))
        while pending:
            ref = pending.popleft()
            obj = ref.kind.objects.get(ref.key)
            owners = set(owner_uids(obj))
            if obj is not None and owners and not owners & self._uids:
                self._delete(ref)

    def _index_owners(self, ref: _Ref, old: Object | None, new: Object | None) -> None:
        before, after = set(owner_uids(old)), set(owner_uids(new))
        for uid in before - after:
            children = self._children[uid]
            children.discard(ref)
            if not children:
                del self._children[uid]
        for uid in after - before:
            self._children.setdefault(uid, set()).add(ref)

    # Details

    def _kind(self, resource: Resource) -> _Kind:
        found = self._kinds.get((resource.group, resource.plural))
        if found is None:
            shape = self._shapes.get(resource.kind) or shapes.builtin(resource.kind)
            log = EventLog(history=self._history, version=self._first_version)
            found = self._kinds[resource.group, resource.plural] = _Kind(resource, shape, log)
        return found

    def _incoming(self, kind: _Kind, obj: Object) -> Object:
        """A copy of what a caller handed in, with its identity checked."""
        new: Object = {"apiVersion": kind.resource.api_version, "kind": kind.resource.kind, **copy_json(obj)}
        for name, expected in (("apiVersion", kind.resource.api_version), ("kind", kind.resource.kind)):
            if new[name] != expected:
                raise Invalid(f"{name}: {new[name]!r}: expected {expected!r}")
        try:
            msgspec.convert(without_nulls(new.setdefault("metadata", {})), ObjectMeta)
        except msgspec.ValidationError as error:
            raise Invalid(f"metadata: {error}") from None
        meta = new["metadata"] = without_nulls(new["metadata"])
        if kind.resource.namespaced != bool(meta.get("namespace")):
            wanted = "a namespace" if kind.resource.namespaced else "none: the kind is cluster-scoped"
            raise Invalid(f"metadata.namespace: {meta.get('namespace')!r}: expected {wanted}")
        return new

    def _judge(self, kind: _Kind, new: Object) -> None:
        errors = self._admit(kind.resource, new) if self._admit else []
        if errors:
            listed = "; ".join(str(error) for error in errors)
            raise Invalid(f'{kind.resource.kind} "{new["metadata"]["name"]}" is invalid: {listed}')
        if twice := fieldsets.duplicates(new, kind.shape):
            raise Invalid(f"list items with the same key at {', '.join(twice)}")

    def _write(self, kind: _Kind, writer: Writer) -> Write:
        return Write(writer, kind.resource.api_version, self._timestamp(), kind.shape, kind.has_status)

    def _next_version(self) -> int:
        self._version += 1
        return self._version

    def _timestamp(self) -> str:
        return wire_time(self._clock.now())


_Refs = list[_Ref]


def _copied(event: WatchEvent) -> WatchEvent:
    return event._replace(object=copy_json(event.object))


def _patched(obj: Object, patch: Object | JsonPatch) -> Object:
    if not isinstance(patch, dict | list):
        raise Invalid("a patch must be an object, or a list of operations")
    result = jsonpatch.patched(obj, patch) if isinstance(patch, list) else merge_patch(obj, patch)
    if not isinstance(result, dict):
        raise Invalid("the patch leaves no object")
    return result
