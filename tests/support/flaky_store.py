"""A store whose watches and lists break when a test says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from flexinfer.errors import FlexInferError
from flexinfer.kube.memory import MemoryStore
from flexinfer.kube.store import EVERYTHING, ObjectList, Resource, Selection, WatchEvent

Break = OSError | FlexInferError


class FlakyStore(MemoryStore):
    """`lists` and `watches` count the calls; `list_failures` are raised by the next lists."""

    lists = 0
    watches = 0

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)  # type: ignore[arg-type]
        self.list_failures: list[Break] = []
        self.watch_failures: list[Break] = []
        self._breaks: set[asyncio.Future[Break | None]] = set()

    def cut(self, error: Break | None) -> None:
        """Every open watch raises `error`, or ends where it is None; events not yet seen are not delivered."""
        for future in self._breaks:
            if not future.done():
                future.set_result(error)

    async def list(self, resource: Resource, selection: Selection = EVERYTHING) -> ObjectList:
        self.lists += 1
        if self.list_failures:
            raise self.list_failures.pop(0)
        return await super().list(resource, selection)

    async def watch(
        self, resource: Resource, resource_version: str, selection: Selection = EVERYTHING
    ) -> AsyncGenerator[WatchEvent, None]:
        self.watches += 1
        if self.watch_failures:
            raise self.watch_failures.pop(0)
        async with aclosing(self._breaking(super().watch(resource, resource_version, selection))) as events:
            async for event in events:
                yield event

    async def watch_list(
        self, resource: Resource, selection: Selection = EVERYTHING
    ) -> AsyncGenerator[WatchEvent, None]:
        """Counts as a list; breaks like a watch."""
        self.lists += 1
        if self.list_failures:
            raise self.list_failures.pop(0)
        async with aclosing(self._breaking(super().watch_list(resource, selection))) as events:
            async for event in events:
                yield event

    async def _breaking(self, source: AsyncGenerator[WatchEvent, None]) -> AsyncGenerator[WatchEvent, None]:
        broken: asyncio.Future[Break | None] = asyncio.get_running_loop().create_future()
        self._breaks.add(broken)
        try:
            async with aclosing(source) as events:
                while True:
                    step = asyncio.ensure_future(anext(events))
                    try:
                        await asyncio.wait({step, broken}, return_when=asyncio.FIRST_COMPLETED)
                    finally:
                        if not step.done() or broken.done():
                            step.cancel()
                            await asyncio.gather(step, return_exceptions=True)
                    if broken.done():
                        if error := broken.result():
                            raise error
                        return
                    yield step.result()
        finally:
            self._breaks.discard(broken)
