"""The access log: one JSON line per request, without a word of the prompt and without the key.

Lines are collected and written by a thread, a few times a second: whoever reads the log slowly, or not
at all, never holds up a request. What has to wait is bounded; lines beyond it are lost and counted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import msgspec

from flexinfer import logs
from flexinfer.clock import Clock
from flexinfer.openai import paths
from flexinfer.proxy.requesthead import RequestHead

log = logs.get("access")

WRITE_EVERY_S = 0.1
MAX_HELD_BYTES = 8 * 1024 * 1024


class Line(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    timestamp: str
    level: str
    component: str
    event: str
    request_id: str
    method: str
    """Empty where no head could be read."""
    path: str
    """A path that is served, `{id}` for the names in it; `other` for every other one."""
    status: int = 0
    """As the client saw it; absent where it left before it got one."""
    outcome: str = ""
    """success, error, cancelled."""
    reason: str = ""
    """Code of our own refusal, or how the engine's answer failed."""
    model: str = ""
    """Name of the Model, however the client called it."""
    key_name: str = ""
    queue_ms: float | None = None
    first_byte_ms: float | None = None
    """From the request's arrival, queue and cold start included."""
    duration_ms: float = 0.0
    tokens: int = 0
    """Output tokens."""


class Times(msgspec.Struct, frozen=True, gc=False):
    """Of a request that was admitted, on the monotonic clock; 0: not reached."""

    started: float
    sent: float
    first_byte: float
    ended: float


_encode = msgspec.json.Encoder().encode


class AccessLog:
    """`write` gets whole lines, in a thread, one call at a time."""

    def __init__(self, write: Callable[[bytes], object], clock: Clock) -> None:
        self._write = write
        self._clock = clock
        self._lines: list[bytes] = []
        self._held = 0
        self._lost = 0
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Future[object] | None = None
        self._wall_ahead = 0.0
        self._second = -1
        self._second_text = ""

    def refused(self, head: RequestHead | None, id_line: bytes, status: int, code: str, now: float) -> None:
        """An answer of our own, to a request that no engine saw."""
        outcome = "error" if status >= 400 else "success"
        self._note(head, id_line, status, outcome, code, now, None, 0)

    def forwarded(
        self, head: RequestHead, id_line: bytes, status: int, outcome: str, reason: str, times: Times, tokens: int
    ) -> None:
        """A request that was admitted has ended."""
        self._note(head, id_line, status, outcome, reason, times.ended, times, tokens)

    def _note(
        self,
        head: RequestHead | None,
        id_line: bytes,
        status: int,
        outcome: str,
        reason: str,
        now: float,
        times: Times | None,
        tokens: int,
    ) -> None:
        if self._timer is None:
            self._arm()
        if self._held > MAX_HELD_BYTES:
            self._lost += 1
            return
        line = _encode(
            Line(
                self._timestamp(now),
                "info",
                "access",
                "request",
                id_line[14:-2].decode("ascii"),  # `X-Request-ID: …` and its line end
                head.method.decode("ascii") if head is not None else "",
                paths.template(head.target) if head is not None else "",
                status,
                outcome,
                reason,
                head.model if head is not None else "",
                head.key_name if head is not None else "",
                round((times.sent - times.started) * 1e3, 1) if times is not None and times.sent else None,
                round((times.first_byte - times.started) * 1e3, 1) if times is not None and times.first_byte else None,
                round((times.ended - times.started) * 1e3, 1) if times is not None else 0.0,
                tokens,
            )
        )
        self._lines.append(line)
        self._held += len(line)

    def _timestamp(self, now: float) -> str:
        wall = self._wall_ahead + now
        second = int(wall)
        if second != self._second:
            self._second = second
            self._second_text = time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second))
        return f"{self._second_text}{int((wall - second) * 1000):03d}Z"

    def _arm(self) -> None:
        self._wall_ahead = self._clock.now().timestamp() - self._clock.monotonic()
        self._timer = asyncio.get_running_loop().call_later(WRITE_EVERY_S, self._start_writing)

    def _start_writing(self) -> None:
        if self._writing is not None:
            # The write before it is not through: look again.
            self._timer = asyncio.get_running_loop().call_later(WRITE_EVERY_S, self._start_writing)
            return
        self._timer = None
        lines, self._lines, self._held = self._lines, [], 0
        if not lines:
            return
        block = b"\n".join([*lines, b""])
        self._writing = asyncio.get_running_loop().run_in_executor(None, self._write, block)
        self._writing.add_done_callback(self._written)

    def _written(self, done: asyncio.Future[object]) -> None:
        self._writing = None
        if not done.cancelled() and done.exception() is not None:
            log.warning("access lines not written", error=str(done.exception()))
        lost, self._lost = self._lost, 0
        if lost:
            log.warning("access lines lost, their reader is too slow", count=lost)

    async def close(self) -> None:
        """Write what is left."""
        while self._lines or self._writing is not None:
            if self._writing is not None:
                await asyncio.wait([self._writing])
                await asyncio.sleep(0)  # its callback
            else:
                self._start_writing()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
