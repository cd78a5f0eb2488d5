"""The head of a request: what RFC 9110 and 9112 allow in it, and what of it is acted on.

A head is read whole (up to and with the empty line) by one strict grammar; what it does not match is
refused with a RequestError (400 or 431), never repaired. A message has exactly one framing: a
Content-Length of plain digits, or `chunked` as the only coding, or none. What is forwarded is written
anew from the fields read here, so the next reader cannot see another message in the same bytes.
"""

from __future__ import annotations

import re

from flexinfer.errors import RequestError
from flexinfer.openai.errors import refuse
from flexinfer.proxy.fieldlines import (
    AUTH_F,
    AUTHORITY,
    BAD_F,
    CODING_F,
    CONNECTION_F,
    DROP,
    EXPECT_F,
    FORWARD,
    HOST_F,
    ID_F,
    LENGTH_F,
    ORIGIN_F,
    REQUEST_FIELDS,
    TYPE_F,
    Lines,
    apply_connection,
)  # fmt: skip

_TARGET = rb"[A-Za-z0-9\-._~!$&'()*+,;=:@/?%\[\]]+"
_REQUEST_LINE = re.compile(rb"([A-Z][A-Z\-]{0,23}) (" + _TARGET + rb") HTTP/1\.([01])")
_METHODS = frozenset({b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"TRACE"})
_ABSOLUTE = re.compile(rb"https?://([^/?]*)(.*)", re.IGNORECASE)


class RequestHead:
    """A request head that may be acted on. `fields` are the end-to-end field lines, as they came."""

    __slots__ = ("authorization", "chunked", "content_length", "content_type", "cors", "expects_continue", "fields",
                 "host", "id_line", "keep_alive", "key_name", "method", "minor", "model", "origin", "request_id",
                 "target", "upgrade")  # fmt: skip

    def __init__(self, method: bytes, target: bytes, minor: int) -> None:
        self.method = method
        self.target = target
        """Origin form, or `*`."""
        self.minor = minor
        self.fields: list[bytes] = []
        self.host: bytes | None = None
        self.content_length = -1
        """-1: the request has no Content-Length."""
        self.chunked = False
        self.keep_alive = minor == 1
        self.expects_continue = False
        self.content_type = b""
        self.authorization: tuple[bytes, ...] = ()
        """Each field's value; they are never forwarded."""
        self.origin = b""
        """The web page that sent it."""
        self.cors = b""
        """Fields that let this page read the answer, each with its line end, once the origin is found to be allowed."""
        self.key_name = ""
        """Whose key it carries, once that is checked."""
        self.model = ""
        """The Model it asks for, once that is known."""
        self.request_id = b""
        self.id_line = b""
        """The X-Request-ID field that goes to the engine and back, once it is decided."""
        self.upgrade = False


class RequestReader:
    """Reads request heads. `read` takes one whole head, with its empty line."""

    __slots__ = ("_lines", "_max_fields", "_starts")

    def __init__(self, max_fields: int) -> None:
        self._max_fields = max_fields
        self._lines = Lines(REQUEST_FIELDS)
        self._starts: dict[bytes, tuple[bytes, bytes, int]] = {}

    def read(self, raw: bytes) -> RequestHead:
        """RequestError 400 or 431: `raw` is no head that may be acted on."""
        lines = raw.split(b"\r\n")
        start = self._starts.get(lines[0]) or self._start(lines[0], raw)
        if len(lines) - 3 > self._max_fields:
            raise refuse("headers_too_large", f"the head has more than {self._max_fields} fields")
        head = RequestHead(*start)
        fields = head.fields
        known = self._lines.get
        connection: bytes | None = None
        for line in lines[1:-2]:
            read = known(line) or self._lines.read(line)
            if read is None:
                raise _malformed(line, raw)
            kind, value = read
            if kind == FORWARD:
                fields.append(line)
            elif kind == LENGTH_F:
                if head.content_length >= 0:
                    raise _bad("two Content-Length fields")
                head.content_length = int(value)
            elif kind == CONNECTION_F:
                connection = value if connection is None else connection + b"," + value
            elif kind != DROP:
                _own_field(head, kind, value, line)
        if connection is not None and not apply_connection(head, connection):
            raise _bad("an invalid Connection field")
        if head.host is None or head.chunked or head.target[0] != 0x2F:
            _check_request(head)
        return head

    def _start(self, line: bytes, raw: bytes) -> tuple[bytes, bytes, int]:
        match = _REQUEST_LINE.fullmatch(line)
        if match is None:
            raise _malformed(line, raw)
        if match[1] not in _METHODS:
            raise _bad("a method that is not spoken here")
        start = (match[1], match[2], match[3][0] - 0x30)
        if len(line) <= 64:
            if len(self._starts) >= 256:
                self._starts.clear()
            self._starts[line] = start
        return start


def _own_field(head: RequestHead, kind: int, value: bytes, line: bytes) -> None:
    """A field that is read here; each may stand only once."""
    if kind == TYPE_F:
        _once(not head.content_type, "Content-Type")
        head.content_type = value
        head.fields.append(line)
    elif kind == HOST_F:
        _once(head.host is None, "Host")
        head.host = value
    elif kind == AUTH_F:
        head.authorization += (value,)
    elif kind == ORIGIN_F:
        _once(not head.origin, "Origin")
        head.origin = value or b"null"
    elif kind == ID_F:
        _once(not head.request_id, "X-Request-ID")
        head.request_id = value
    elif kind == CODING_F:
        _once(not head.chunked, "Transfer-Encoding")
        if value.lower() != b"chunked":
            raise _bad("a transfer coding other than chunked")
        head.chunked = True
    elif kind == EXPECT_F:
        _once(not head.expects_continue, "Expect")
        if value.lower() != b"100-continue":
            raise _bad("an expectation other than 100-continue")
        head.expects_continue = True
    elif kind == BAD_F:
        raise _bad("an invalid Host, or a Content-Length that is not a plain number")
    else:
        head.upgrade = True


def _once(first: bool, name: str) -> None:
    if not first:
        raise _bad(f"two {name} fields")


def _check_request(head: RequestHead) -> None:
    if head.chunked:
        if head.content_length >= 0:
            raise _bad("both Content-Length and Transfer-Encoding")
        if head.minor == 0:
            raise _bad("Transfer-Encoding in HTTP/1.0")
    if head.host is None and head.minor == 1:
        raise _bad("no Host field")
    if head.target[0] != 0x2F:
        _other_target_form(head)


def _other_target_form(head: RequestHead) -> None:
    absolute = _ABSOLUTE.fullmatch(head.target)
    if absolute is not None:
        if not AUTHORITY.fullmatch(absolute[1]):
            raise _bad("an invalid authority in its target")
        path: bytes = absolute[2]
        head.target = path if path.startswith(b"/") else b"/" + path
    elif head.target != b"*" or head.method != b"OPTIONS":
        raise _bad("a target that is neither a path nor an absolute URL")


def framing_alone(head: RequestHead) -> bytes:
    """A head that says nothing but how long the body is, as `head` does."""
    framing = b"Transfer-Encoding: chunked" if head.chunked else b"Content-Length: %d" % max(0, head.content_length)
    return b"POST / HTTP/1.1\r\nHost: x\r\n" + framing + b"\r\n\r\n"


def _bad(what: str) -> RequestError:
    return refuse("bad_request", f"the request has {what}")


def may_begin_a_request(data: bytes) -> bool:
    """A first look at bytes that are no whole head yet; `data` is not empty."""
    return 0x41 <= data[0] <= 0x5A


def no_request() -> RequestError:
    return refuse("bad_request", "the request has no method at its start; TLS is not spoken here")


def _malformed(line: bytes, raw: bytes) -> RequestError:
    """Why the grammar refused `line` of the head `raw`."""
    if not may_begin_a_request(raw):
        return no_request()
    if b"\0" in raw:
        return _bad("a NUL byte in its head")
    if raw.count(b"\n") != raw.count(b"\r\n") or raw.count(b"\r") != raw.count(b"\r\n"):
        return _bad("a bare CR or LF in its head")
    if line[:1] in (b" ", b"\t"):
        return _bad("a folded header line, or white space before its first word")
    if raw.startswith(line):
        return _bad("a malformed request line, or a version other than HTTP/1.0 and HTTP/1.1")
    return _bad("a malformed header field")
