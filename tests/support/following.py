"""Clients that go where a Service would send them: to whichever of several proxies says that it is ready."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import aiohttp
from tests.support import asking
from tests.support.asking import Answer
from tests.support.cluster.proxies import Proxy

_LOOK_EVERY_S = 0.1


class Following:
    """`proxies` may change. What the clients got is in `answers`; one whose connection broke is `lost`."""

    def __init__(self, proxies: Sequence[Proxy]) -> None:
        self.proxies = list(proxies)
        self.answers: list[Answer] = []
        self.lost: list[str] = []
        self._ready: list[Proxy] = []
        self._turn = itertools.count()
        self._ending = False

    async def follow(self) -> None:
        while True:
            self._ready = [one for one in self.proxies if await one.ready()]
            await asyncio.sleep(_LOOK_EVERY_S)

    async def client(self, session: aiohttp.ClientSession, model: str, **more: object) -> None:
        while not self._ending:
            if not self._ready:
                await asyncio.sleep(_LOOK_EVERY_S)
                continue
            one = self._ready[next(self._turn) % len(self._ready)]
            try:
                answer = await asking.ask(session, one.url, model, **more)
            except aiohttp.ClientError as error:
                self.lost.append(repr(error))
                continue
            if answer.served:
                self.answers.append(answer)
            else:
                self.lost.append(f"{answer.status} {answer.body[:200]!r}")

    def end(self) -> None:
        self._ending = True

    def more(self, count: int) -> Callable[[], bool]:
        """True once so many more have been served."""
        wanted = len(self.answers) + count
        return lambda: len(self.answers) >= wanted or bool(self.lost)


@asynccontextmanager
async def following(proxies: Sequence[Proxy], model: str, clients: int = 8, **more: object) -> AsyncIterator[Following]:
    """Every other client streams. Leaving waits for what is open."""
    found = Following(proxies)
    async with asking.client() as session, asyncio.TaskGroup() as group:
        looking = group.create_task(found.follow())
        for number in range(clients):
            group.create_task(found.client(session, model, stream=number % 2 == 0, **more))
        try:
            yield found
        finally:
            found.end()
            looking.cancel()
