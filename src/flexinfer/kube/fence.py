"""A store whose writes pass only while this process leads.

Each write asks when it is sent, not when it was decided on, and is given up when the lead ends: a process
that was stopped or stalled in between writes nothing after its deadline. A write that was sent is not
unsent by who waits for it being cancelled: it stays under way until its answer, and so does the lead.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Protocol, TypeVar

from flexinfer.api.meta import ObjectKey
from flexinfer.errors import NotLeading
from flexinfer.kube.deadline import within
from flexinfer.kube.store import (
    DELETE,
    EVERYTHING,
    Deletion,
    JsonPatch,
    Object,
    ObjectList,
    ObjectStore,
    Resource,
    Selection,
    WatchEvent,
)
from flexinfer.kube.workqueue import CallLater

T = TypeVar("T")


class Lead(Protocol):
    def left_s(self) -> float:
        """How long this process may still write; 0 when it does not lead."""
        ...

    @property
    def under_way(self) -> set[asyncio.Future[Any]]:
        """Writes without an answer yet; the lead is not given back before they have one."""
        ...


class Fenced:
    """Raises NotLeading where a write is refused, TimeoutError where the lead ended before its answer came."""

    def __init__(self, store: ObjectStore, lead: Lead, *, call_later: CallLater | None = None) -> None:
        self._store = store
        self._lead = lead
        self._call_later = call_later

    async def get(self, resource: Resource, key: ObjectKey, *, subresource: str | None = None) -> Object:
        return await self._store.get(resource, key, subresource=subresource)

    async def list(self, resource: Resource, selection: Selection = EVERYTHING) -> ObjectList:
        return await self._store.list(resource, selection)

    def watch(
        self, resource: Resource, resource_version: str, selection: Selection = EVERYTHING
    ) -> AsyncGenerator[WatchEvent, None]:
        return self._store.watch(resource, resource_version, selection)

    def watch_list(self, resource: Resource, selection: Selection = EVERYTHING) -> AsyncGenerator[WatchEvent, None]:
        return self._store.watch_list(resource, selection)

    async def create(self, resource: Resource, obj: Object, *, field_manager: str = "flexinfer") -> Object:
        return await self._write(lambda: self._store.create(resource, obj, field_manager=field_manager))

    async def replace(
        self, resource: Resource, obj: Object, *, subresource: str | None = None, field_manager: str = "flexinfer"
    ) -> Object:
        return await self._write(
            lambda: self._store.replace(resource, obj, subresource=subresource, field_manager=field_manager)
        )

    async def apply(
        self,
        resource: Resource,
        obj: Object,
        *,
        field_manager: str,
        force: bool = False,
        subresource: str | None = None,
    ) -> Object:
        return await self._write(
            lambda: self._store.apply(resource, obj, field_manager=field_manager, force=force, subresource=subresource)
        )

    async def patch(
        self,
        resource: Resource,
        key: ObjectKey,
        patch: Object | JsonPatch,
        *,
        subresource: str | None = None,
        field_manager: str = "flexinfer",
    ) -> Object:
        return await self._write(
            lambda: self._store.patch(resource, key, patch, subresource=subresource, field_manager=field_manager)
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
        await self._write(
            lambda: self._store.delete(resource, key, uid=uid, resource_version=resource_version, how=how)
        )

    async def post(self, resource: Resource, key: ObjectKey, subresource: str, body: Object) -> Object:
        return await self._write(lambda: self._store.post(resource, key, subresource, body))

    async def _write(self, call: Callable[[], Awaitable[T]]) -> T:
        left_s = self._lead.left_s()
        if left_s <= 0:
            raise NotLeading("this process does not hold the lease (any more): nothing was sent")
        task = asyncio.ensure_future(within(left_s, call(), self._call_later))
        self._lead.under_way.add(task)
        task.add_done_callback(self._answered)
        return await asyncio.shield(task)

    def _answered(self, task: asyncio.Future[Any]) -> None:
        self._lead.under_way.discard(task)
        # Who waited may be gone; then nobody else looks at how it ended.
        if not task.cancelled():
            task.exception()
