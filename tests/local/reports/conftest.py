"""Trials of failures that users of other systems met. `docs/reliability.md` tells them one by one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
from tests.support.proxy import Engine, Script

Scripted = Callable[[Script], Awaitable[Engine]]


@pytest.fixture
async def scripted():
    """`await scripted(script)`: a server that answers as told; `external_source(engine)` is its address."""
    async with AsyncExitStack() as stack:

        async def start(script: Script) -> Engine:
            engine = Engine(script)
            await engine.start()
            stack.push_async_callback(engine.stop)
            return engine

        yield start
        await asyncio.sleep(0)
