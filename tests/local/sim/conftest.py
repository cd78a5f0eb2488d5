"""A simulator in the test's own loop, and a client that shows the bytes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from flexinfer.sim.options import Options
from flexinfer.sim.server import Simulator
from flexinfer.sim.timing import Timing

FAST = Timing(prefill_rate=0, decode_rate=0)
HELLO: Any = [{"role": "user", "content": "Hello there"}]

Start = Callable[..., Awaitable[Simulator]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """`await start(engine="vllm", …)`: a simulator that takes no time unless told to."""
    async with AsyncExitStack() as stack:

        async def begin(**options: Any) -> Simulator:
            known = {"timing": FAST, "models": ("m",), **options}
            return await stack.enter_async_context(Simulator(Options(**known)))

        yield begin


class Raw:
    """One connection to it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, method: str, path: str, body: Any = None, headers: str = "") -> None:
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        self.writer.write(
            f"{method} {path} HTTP/1.1\r\nHost: sim\r\nContent-Length: {len(data)}\r\n{headers}\r\n".encode() + data
        )

    async def head(self) -> int:
        """Read the head of an answer; its status."""
        return int((await self.reader.readuntil(b"\r\n\r\n")).split()[1])

    async def rest(self, within_s: float = 5.0) -> bytes:
        """Everything up to the end of the connection; ConnectionResetError if it is reset."""
        async with asyncio.timeout(within_s):
            return await self.reader.read()

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except ConnectionError:
            pass


@pytest.fixture
async def connect() -> AsyncIterator[Callable[[Simulator], Awaitable[Raw]]]:
    made: list[Raw] = []

    async def begin(simulator: Simulator) -> Raw:
        raw = Raw(*await asyncio.open_connection("127.0.0.1", simulator.port))
        made.append(raw)
        return raw

    yield begin
    for raw in made:
        await raw.close()


@pytest.fixture
def chat() -> Callable[..., dict[str, Any]]:
    def body(**fields: Any) -> dict[str, Any]:
        return {"model": "m", "messages": HELLO, **fields}

    return body
