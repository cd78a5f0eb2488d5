"""Browsers: which pages may call, and the CORS fields that tell them so.

A page on any origin can make a browser send a request to a laptop's port. A request that names an
`Origin` is therefore refused unless the origin is allowed: loopback origins in local mode, others by
`--cors-origin`. `*` is never answered; what is allowed is echoed, with `Vary: Origin`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

_LOOPBACK = re.compile(rb"https?://(?:localhost|127(?:\.\d{1,3}){3}|\[::1\])(?::\d{1,5})?", re.IGNORECASE)
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.\-]+(?::\d{1,5})?|https?://\[[0-9a-f:]+\](?::\d{1,5})?")
_REQUESTED = re.compile(rb"access-control-request-(method|headers):[ \t]*(.*?)[ \t]*", re.IGNORECASE)
_NAMES = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+(?:[ \t]*,[ \t]*[!#$%&'*+\-.^_`|~0-9A-Za-z]+)*")

METHODS = b"GET, POST, OPTIONS"
REQUEST_HEADERS = b"Authorization, Content-Type, X-Request-ID"
MAX_AGE_S = 600
MAX_REQUESTED_BYTES = 2048


def valid(origin: str) -> bool:
    """Whether a setting names an origin: scheme, host and maybe a port, nothing more, and never `*`."""
    return _ORIGIN.fullmatch(origin) is not None


class Origins:
    def __init__(self, allowed: Collection[str] = (), *, loopback: bool = True) -> None:
        self._allowed = frozenset(origin.lower().encode() for origin in allowed)
        self._loopback = loopback

    def allows(self, origin: bytes) -> bool:
        if self._loopback and _LOOPBACK.fullmatch(origin):
            return True
        return origin.lower() in self._allowed

    @staticmethod
    def answer_lines(origin: bytes) -> bytes:
        """The fields of an answer to a page on an allowed origin, each with its line end."""
        return (
            b"Access-Control-Allow-Origin: %b\r\n"
            b"Access-Control-Expose-Headers: X-Request-ID, Retry-After\r\n"
            b"Vary: Origin\r\n" % origin
        )


def is_preflight(method: bytes, fields: Sequence[bytes]) -> bool:
    """Whether a browser asks if it may send a request. `fields` are the lines of a head that names an origin."""
    return method == b"OPTIONS" and b"method" in _requested(fields)


def preflight_fields(fields: Sequence[bytes]) -> tuple[tuple[str, str], ...]:
    """What an allowed page is told, besides the fields of every answer to it.

    Clients add fields of their own (`x-stainless-…`), so the names that were asked for are echoed: it is
    the key that protects, not a list of names.
    """
    wanted = _requested(fields).get(b"headers", b"")
    echoed = len(wanted) <= MAX_REQUESTED_BYTES and _NAMES.fullmatch(wanted) is not None
    names = wanted if echoed else REQUEST_HEADERS
    return (
        ("Access-Control-Allow-Methods", METHODS.decode()),
        ("Access-Control-Allow-Headers", names.decode("ascii")),
        ("Access-Control-Max-Age", str(MAX_AGE_S)),
    )


def _requested(fields: Sequence[bytes]) -> dict[bytes, bytes]:
    matches = (_REQUESTED.fullmatch(line) for line in fields)
    return {match[1].lower(): match[2] for match in matches if match is not None}
