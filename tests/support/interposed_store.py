"""A store between a controller and the real one: what becomes of each write and each event is the test's to say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, NamedTuple

from flexinfer.errors import Gone
from flexinfer.kube.store import EVERYTHING, ObjectStore, Resource, Selection, WatchEvent

WRITES = frozenset({"create", "replace", "apply", "patch", "delete", "post"})


class Write(NamedTuple):
    number: int
    """From 1."""
    verb: str
    resource: Resource
    send: Callable[[], Awaitable[Any]]


Around = Callable[[Write], Awaitable[Any]]


async def pass_on(write: Write) -> Any:
    return await write.send()


class InterposedWrites:
    """Every write goes through `around`; reads pass."""

    def __init__(self, store: ObjectStore, around: Around = pass_on) -> None:
        self._store = store
        self._around = around
        self.written: list[str] = []

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._store, name)
        if name not in WRITES:
            return call

        async def write(resource: Resource, *args: Any, **options: Any) -> Any:
            self.written.append(f"{name} {resource.plural}")
            return await self._around(
                Write(len(self.written), name, resource, lambda: call(resource, *args, **options))
            )

        return write


class InterposedEvents:
    """Every stream that begins with a list, and every one that goes on, passes through `through`; the rest passes."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def watch(
        self, resource: Resource, resource_version: str, selection: Selection = EVERYTHING
    ) -> AsyncGenerator[WatchEvent, None]:
        async with aclosing(self.through(self._store.watch(resource, resource_version, selection))) as events:
            async for event in events:
                yield event

    async def watch_list(
        self, resource: Resource, selection: Selection = EVERYTHING
    ) -> AsyncGenerator[WatchEvent, None]:
        async with aclosing(self.through(self._store.watch_list(resource, selection))) as events:
            async for event in events:
                yield event

    def through(self, events: AsyncGenerator[WatchEvent, None]) -> AsyncGenerator[WatchEvent, None]:
        return events


class DroppedEvent(InterposedEvents):
    """The event with this number is never seen; the stream that it was in is Gone a moment later."""

    def __init__(self, store: ObjectStore, number: int, pause_s: float = 0.3) -> None:
        super().__init__(store)
        self._number = number
        self._pause_s = pause_s
        self.seen = 0

    async def through(self, events: AsyncGenerator[WatchEvent, None]) -> AsyncGenerator[WatchEvent, None]:  # type: ignore[override]
        dropped = False
        listed = False
        async with aclosing(events):
            stream = aiter(events)
            while True:
                try:
                    async with asyncio.timeout(self._pause_s if dropped else None):
                        event = await anext(stream)
                except TimeoutError:
                    raise Gone("an event of this stream was dropped") from None
                except StopAsyncIteration:
                    return
                listed = listed or event.is_initial_end
                if listed and event.type != "BOOKMARK":
                    self.seen += 1
                    if self.seen == self._number:
                        dropped = True
                        continue
                yield event


class LateEvents(InterposedEvents):
    """Streams show what was `lag_s` ago; nothing at all while `frozen`."""

    def __init__(
        self, store: ObjectStore, lag_s: float = 0.0, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        super().__init__(store)
        self._lag_s = lag_s
        self._sleep = sleep
        self.flowing = asyncio.Event()
        self.flowing.set()

    async def through(self, events: AsyncGenerator[WatchEvent, None]) -> AsyncGenerator[WatchEvent, None]:  # type: ignore[override]
        async with aclosing(events):
            async for event in events:
                if self._lag_s:
                    await self._sleep(self._lag_s)
                await self.flowing.wait()
                yield event
