"""Informer: a streamed list and the watch after it -> a cache of decoded objects, and who wants to know what changed.

The cache is what the store had a moment ago: a deletion that fell into a gap between two watches is
found by the next list, an object that was replaced by a namesake is reported as deleted, then added.
An object that cannot be decoded is logged by name and keeps its last good value; the others go on.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Generic, NamedTuple, TypeVar

from flexinfer import logs
from flexinfer.api.meta import ObjectKey
from flexinfer.clock import Clock, SystemClock
from flexinfer.errors import Gone, StoreError
from flexinfer.kube.store import EVERYTHING, Object, ObjectStore, Resource, Selection, WatchEvent, key_of

log = logs.get("informer")

T = TypeVar("T")
Handler = Callable[[ObjectKey, T | None, T | None], None]
"""Told key, old and new: old is None for an added object, new is None for a deleted one."""

_BACKOFF_BASE_S = 0.25
_BACKOFF_CAP_S = 10.0
_HEALTHY_WATCH_S = 10.0
# Thousands of events at once are decoded in slices, so that requests on the same loop do not wait for them.
_SLICE = 200


class _Cached(NamedTuple, Generic[T]):
    uid: str
    version: str
    value: T | None
    """None while the object has never been decodable."""


class Informer(Generic[T]):
    def __init__(
        self,
        store: ObjectStore,
        resource: Resource,
        decode: Callable[[Object], T],
        selection: Selection = EVERYTHING,
        *,
        rand: random.Random | None = None,
        clock: Clock | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store = store
        self._resource = resource
        self._decode = decode
        self._selection = selection
        self._rand = rand or random.Random()
        self._clock = clock or SystemClock()
        self._sleep = sleep
        self._cache: dict[ObjectKey, _Cached[T]] = {}
        self._handlers: list[Handler[T]] = []
        self._version: str | None = None
        self._heard_at: float | None = None
        self._failures = 0
        self.synced = asyncio.Event()
        """Set once the first list is in the cache."""

    def get(self, key: ObjectKey) -> T | None:
        cached = self._cache.get(key)
        return cached.value if cached else None

    def items(self) -> list[tuple[ObjectKey, T]]:
        """All objects as they are now, in no particular order."""
        return [(key, cached.value) for key, cached in self._cache.items() if cached.value is not None]

    def add_handler(self, handler: Handler[T]) -> None:
        """`handler` hears of every object there is at once, and of every change from then on."""
        self._handlers.append(handler)
        for key, value in self.items():
            self._tell(handler, key, None, value)

    async def wait_synced(self) -> None:
        await self.synced.wait()

    def silent_s(self) -> float | None:
        """Seconds since the store was last heard of; None before the first list."""
        return None if self._heard_at is None else self._clock.monotonic() - self._heard_at

    async def run(self) -> None:
        """Keep the cache in step until cancelled."""
        while True:
            started = self._clock.monotonic()
            ended = False
            try:
                await self._follow()
                ended = True
            except Gone as error:
                log.info("watch is too far behind, listing again", kind=self._resource.kind, reason=str(error))
                self._version = None
            except (OSError, StoreError) as error:
                log.warning("watch failed", kind=self._resource.kind, error=repr(error))
            healthy = self._clock.monotonic() - started >= _HEALTHY_WATCH_S
            if healthy:
                self._failures = 0
            if not (healthy and ended):
                await self._back_off()

    async def _follow(self) -> None:
        """List, unless there is a version to go on from, then take what comes until the stream ends."""
        events = (
            self._store.watch_list(self._resource, self._selection)
            if self._version is None
            else self._store.watch(self._resource, self._version, self._selection)
        )
        async with aclosing(events):
            if self._version is None:
                await self._list(events)
            number = 0
            async for event in events:
                self._heard_at = self._clock.monotonic()
                self._take(event)
                number += 1
                if number % _SLICE == 0:
                    await asyncio.sleep(0)
        # The store ended the stream in an orderly way: nothing more had happened until now.
        self._heard_at = self._clock.monotonic()

    async def _list(self, events: AsyncGenerator[WatchEvent, None]) -> None:
        """Take every object there is; what the cache has besides is gone."""
        found: set[ObjectKey] = set()
        async for event in events:
            self._heard_at = self._clock.monotonic()
            if event.is_initial_end:
                break
            if event.type == "BOOKMARK":
                continue
            key = key_of(event.object)
            if event.type == "DELETED":
                found.discard(key)
                continue
            found.add(key)
            self._put(event.object)
            if len(found) % _SLICE == 0:
                await asyncio.sleep(0)
        else:
            raise ConnectionError("the list ended before its last object")
        for key in [key for key in self._cache if key not in found]:
            self._remove(key)
        self._version = event.object["metadata"]["resourceVersion"]
        self.synced.set()

    def _take(self, event: WatchEvent) -> None:
        if event.type == "DELETED":
            self._remove(key_of(event.object))
        elif event.type != "BOOKMARK":
            self._put(event.object)
        self._version = event.object["metadata"]["resourceVersion"]

    def _put(self, obj: Object) -> None:
        key, meta = key_of(obj), obj["metadata"]
        uid, version = meta["uid"], meta["resourceVersion"]
        cached = self._cache.get(key)
        if cached and cached.uid != uid:
            self._remove(key)
            cached = None
        if cached and cached.version == version:
            return
        old = cached.value if cached else None
        try:
            new = self._decode(obj)
        # The border of the loop: one object that cannot be read must not hide the others.
        except Exception as error:  # noqa: BLE001
            log.warning("cannot read object", kind=self._resource.kind, object=str(key), error=repr(error))
            self._cache[key] = _Cached(uid, version, old)
            return
        self._cache[key] = _Cached(uid, version, new)
        self._tell_all(key, old, new)

    def _remove(self, key: ObjectKey) -> None:
        cached = self._cache.pop(key, None)
        if cached and cached.value is not None:
            self._tell_all(key, cached.value, None)

    def _tell_all(self, key: ObjectKey, old: T | None, new: T | None) -> None:
        for handler in self._handlers:
            self._tell(handler, key, old, new)

    def _tell(self, handler: Handler[T], key: ObjectKey, old: T | None, new: T | None) -> None:
        try:
            handler(key, old, new)
        # The border of the loop: a handler that fails on one object must not stop the cache.
        except Exception as error:
            log.error("handler failed", kind=self._resource.kind, object=str(key), exc_info=error)

    async def _back_off(self) -> None:
        whole = min(_BACKOFF_CAP_S, _BACKOFF_BASE_S * 2.0 ** min(self._failures, 16))
        self._failures += 1
        await self._sleep(whole * (0.5 + 0.5 * self._rand.random()))
