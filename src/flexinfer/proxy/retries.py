"""Retries: how many there may be, and whether an engine can have seen a request at all.

A request is sent again only where no engine can have begun it, and never more often than a fifth of
the requests of the last seconds, so that a broken engine does not double its own load.
"""

from __future__ import annotations

import socket
import struct
from collections import deque

SHARE = 0.2
LEAST = 3
SPAN_S = 10.0

# struct tcp_info of Linux: tcpi_bytes_acked, RFC 4898 tcpEStatsAppHCThruOctetsAcked.
_BYTES_ACKED = struct.Struct("=Q")
_BYTES_ACKED_AT = 120
_SYN = 1
"""The kernel counts the first SYN as a byte that was acknowledged."""


class RetryBudget:
    """At most `share` of the requests of the last `span_s` seconds are sent again, `least` of them in any case."""

    def __init__(self, share: float = SHARE, least: int = LEAST, span_s: float = SPAN_S) -> None:
        self._share = share
        self._least = least
        self._span_s = span_s
        self._retries: deque[float] = deque()
        self._marks: deque[tuple[float, int]] = deque([(0.0, 0)])

    def mark(self, requests: int, now: float) -> None:
        """So many requests have come in all; told every second or so."""
        marks = self._marks
        marks.append((now, requests))
        while len(marks) > 1 and marks[0][0] <= now - self._span_s:
            marks.popleft()

    def take(self, requests: int, now: float) -> bool:
        """Whether one more may be sent again; it then counts."""
        retries = self._retries
        while retries and retries[0] <= now - self._span_s:
            retries.popleft()
        recent = requests - self._marks[0][1]
        if len(retries) >= max(self._least, int(self._share * recent)):
            return False
        retries.append(now)
        return True


def bytes_acked(sock: socket.socket) -> int | None:
    """Bytes that the peer's kernel has acknowledged on this connection; None where that cannot be known."""
    option = getattr(socket, "TCP_INFO", None)
    if option is None:
        return None
    try:
        raw = sock.getsockopt(socket.IPPROTO_TCP, option, 256)
    except OSError:
        return None
    if len(raw) < _BYTES_ACKED_AT + _BYTES_ACKED.size:
        return None
    acked: int = _BYTES_ACKED.unpack_from(raw, _BYTES_ACKED_AT)[0]
    return max(0, acked - _SYN)
