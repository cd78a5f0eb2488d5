"""Waiting for what real processes and sockets do, bounded."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


async def until(condition: Callable[[], object], limit_s: float = 5.0) -> float:
    """Seconds it took; fails the test when the limit passes."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < limit_s, "the condition did not come true in time"
        await asyncio.sleep(0.005)
    return time.monotonic() - began
