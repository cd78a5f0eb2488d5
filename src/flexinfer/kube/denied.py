"""A store that remembers which rights this process turned out to lack, in the API server's own words.

A right counts as missing from a refusal until the same kind of call passes, or until nobody has tried for
`FORGET_AFTER_S`: what is not tried again would never be seen to be mended. Other refusals of status 403
(a quota, Pod Security) are no missing right of ours.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing
from typing import Final, NamedTuple, TypeVar

from flexinfer.api.meta import ObjectKey
from flexinfer.clock import Clock
from flexinfer.errors import StoreError
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

T = TypeVar("T")

FORGET_AFTER_S: Final = 300.0
_REFUSAL = re.compile(r'User "(?P<account>[^"]+)" cannot (?P<verb>\w+) resource "(?P<resource>[^"]+)"')


class Missing(NamedTuple):
    verb: str
    resource: str
    """With its subresource."""
    account: str
    said: str
    """The API server's sentence."""
    at: float


_Call = tuple[str, Resource, str]


class Denials:
    """An ObjectStore; `missing` tells what it was refused."""

    def __init__(self, store: ObjectStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._missing: dict[_Call, Missing] = {}

    def missing(self) -> list[Missing]:
        """In the order of their first refusal."""
        since = self._clock.monotonic() - FORGET_AFTER_S
        self._missing = {call: one for call, one in self._missing.items() if one.at >= since}
        return list(self._missing.values())

    def rights(self) -> list[tuple[str, str, str]]:
        """Verb, resource and account of each, for the metrics."""
        return [(one.verb, one.resource, one.account) for one in self.missing()]

    async def get(self, resource: Resource, key: ObjectKey, *, subresource: str | None = None) -> Object:
        return await self._told(
            ("get", resource, subresource or ""), self._store.get(resource, key, subresource=subresource)
        )

    async def list(self, resource: Resource, selection: Selection = EVERYTHING) -> ObjectList:
        return await self._told(("list", resource, ""), self._store.list(resource, selection))

    def watch(
        self, resource: Resource, resource_version: str, selection: Selection = EVERYTHING
    ) -> AsyncGenerator[WatchEvent, None]:
        return self._followed(("watch", resource, ""), self._store.watch(resource, resource_version, selection))

    def watch_list(self, resource: Resource, selection: Selection = EVERYTHING) -> AsyncGenerator[WatchEvent, None]:
        return self._followed(("watch", resource, ""), self._store.watch_list(resource, selection))

    async def create(self, resource: Resource, obj: Object, *, field_manager: str = "flexinfer") -> Object:
        call = self._store.create(resource, obj, field_manager=field_manager)
        return await self._told(("create", resource, ""), call)

    async def replace(
        self, resource: Resource, obj: Object, *, subresource: str | None = None, field_manager: str = "flexinfer"
    ) -> Object:
        call = self._store.replace(resource, obj, subresource=subresource, field_manager=field_manager)
        return await self._told(("update", resource, subresource or ""), call)

    async def apply(
        self,
        resource: Resource,
        obj: Object,
        *,
        field_manager: str,
        force: bool = False,
        subresource: str | None = None,
    ) -> Object:
        call = self._store.apply(resource, obj, field_manager=field_manager, force=force, subresource=subresource)
        return await self._told(("apply", resource, subresource or ""), call)

    async def patch(
        self,
        resource: Resource,
        key: ObjectKey,
        patch: Object | JsonPatch,
        *,
        subresource: str | None = None,
        field_manager: str = "flexinfer",
    ) -> Object:
        call = self._store.patch(resource, key, patch, subresource=subresource, field_manager=field_manager)
        return await self._told(("patch", resource, subresource or ""), call)

    async def delete(
        self,
        resource: Resource,
        key: ObjectKey,
        *,
        uid: str | None = None,
        resource_version: str | None = None,
        how: Deletion = DELETE,
    ) -> None:
        call = self._store.delete(resource, key, uid=uid, resource_version=resource_version, how=how)
        await self._told(("delete", resource, ""), call)

    async def post(self, resource: Resource, key: ObjectKey, subresource: str, body: Object) -> Object:
        return await self._told(("create", resource, subresource), self._store.post(resource, key, subresource, body))

    async def _told(self, call: _Call, answer: Awaitable[T]) -> T:
        try:
            found = await answer
        except StoreError as error:
            self._judge(call, error)
            raise
        self._missing.pop(call, None)
        return found

    async def _followed(
        self, call: _Call, events: AsyncGenerator[WatchEvent, None]
    ) -> AsyncGenerator[WatchEvent, None]:
        try:
            async with aclosing(events):
                async for event in events:
                    self._missing.pop(call, None)
                    yield event
        except StoreError as error:
            self._judge(call, error)
            raise

    def _judge(self, call: _Call, error: StoreError) -> None:
        """Every answer but a refusal of rights shows that the right is there."""
        match = _REFUSAL.search(str(error)) if error.status == 403 else None
        if match is None:
            self._missing.pop(call, None)
            return
        self._missing[call] = Missing(
            match["verb"], match["resource"], match["account"], str(error), self._clock.monotonic()
        )
