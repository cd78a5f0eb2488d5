"""Work that goes on beside a test and ends with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any


@asynccontextmanager
async def beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[asyncio.Task[None]]:
    """It is cancelled at the end of the block; what it raised by itself is raised there."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def ended(task: asyncio.Task[Any]) -> None:
    """Cancelled, and over, however it ends."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
