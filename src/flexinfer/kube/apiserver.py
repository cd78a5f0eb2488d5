"""REST front of an ObjectStore: the paths, verbs, watches and errors of the Kubernetes API.

What it does not know it refuses (dry runs, set-based selectors, strategic patches), so that no caller
believes in something that did not happen.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Final, NamedTuple

import msgspec
from aiohttp import web

from flexinfer import logs
from flexinfer.api import documents
from flexinfer.api.meta import ObjectKey
from flexinfer.errors import Invalid, InvalidManifest, StoreError
from flexinfer.kube import paths, status
from flexinfer.kube.store import Object, ObjectStore, Resource, Selection, WatchEvent, bookmark

log = logs.get("apiserver")

_LARGEST_OBJECT: Final = 3 * 1024 * 1024
_LONGEST_WATCH_S: Final = 3600.0
_CLIENT_CHECK_S: Final = 1.0
_CLOSING: Final = web.AppKey("closing", asyncio.Event)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class BadRequest(StoreError):
    status = 400
    reason = "BadRequest"


class UnsupportedMediaType(StoreError):
    status = 415
    reason = "UnsupportedMediaType"


def build_app(store: ObjectStore, resources: tuple[Resource, ...]) -> web.Application:
    """The application that serves `resources` from `store`."""
    app = web.Application(middlewares=[_errors], client_max_size=_LARGEST_OBJECT)
    app[_CLOSING] = asyncio.Event()

    async def end_watches(app: web.Application) -> None:
        app[_CLOSING].set()

    app.on_shutdown.append(end_watches)
    for resource in resources:
        _Routes(store, resource).add_to(app)
    _add_discovery(app, resources)
    return app


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except StoreError as error:
        return _json(status.from_error(error), error.status)
    except web.HTTPException as error:
        reason = (error.reason or "Unknown").replace(" ", "")
        return _json(
            status.failure(error.status, reason, error.text or reason), error.status, error.headers.get("Allow")
        )


def _json(value: Any, code: int = 200, allow: str | None = None) -> web.Response:
    headers = {"Allow": allow} if allow else None
    return web.Response(body=msgspec.json.encode(value), status=code, content_type="application/json", headers=headers)


class _Target(NamedTuple):
    """What the path of a request names."""

    namespace: str
    name: str
    subresource: str | None

    @property
    def key(self) -> ObjectKey:
        return ObjectKey(self.namespace, self.name)


def _target(request: web.Request) -> _Target:
    found = request.match_info
    return _Target(found.get("namespace", ""), found.get("name", ""), found.get("subresource"))


class _Routes:
    """The handlers of one resource."""

    def __init__(self, store: ObjectStore, resource: Resource) -> None:
        self._store = store
        self._resource = resource

    def add_to(self, app: web.Application) -> None:
        base, plural = paths.group(self._resource), self._resource.plural
        scope = f"{base}/namespaces/{{namespace}}" if self._resource.namespaced else base
        app.router.add_get(f"{scope}/{plural}", self.list)
        app.router.add_post(f"{scope}/{plural}", self.create)
        if self._resource.namespaced:
            app.router.add_get(f"{base}/{plural}", self.list)
        item = f"{scope}/{plural}/{{name}}"
        for path in (item, f"{item}/{{subresource:status|scale}}"):
            app.router.add_get(path, self.get)
            app.router.add_put(path, self.replace)
            app.router.add_patch(path, self.patch)
        app.router.add_delete(item, self.delete)

    async def get(self, request: web.Request) -> web.StreamResponse:
        target = _target(request)
        return _json(await self._store.get(self._resource, target.key, subresource=target.subresource))

    async def list(self, request: web.Request) -> web.StreamResponse:
        selection = Selection(
            _target(request).namespace or None, _selector(request, "labelSelector"), _selector(request, "fieldSelector")
        )
        if _flag(request.query.get("watch", "")):
            return await self._watch(request, selection)
        found = await self._store.list(self._resource, selection)
        return _json(
            {
                "apiVersion": self._resource.api_version,
                "kind": f"{self._resource.kind}List",
                "metadata": {"resourceVersion": found.resource_version},
                "items": found.items,
            }
        )

    async def create(self, request: web.Request) -> web.StreamResponse:
        obj = self._named(await _body(request), _target(request))
        return _json(await self._store.create(self._resource, obj, field_manager=_manager(request)), 201)

    async def replace(self, request: web.Request) -> web.StreamResponse:
        target = _target(request)
        obj = self._named(await _body(request), target)
        stored = await self._store.replace(
            self._resource, obj, subresource=target.subresource, field_manager=_manager(request)
        )
        return _json(stored)

    async def patch(self, request: web.Request) -> web.StreamResponse:
        target = _target(request)
        if request.content_type in {paths.MERGE_PATCH, paths.JSON_PATCH}:
            patch = await _json_body(request)
            if isinstance(patch, list) != (request.content_type == paths.JSON_PATCH):
                raise BadRequest("the body is not a patch of the kind that Content-Type says")
            stored = await self._store.patch(
                self._resource, target.key, patch, subresource=target.subresource, field_manager=_manager(request)
            )
        elif request.content_type == paths.APPLY_PATCH:
            if not request.query.get("fieldManager"):
                raise BadRequest("fieldManager: is required for apply patch")
            stored = await self._store.apply(
                self._resource,
                self._named(await _body(request, yaml=True), target),
                field_manager=_manager(request),
                force=_flag(request.query.get("force", "")),
                subresource=target.subresource,
            )
        else:
            known = f"{paths.MERGE_PATCH}, {paths.JSON_PATCH} or {paths.APPLY_PATCH}"
            raise UnsupportedMediaType(f"{request.content_type}: expected {known}")
        return _json(stored)

    async def delete(self, request: web.Request) -> web.StreamResponse:
        options = await _body(request) if request.can_read_body else {}
        preconditions = options.get("preconditions") or {}
        await self._store.delete(
            self._resource,
            _target(request).key,
            uid=preconditions.get("uid"),
            resource_version=preconditions.get("resourceVersion"),
        )
        return _json(status.success())

    def _named(self, obj: Object, target: _Target) -> Object:
        """The object of the body with the identity that the path gives it."""
        meta = obj.get("metadata") or {}
        if not isinstance(meta, dict):
            raise BadRequest("metadata: expected an object")
        named = {**meta}
        for field, value in (("namespace", target.namespace), ("name", target.name)):
            if value and named.setdefault(field, value) != value:
                raise BadRequest(f"metadata.{field}: {named[field]!r}: the path says {value!r}")
        return {**obj, "metadata": named}

    # Watching

    async def _watch(self, request: web.Request, selection: Selection) -> web.StreamResponse:
        query = request.query
        version = query.get("resourceVersion", "")
        if not re.fullmatch(r"[0-9]{0,19}", version):
            raise BadRequest(f"resourceVersion: {version!r}: expected a number")
        limit = query.get("timeoutSeconds", "")
        if not re.fullmatch(r"[0-9]{0,9}", limit):
            raise BadRequest(f"timeoutSeconds: {limit!r}: expected a number")
        bookmarks = _flag(query.get("allowWatchBookmarks", ""))
        listed = _flag(query.get("sendInitialEvents", ""))
        if listed and not (bookmarks and query.get("resourceVersionMatch") == "NotOlderThan"):
            raise Invalid("sendInitialEvents: expected allowWatchBookmarks and resourceVersionMatch=NotOlderThan too")
        if listed:
            events = self._store.watch_list(self._resource, selection)
        else:
            events = self._store.watch(self._resource, version, selection)
        stream = _WatchStream(request, bookmarks=bookmarks, version=None if listed else version)
        try:
            await stream.open()
        except ConnectionResetError:
            return stream.response  # The client left before its first line.
        pump = asyncio.create_task(_pump(events, stream))
        try:
            await stream.until_over(pump, min(float(limit or _LONGEST_WATCH_S), _LONGEST_WATCH_S))
        finally:
            pump.cancel()
            (ended,) = await asyncio.gather(pump, return_exceptions=True)
        if isinstance(ended, Exception) and not isinstance(ended, OSError):
            raise ended
        await stream.close(self._resource)
        return stream.response


async def _pump(events: AsyncGenerator[WatchEvent, None], stream: _WatchStream) -> None:
    try:
        async with aclosing(events):
            async for event in events:
                await stream.send(event)
    except StoreError as error:
        stream.failed = True
        await stream.write({"type": "ERROR", "object": status.from_error(error)})


class _WatchStream:
    """One watch as the client sees it: a line of JSON for each event, until somebody has enough."""

    def __init__(self, request: web.Request, *, bookmarks: bool, version: str | None) -> None:
        self.response = web.StreamResponse(headers={"Content-Type": "application/json", "Cache-Control": "no-cache"})
        self.version = version or ""
        self.failed = False
        self._listing = version is None
        self._bookmarks = bookmarks
        self._request = request

    async def open(self) -> None:
        self.response.enable_chunked_encoding()
        await self.response.prepare(self._request)

    async def send(self, event: WatchEvent) -> None:
        if event.type != "BOOKMARK" or self._bookmarks:
            await self.write(event._asdict())
        # Between the objects of a streaming list their versions say nothing of how far it is.
        self._listing = self._listing and not event.is_initial_end
        if not self._listing:
            self.version = event.object["metadata"]["resourceVersion"]

    async def write(self, line: Object) -> None:
        await self.response.write(msgspec.json.encode(line) + b"\n")

    def _client_left(self) -> bool:
        transport = self._request.transport
        return transport is None or transport.is_closing()

    async def until_over(self, pump: asyncio.Task[None], limit_s: float) -> None:
        """Returns when the events end, the server closes, the client leaves or the time is up."""
        closing = asyncio.create_task(self._request.app[_CLOSING].wait())
        deadline = asyncio.get_running_loop().time() + limit_s
        try:
            while not self._client_left():
                left_s = deadline - asyncio.get_running_loop().time()
                if left_s <= 0:
                    return
                await asyncio.wait(
                    {pump, closing}, timeout=min(left_s, _CLIENT_CHECK_S), return_when=asyncio.FIRST_COMPLETED
                )
                if pump.done() or closing.done():
                    return
        finally:
            closing.cancel()

    async def close(self, resource: Resource) -> None:
        if self._client_left():
            return
        if self._bookmarks and not self.failed and self.version:
            await self.write(bookmark(resource, self.version)._asdict())
        await self.response.write_eof()


async def _body(request: web.Request, *, yaml: bool = False) -> Object:
    found = await _json_body(request, yaml=yaml)
    if not isinstance(found, dict):
        raise BadRequest("the body is not an object")
    return found


async def _json_body(request: web.Request, *, yaml: bool = False) -> Any:
    if "dryRun" in request.query:
        raise BadRequest("dryRun is not supported")
    data = await request.read()
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if not yaml:
            raise BadRequest(f"the body is not JSON: {error}") from None
        return _from_yaml(data)


def _from_yaml(data: bytes) -> Object:
    try:
        parsed = documents.parse(data)
    except InvalidManifest as error:
        raise BadRequest(f"the body cannot be read: {error}") from None
    if len(parsed) != 1:
        raise BadRequest(f"the body has {len(parsed)} documents: expected one")
    return parsed[0].object


def _manager(request: web.Request) -> str:
    agent = request.headers.get("User-Agent", "unknown")
    return request.query.get("fieldManager") or agent.split("/")[0]


def _flag(text: str) -> bool:
    return text.lower() in {"1", "true"}


def _selector(request: web.Request, name: str) -> dict[str, str]:
    wanted = {}
    for part in filter(None, request.query.get(name, "").split(",")):
        match = re.fullmatch(r"\s*([-A-Za-z0-9_./]+)\s*==?\s*([-A-Za-z0-9_.]*)\s*", part)
        if match is None:
            raise BadRequest(f"{name}: {part!r}: only NAME=VALUE is supported")
        wanted[match[1]] = match[2]
    return wanted


def _add_discovery(app: web.Application, resources: tuple[Resource, ...]) -> None:
    def answer(path: str, value: Object) -> None:
        async def handler(_request: web.Request) -> web.StreamResponse:
            return _json(value)

        app.router.add_get(path, handler)

    groups: dict[str, list[Resource]] = {}
    for resource in resources:
        groups.setdefault(resource.api_version, []).append(resource)
    for api_version, members in groups.items():
        listed = [
            {
                "name": resource.plural,
                "singularName": resource.kind.lower(),
                "namespaced": resource.namespaced,
                "kind": resource.kind,
                "verbs": ["create", "delete", "get", "list", "patch", "update", "watch"],
            }
            for resource in members
        ]
        answer(
            paths.group(members[0]),
            {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api_version, "resources": listed},
        )
    answer("/api", {"kind": "APIVersions", "versions": [r.version for r in resources if not r.group][:1]})
    named = []
    for resource in {r.group: r for r in resources if r.group}.values():
        version = {"groupVersion": resource.api_version, "version": resource.version}
        named.append({"name": resource.group, "versions": [version], "preferredVersion": version})
    answer("/apis", {"kind": "APIGroupList", "apiVersion": "v1", "groups": named})
