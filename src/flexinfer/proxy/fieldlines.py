"""Field lines: their grammar, what a reader does with each, and which ones `Connection` takes away.

A line is read once and remembered, since most heads repeat the lines of the head before.
"""

from __future__ import annotations

import re
from typing import Protocol

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
VALUE = rb"[\t \x21-\x7e\x80-\xff]*"
# `*+` gives nothing back: parts that match the same bytes would otherwise be tried in every division.
FIELD = re.compile(rb"(" + TOKEN + rb"):[ \t]*+(" + VALUE + rb")")
_OPTION = rb"[\t ]*+(?:" + TOKEN + rb")?+[\t ]*+"
_OPTIONS = re.compile(_OPTION + rb"(?:," + _OPTION + rb")*+")
_LENGTH = re.compile(rb"[0-9]{1,15}")
AUTHORITY = re.compile(rb"(?:\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9\-._~!$&'()*+,;=%]{1,255})(?::[0-9]{0,5})?")

_MAX_CONNECTION_OPTIONS = 10

# What a reader does with a field, by its name in lower case; other fields are end to end.
FORWARD, DROP, HOST_F, BAD_F, LENGTH_F, CODING_F, CONNECTION_F = range(7)
EXPECT_F, TYPE_F, AUTH_F, ID_F, UPGRADE_F, ENCODING_F, ORIGIN_F = range(7, 14)

REQUEST_FIELDS: dict[bytes, int] = {
    b"host": HOST_F,
    b"content-length": LENGTH_F,
    b"transfer-encoding": CODING_F,
    b"connection": CONNECTION_F,
    b"expect": EXPECT_F,
    b"content-type": TYPE_F,
    b"authorization": AUTH_F,
    b"x-request-id": ID_F,
    b"origin": ORIGIN_F,
    b"upgrade": UPGRADE_F,
    # Answers have to stay readable: how a stream ended is seen in its events.
    b"accept-encoding": DROP,
    b"keep-alive": DROP,
    b"proxy-authenticate": DROP,
    b"proxy-authorization": DROP,
    b"proxy-connection": DROP,
    b"te": DROP,
    b"trailer": DROP,
    b"http2-settings": DROP,
}

ANSWER_FIELDS: dict[bytes, int] = {
    b"content-length": LENGTH_F,
    b"transfer-encoding": CODING_F,
    b"connection": CONNECTION_F,
    b"content-type": TYPE_F,
    b"content-encoding": ENCODING_F,
    b"x-request-id": DROP,
    b"keep-alive": DROP,
    b"proxy-authenticate": DROP,
    b"proxy-connection": DROP,
    b"te": DROP,
    b"upgrade": DROP,
    # Which page may read an answer is not for an engine to say.
    b"access-control-allow-origin": DROP,
    b"access-control-allow-credentials": DROP,
    b"access-control-allow-headers": DROP,
    b"access-control-allow-methods": DROP,
    b"access-control-allow-private-network": DROP,
    b"access-control-expose-headers": DROP,
    b"access-control-max-age": DROP,
}


_SECRET_OR_UNIQUE = re.compile(rb"cookie|set-cookie|x-api-key|api-key|trace", re.IGNORECASE)


class Lines:
    """Remembers what was read in short lines: most heads repeat the lines of the head before.

    A line with a secret is not remembered, nor one that no other request will have.
    """

    __slots__ = ("_kinds", "get", "seen")

    _MOST = 2048
    _LONGEST = 128
    _NEVER = frozenset({AUTH_F, ID_F})

    def __init__(self, kinds: dict[bytes, int]) -> None:
        self._kinds = kinds
        self.seen: dict[bytes, tuple[int, bytes]] = {}
        self.get = self.seen.get

    def read(self, line: bytes) -> tuple[int, bytes] | None:
        """What to do with a field line, and its value without white space around; None: it is malformed."""
        match = FIELD.fullmatch(line)
        if match is None:
            return None
        name = match[1].lower()
        kind = self._kinds.get(name, FORWARD)
        if kind == FORWARD and b"_" in name and name.replace(b"_", b"-") in self._kinds:
            kind = DROP  # servers in the manner of CGI take both spellings for one field
        value = match[2].rstrip(b" \t")
        if (kind == HOST_F and not AUTHORITY.fullmatch(value)) or (kind == LENGTH_F and not _LENGTH.fullmatch(value)):
            kind = BAD_F
        read = (kind, value)
        if len(line) <= self._LONGEST and kind not in self._NEVER and not _SECRET_OR_UNIQUE.match(line):
            if len(self.seen) >= self._MOST:
                self.seen.clear()
            self.seen[line] = read
        return read


class Head(Protocol):
    """What `Connection` changes in a head."""

    keep_alive: bool
    fields: list[bytes]


def apply_connection(head: Head, value: bytes) -> bool:
    """False: `value`, all Connection fields of the head as one list, is malformed."""
    if value == b"keep-alive":
        head.keep_alive = True
        return True
    options = _connection_options(value)
    if options is None:
        return False
    if b"close" in options:
        head.keep_alive = False
    elif b"keep-alive" in options:
        head.keep_alive = True
    if options - {b"close", b"keep-alive", b"upgrade"}:
        head.fields = [line for line in head.fields if line[: line.index(b":")].lower() not in options]
    return True


def _connection_options(value: bytes) -> set[bytes] | None:
    if not _OPTIONS.fullmatch(value):
        return None
    options = {option.strip(b" \t").lower() for option in value.split(b",")} - {b""}
    return options if len(options) <= _MAX_CONNECTION_OPTIONS else None
