"""Browsers: which pages may call, and the CORS fields that tell them so.

A page on any origin can make a browser send a request to a laptop's port. A request that names an
`Origin` is therefore refused unless the origin is allowed: loopback origins in local mode, others by
`--cors-origin`. `*` is never answered; what is allowed is echoed, with `Vary: Origin`.
"""

from __future__ import annotations

import re
from collections.abc import Collection

_LOOPBACK = re.compile(rb"https?://(?:localhost|127(?:\.\d{1,3}){3}|\[::1\])(?::\d{1,5})?", re.IGNORECASE)
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.\-]+(?::\d{1,5})?|https?://\[[0-9a-f:]+\](?::\d{1,5})?")

METHODS = b"GET, POST, OPTIONS"
REQUEST_HEADERS = b"Authorization, Content-Type, X-Request-ID, OpenAI-Organization, OpenAI-Project, X-Stainless-Lang"
MAX_AGE_S = 600


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
    def answer_fields(origin: bytes) -> tuple[tuple[bytes, bytes], ...]:
        """For an answer to a page on an allowed origin."""
        return (
            (b"Access-Control-Allow-Origin", origin),
            (b"Access-Control-Expose-Headers", b"X-Request-ID, Retry-After"),
            (b"Vary", b"Origin"),
        )

    @staticmethod
    def preflight_fields(origin: bytes) -> tuple[tuple[bytes, bytes], ...]:
        return (
            (b"Access-Control-Allow-Origin", origin),
            (b"Access-Control-Allow-Methods", METHODS),
            (b"Access-Control-Allow-Headers", REQUEST_HEADERS),
            (b"Access-Control-Max-Age", b"%d" % MAX_AGE_S),
            (b"Vary", b"Origin"),
        )
