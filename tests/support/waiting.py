"""Waiting for what real processes and sockets do, bounded."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable


async def until(
    condition: Callable[[], object], limit_s: float = 5.0, *, every_s: float = 0.005, seen: object = ""
) -> float:
    """Seconds it took; fails the test when the limit passes. `condition` may be a coroutine function.

    `seen` is shown then: what the condition has looked at last.
    """
    began = time.monotonic()
    while True:
        found = condition()
        if await found if inspect.isawaitable(found) else found:
            break
        assert time.monotonic() - began < limit_s, f"the condition did not come true in {limit_s} s: {seen}"
        await asyncio.sleep(every_s)
    return time.monotonic() - began
