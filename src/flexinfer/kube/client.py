"""ObjectStore over the Kubernetes REST API.

Every call has a time limit of its own. A watch asks the server to end it after a while and has a
deadline besides, so that a connection that went silent is noticed.
"""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator
from contextlib import aclosing
from types import TracebackType
from typing import Final, Self

import msgspec

from flexinfer.api.meta import ObjectKey
from flexinfer.errors import Conflict, Invalid, StoreError
from flexinfer.kube import paths, status
from flexinfer.kube.connection import Call, Connection
from flexinfer.kube.selection import text
from flexinfer.kube.store import (
    DELETE,
    EVERYTHING,
    PODS,
    Deletion,
    JsonPatch,
    Object,
    ObjectList,
    Resource,
    Selection,
    WatchEvent,
    bookmark,
)

_PAGE_SIZE: Final = 500
_STREAMED: Final = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}


class HttpStore:
    def __init__(
        self,
        connection: Connection,
        *,
        namespace: str = "default",
        watch_timeout_s: float = 120.0,
        watch_grace_s: float = 10.0,
    ) -> None:
        """Owns `connection`; `namespace` is the one that callers mean who name none.

        A watch asks the server to end it after `watch_timeout_s`, give or take a tenth and in whole
        seconds, and ends itself `watch_grace_s` later.
        """
        self.namespace = namespace
        self._connection = connection
        self._watch_timeout_s = watch_timeout_s
        self._watch_grace_s = watch_grace_s
        self._rand = random.Random()
        self._without_streams: set[Resource] = set()

    async def close(self) -> None:
        await self._connection.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def get(self, resource: Resource, key: ObjectKey, *, subresource: str | None = None) -> Object:
        return await self._connection.call(Call("GET", paths.item(resource, key, subresource)))

    async def list(self, resource: Resource, selection: Selection = EVERYTHING) -> ObjectList:
        """In pages; raises Gone when the server forgot the version in between."""
        items: Objects = []
        version = ""
        async with aclosing(self._pages(resource, selection)) as pages:
            async for page in pages:
                items += page.items
                version = page.resource_version
        return ObjectList(items, version)

    async def _pages(self, resource: Resource, selection: Selection) -> AsyncGenerator[ObjectList, None]:
        params = {"limit": str(_PAGE_SIZE), **_selectors(selection)}
        while True:
            page = await self._connection.call(Call("GET", paths.collection(resource, selection.namespace), params))
            meta = page["metadata"]
            # Lists of built-in kinds leave out what the list itself says.
            said = {"apiVersion": resource.api_version, "kind": resource.kind}
            yield ObjectList([{**said, **obj} for obj in page.get("items") or ()], meta["resourceVersion"])
            if not meta.get("continue"):
                return
            params["continue"] = meta["continue"]

    async def watch(
        self, resource: Resource, resource_version: str, selection: Selection = EVERYTHING
    ) -> AsyncGenerator[WatchEvent, None]:
        async with aclosing(self._stream(resource, selection, {"resourceVersion": resource_version})) as events:
            async for event in events:
                yield event

    async def watch_list(
        self, resource: Resource, selection: Selection = EVERYTHING
    ) -> AsyncGenerator[WatchEvent, None]:
        """By a streaming list where the server has them, else by a list in pages and a watch."""
        if resource not in self._without_streams:
            try:
                async with aclosing(self._stream(resource, selection, _STREAMED)) as events:
                    async for event in events:
                        yield event
                return
            except StoreError as error:
                if not _refuses_streams(error):
                    raise
                self._without_streams.add(resource)
        version = ""
        async with aclosing(self._pages(resource, selection)) as pages:
            async for page in pages:
                version = page.resource_version
                for obj in page.items:
                    yield WatchEvent("ADDED", obj)
        yield bookmark(resource, version, initial_end=True)
        async with aclosing(self.watch(resource, version, selection)) as events:
            async for event in events:
                yield event

    async def _stream(
        self, resource: Resource, selection: Selection, start: dict[str, str]
    ) -> AsyncGenerator[WatchEvent, None]:
        asked_s = max(1, round(self._watch_timeout_s * self._rand.uniform(0.9, 1.1)))
        params = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(asked_s),
            **_selectors(selection),
            **start,
        }
        call = Call("GET", paths.collection(resource, selection.namespace), params)
        async with aclosing(self._connection.lines(call, limit_s=asked_s + self._watch_grace_s)) as batches:
            async for lines in batches:
                for line in lines:
                    yield _event(resource, line)

    async def create(self, resource: Resource, obj: Object, *, field_manager: str = "flexinfer") -> Object:
        path = paths.collection(resource, _key(resource, obj).namespace)
        if (obj.get("metadata") or {}).get("resourceVersion"):
            # The API server calls this an internal error.
            raise Invalid("metadata.resourceVersion: must not be set on objects to be created")
        return await self._connection.call(Call("POST", path, {"fieldManager": field_manager}, _typed(resource, obj)))

    async def replace(
        self, resource: Resource, obj: Object, *, subresource: str | None = None, field_manager: str = "flexinfer"
    ) -> Object:
        path = paths.item(resource, _key(resource, obj), subresource)
        return await self._connection.call(Call("PUT", path, {"fieldManager": field_manager}, _typed(resource, obj)))

    async def apply(
        self,
        resource: Resource,
        obj: Object,
        *,
        field_manager: str,
        force: bool = False,
        subresource: str | None = None,
    ) -> Object:
        path = paths.item(resource, _key(resource, obj), subresource)
        params = {"fieldManager": field_manager, "force": "true" if force else "false"}
        return await self._connection.call(Call("PATCH", path, params, _typed(resource, obj), paths.APPLY_PATCH))

    async def patch(
        self,
        resource: Resource,
        key: ObjectKey,
        patch: Object | JsonPatch,
        *,
        subresource: str | None = None,
        field_manager: str = "flexinfer",
    ) -> Object:
        path = paths.item(resource, key, subresource)
        content_type = paths.JSON_PATCH if isinstance(patch, list) else paths.MERGE_PATCH
        call = Call("PATCH", path, {"fieldManager": field_manager}, patch, content_type)
        try:
            return await self._connection.call(call)
        except Invalid as error:
            if isinstance(patch, dict) and "uid" in (patch.get("metadata") or {}) and "metadata.uid" in str(error):
                # The API server calls a patch for another uid an attempt to change it.
                raise Conflict(str(error)) from None
            raise

    async def delete(
        self,
        resource: Resource,
        key: ObjectKey,
        *,
        uid: str | None = None,
        resource_version: str | None = None,
        how: Deletion = DELETE,
    ) -> None:
        preconditions = {"uid": uid, "resourceVersion": resource_version}
        # Jobs would leave their pods behind by default.
        body: Object = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": how.propagation}
        if how.grace_period_s is not None:
            body["gracePeriodSeconds"] = how.grace_period_s
        if given := {name: value for name, value in preconditions.items() if value}:
            body["preconditions"] = given
        await self._connection.call(Call("DELETE", paths.item(resource, key), body=body))

    async def post(self, resource: Resource, key: ObjectKey, subresource: str, body: Object) -> Object:
        # A budget that forbids an eviction for now says so as a server does that is overloaded.
        waits = subresource != "eviction"
        return await self._connection.call(Call("POST", paths.item(resource, key, subresource), body=body, waits=waits))

    async def pod_log(self, key: ObjectKey, container: str, *, lines: int) -> str:
        """The last lines that a container has written."""
        params = {"container": container, "tailLines": str(lines)}
        return await self._connection.text(Call("GET", paths.item(PODS, key, "log"), params))


Objects = list[Object]


def _key(resource: Resource, obj: Object) -> ObjectKey:
    meta = obj.get("metadata") or {}
    namespace = meta.get("namespace") or ""
    if resource.namespaced != bool(namespace):
        wanted = "a namespace" if resource.namespaced else "none: the kind is cluster-scoped"
        raise Invalid(f"metadata.namespace: {namespace!r}: expected {wanted}")
    return ObjectKey(namespace, meta.get("name") or "")


def _selectors(selection: Selection) -> dict[str, str]:
    given = {"labelSelector": text(selection.labels), "fieldSelector": text(selection.fields)}
    return {name: value for name, value in given.items() if value}


def _typed(resource: Resource, obj: Object) -> Object:
    return {"apiVersion": resource.api_version, "kind": resource.kind, **obj}


def _refuses_streams(error: StoreError) -> bool:
    """A call that is not valid; over an old etcd some begin the stream and call what is missing an internal error."""
    return isinstance(error, Invalid) or "storage feature RequestWatchProgress is disabled" in str(error)


def _event(resource: Resource, line: bytes) -> WatchEvent:
    try:
        event = msgspec.json.decode(line)
        kind, obj = event["type"], event["object"]
        if kind == "ERROR":
            raise status.to_error(obj.get("code", 500), obj)
        obj["metadata"]["resourceVersion"]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, LookupError, TypeError, AttributeError):
        # What stands in the line may be a Secret.
        raise ConnectionError(f"watch of {resource.plural}: an event of {len(line)} bytes cannot be read") from None
    return WatchEvent(kind, obj)
