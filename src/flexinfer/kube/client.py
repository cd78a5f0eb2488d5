"""ObjectStore over the Kubernetes REST API.

Every call has a time limit of its own. A watch asks the server to end it after a while and has a
deadline besides, so that a connection that went silent is noticed. Answers with 429 are waited out as
told; every other failure is the caller's to retry, who knows what a lost answer means.
"""

from __future__ import annotations

import asyncio
import io
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import aiohttp
import msgspec
from yarl import URL

from flexinfer.api.meta import ObjectKey
from flexinfer.errors import Invalid, StoreError
from flexinfer.kube import paths, status
from flexinfer.kube.selection import text
from flexinfer.kube.store import (
    DELETE,
    EVERYTHING,
    INITIAL_END,
    Deletion,
    JsonPatch,
    Object,
    ObjectList,
    Resource,
    Selection,
    WatchEvent,
)

_THROTTLED_TRIES: Final = 5
_LONGEST_WAIT_S: Final = 30.0
_PAGE_SIZE: Final = 500
_LONGEST_LINE: Final = 64 * 1024 * 1024
_MERGE: Final = {"Content-Type": paths.MERGE_PATCH}
_JSON_PATCH: Final = {"Content-Type": paths.JSON_PATCH}
_STREAMED: Final = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
_APPLY: Final = {"Content-Type": paths.APPLY_PATCH}


class _Call(NamedTuple):
    method: str
    path: str
    params: dict[str, str] = {}
    body: Any = None
    headers: dict[str, str] = {}


class HttpStore:
    def __init__(
        self,
        session: aiohttp.ClientSession,
        base_url: str,
        *,
        timeout_s: float = 30.0,
        watch_timeout_s: float = 120.0,
        watch_grace_s: float = 10.0,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Owns `session`.

        A watch asks the server to end it after `watch_timeout_s`, give or take a tenth and in whole
        seconds, and ends itself `watch_grace_s` later.
        """
        self._session = session
        self._base_url = base_url.rstrip("/")
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._watch_timeout_s = watch_timeout_s
        self._watch_grace_s = watch_grace_s
        self._sleep = sleep
        self._rand = random.Random()
        self._without_streams: set[Resource] = set()

    async def close(self) -> None:
        await self._session.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def get(self, resource: Resource, key: ObjectKey, *, subresource: str | None = None) -> Object:
        return await self._call(_Call("GET", paths.item(resource, key, subresource)))

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
            page = await self._call(_Call("GET", paths.collection(resource, selection.namespace), params))
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
            except Invalid:
                self._without_streams.add(resource)
        version = ""
        async with aclosing(self._pages(resource, selection)) as pages:
            async for page in pages:
                version = page.resource_version
                for obj in page.items:
                    yield WatchEvent("ADDED", obj)
        meta = {"resourceVersion": version, "annotations": {INITIAL_END: "true"}}
        yield WatchEvent("BOOKMARK", {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": meta})
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
        url = self._url(_Call("GET", paths.collection(resource, selection.namespace), params))
        deadline = aiohttp.ClientTimeout(total=asked_s + self._watch_grace_s, sock_connect=self._timeout.total)
        try:
            async with self._session.get(url, timeout=deadline, allow_redirects=False) as response:
                if response.status != 200:
                    raise status.to_error(response.status, _decoded(await response.read()))
                pending = bytearray()
                async for chunk in response.content.iter_any():
                    pending += chunk
                    if len(pending) > _LONGEST_LINE:
                        raise ConnectionError(f"watch of {resource.plural}: a line of more than {_LONGEST_LINE} bytes")
                    if b"\n" not in chunk:
                        continue
                    *lines, rest = bytes(pending).split(b"\n")
                    pending = bytearray(rest)
                    for line in lines:
                        if line.strip():
                            yield _event(line)
        except aiohttp.ClientError as error:
            raise ConnectionError(f"watch of {resource.plural}: {_why(error)}") from error

    async def create(self, resource: Resource, obj: Object, *, field_manager: str = "flexinfer") -> Object:
        path = paths.collection(resource, _key(resource, obj).namespace)
        return await self._call(_Call("POST", path, {"fieldManager": field_manager}, _typed(resource, obj)))

    async def replace(
        self, resource: Resource, obj: Object, *, subresource: str | None = None, field_manager: str = "flexinfer"
    ) -> Object:
        path = paths.item(resource, _key(resource, obj), subresource)
        return await self._call(_Call("PUT", path, {"fieldManager": field_manager}, _typed(resource, obj)))

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
        return await self._call(_Call("PATCH", path, params, _typed(resource, obj), _APPLY))

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
        return await self._call(
            _Call(
                "PATCH",
                path,
                {"fieldManager": field_manager},
                patch,
                _JSON_PATCH if isinstance(patch, list) else _MERGE,
            )
        )

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
        await self._call(_Call("DELETE", paths.item(resource, key), body=body))

    async def post(self, resource: Resource, key: ObjectKey, subresource: str, body: Object) -> Object:
        return await self._call(_Call("POST", paths.item(resource, key, subresource), body=body))

    def _url(self, call: _Call) -> URL:
        return URL(self._base_url + call.path).with_query(call.params)

    async def _call(self, call: _Call) -> Object:
        for tries_left in reversed(range(_THROTTLED_TRIES)):
            code, retry_after_s, data = await self._send(call)
            if code in {200, 201, 202}:
                found = _decoded(data)
                if not isinstance(found, dict):
                    raise ConnectionError(f"{call.method} {call.path}: the answer is not a JSON object")
                return found
            if code != 429 or retry_after_s is None or not tries_left:
                raise status.to_error(code, _decoded(data))
            await self._sleep(retry_after_s)
        raise StoreError(f"{call.method} {call.path}: throttled")

    async def _send(self, call: _Call) -> tuple[int, float | None, bytes]:
        # A file-like body is written in pieces: a large one does not hold up the event loop.
        data = None if call.body is None else io.BytesIO(msgspec.json.encode(call.body))
        headers = {"Content-Type": "application/json", "Accept": "application/json", **call.headers}
        try:
            async with self._session.request(
                call.method,
                self._url(call),
                data=data,
                headers=headers,
                timeout=self._timeout,
                allow_redirects=False,
            ) as response:
                return response.status, _retry_after_s(response), await response.read()
        except aiohttp.ClientError as error:
            raise ConnectionError(f"{call.method} {call.path}: {_why(error)}") from error


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


def _why(error: aiohttp.ClientError) -> str:
    return str(error) or type(error).__name__


def _event(line: bytes) -> WatchEvent:
    event = _decoded(line)
    if not isinstance(event, dict) or not isinstance(event.get("object"), dict):
        raise ConnectionError(f"unreadable watch event: {line[:200]!r}")
    if event.get("type") == "ERROR":
        raise status.to_error(event["object"].get("code", 500), event["object"])
    return WatchEvent(event["type"], event["object"])


def _decoded(data: bytes) -> Any:
    """The JSON value, or the text where it is none (an error page of something in between)."""
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return data.decode(errors="replace")


def _retry_after_s(response: aiohttp.ClientResponse) -> float | None:
    given = response.headers.get("Retry-After", "")
    return min(float(given), _LONGEST_WAIT_S) if given.isascii() and given.isdigit() else None
