"""A grace period that may become shorter while somebody waits for its end."""

from __future__ import annotations

import asyncio
from typing import Any

_LOOKS_EVERY_S = 0.2


class Deadline:
    def __init__(self, seconds: float) -> None:
        self._at = asyncio.get_running_loop().time() + seconds

    def shorten(self, seconds: float) -> None:
        self._at = min(self._at, asyncio.get_running_loop().time() + seconds)

    @property
    def left_s(self) -> float:
        return max(0.0, self._at - asyncio.get_running_loop().time())

    async def passes_before(self, future: asyncio.Future[Any]) -> bool:
        """Waits for the future or the deadline, whichever comes first; True when it is the deadline."""
        while not future.done() and self.left_s:
            await asyncio.wait({future}, timeout=min(_LOOKS_EVERY_S, self.left_s))
        return not future.done()
