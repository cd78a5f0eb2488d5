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

_SUCCESS = (
    b'{"timestamp":"%b%03dZ","level":"info","component":"access","event":"request","request_id":"%b","method":"%b",'
    b'"path":"%b","status":%d,"outcome":"success","model":"%b"%b,"queue_ms":%.1f,"first_byte_ms":%.1f,'
    b'"duration_ms":%.1f%b}'
)


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
        self._second_text = b""

    def refused(self, head: RequestHead | None, id_line: bytes, status: int, code: str, now: float) -> None:
        """An answer of our own, to a request that no engine saw."""
        outcome = "error" if status >= 400 else "success"
        self._note(head, id_line, status, outcome, code, now, None, 0)

    def forwarded(
        self, head: RequestHead, id_line: bytes, status: int, outcome: str, reason: str, times: Times, tokens: int
    ) -> None:
        """A request that was admitted has ended."""
        if outcome != "success" or head.target not in paths.INFERENCE_TARGETS:
            self._note(head, id_line, status, outcome, reason, times.ended, times, tokens)
            return
        # The usual line, in a third of the time. Nothing in it was made up by a client: the id is one
        # that needs no escapes, the names are those of a Model and of a key.
        started, wall = times.started, self._wall() + times.ended
        self._add(
            _SUCCESS
            % (
                self._second_of(wall),
                wall % 1.0 * 1000.0,
                id_line[14:-2],
                head.method,
                head.target,
                status,
                head.model.encode(),
                b',"key_name":"%b"' % head.key_name.encode() if head.key_name else b"",
                (times.sent - started) * 1e3,
                (times.first_byte - started) * 1e3,
                (times.ended - started) * 1e3,
                b',"tokens":%d' % tokens if tokens else b"",
            )
        )

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
        wall = self._wall() + now
        line = _encode(
            Line(
                f"{self._second_of(wall).decode()}{int(wall % 1.0 * 1000):03d}Z",
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
        self._add(line)

    def _add(self, line: bytes) -> None:
        if self._held > MAX_HELD_BYTES:
            self._lost += 1
            return
        self._lines.append(line)
        self._held += len(line)

    def _wall(self) -> float:
        """What the wall clock is ahead of the monotonic one. Sees to it that what is added gets written."""
        if self._timer is None:
            self._arm()
        return self._wall_ahead

    def _second_of(self, wall: float) -> bytes:
        second = int(wall)
        if second != self._second:
            self._second = second
            self._second_text = time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second)).encode()
        return self._second_text

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
