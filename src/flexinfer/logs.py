"""Structured logging: a constant message and fields, to stderr.

On a terminal a line is for a person, elsewhere it is one JSON object. Values of keys that name a
secret are never written.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import MutableMapping
from typing import IO, Any, TextIO, cast

import msgspec
import structlog

QUIET = logging.WARNING
"""For a terminal on which something else shows what goes on."""
SECRET_KEYS = frozenset({"authorization", "api_key", "key", "token", "secret", "password", "hf_token"})


class Unfailing:
    """A stream for what nobody waits for: its writes are lost, not raised, once the terminal is gone or the disk full.

    A line that cannot be written must not end the work that it tells of.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _redact(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name in event:
        if name.lower() in SECRET_KEYS:
            event[name] = "[redacted]"
    return event


def _json(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> str:
    return msgspec.json.encode(event, enc_hook=str).decode()


def configure(stream: IO[str] | None = None, level: int = logging.INFO) -> None:
    """Set up logging for this process; called once, by an entry point."""
    out = stream or sys.stderr
    renderer: Any = structlog.dev.ConsoleRenderer(colors=True) if out.isatty() else _json
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _redact,
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        # Line and line end in one write: the access log, a thread, writes to the same place.
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, Unfailing(out))),
        cache_logger_on_first_use=True,
    )


def get(name: str) -> structlog.typing.FilteringBoundLogger:
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(component=name)
    return logger
