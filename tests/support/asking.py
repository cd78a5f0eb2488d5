"""Requests to a running `up`, and what came of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import aiohttp

MESSAGES = [{"role": "user", "content": "hi"}]
DONE = b"data: [DONE]"


class Answer(NamedTuple):
    status: int
    body: bytes
    whole: bool
    """Ended as HTTP says an answer ends."""

    @property
    def served(self) -> bool:
        return self.status == 200 and self.whole and b'"error"' not in self.body


def client(headers: Mapping[str, str] | None = None) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=60),
        read_bufsize=2**20,
        headers=headers,
    )


async def ask(
    session: aiohttp.ClientSession, url: str, model: str, begun: Callable[[], object] = bool, **more: object
) -> Answer:
    """`begun` is called when the first bytes of the answer are there."""
    body = {"model": model, "messages": MESSAGES, **more}
    found = bytearray()
    async with session.post(f"{url}/v1/chat/completions", json=body) as answer:
        try:
            async for chunk in answer.content.iter_any():
                if not found:
                    begun()
                found += chunk
        except aiohttp.ClientPayloadError:
            return Answer(answer.status, bytes(found), whole=False)
        return Answer(answer.status, bytes(found), whole=True)


async def chat(url: str, model: str, **more: object) -> tuple[int, dict[str, str], Any]:
    """Status, headers and JSON of an answer that comes as one."""
    async with client() as session:
        body = {"model": model, "messages": MESSAGES, **more}
        async with session.post(f"{url}/v1/chat/completions", json=body) as answer:
            return answer.status, dict(answer.headers), await answer.json(content_type=None)


class Load:
    """Clients that ask one thing after another; what they got is in `answers` at the end."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.ending = False

    async def one(self, session: aiohttp.ClientSession, url: str, model: str, more: dict[str, object]) -> None:
        while not self.ending:
            self.answers.append(await ask(session, url, model, **more))

    @property
    def lost(self) -> list[Answer]:
        return [answer for answer in self.answers if not answer.served]


@asynccontextmanager
async def load(url: str, model: str, clients: int = 6) -> AsyncIterator[Load]:
    """Every other client streams. Leaving waits for the open requests."""
    load = Load()
    async with client() as session, asyncio.TaskGroup() as group:
        for number in range(clients):
            more = {"stream": number % 2 == 0, "max_tokens": 20}
            group.create_task(load.one(session, url, model, more))
        try:
            yield load
        finally:
            load.ending = True
