"""What RFC 9110 and 9112 allow in heads and bodies: bytes in, verdict out.

Heads are read whole (up to and with the empty line) by one strict grammar; what it does not match is
refused, never repaired. A message has exactly one framing: a Content-Length of plain digits, or
`chunked` as the only coding, or none. What is forwarded is written anew from the fields read here,
so the next reader cannot see another message in the same bytes.

Requests that break a rule raise RequestError (400 or 431), answers of an engine raise BadAnswer.
"""

from __future__ import annotations

import re

from flexinfer.errors import FlexInferError, RequestError
from flexinfer.openai.errors import refuse

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_VALUE = rb"[\t \x21-\x7e\x80-\xff]*"
_TARGET = rb"[A-Za-z0-9\-._~!$&'()*+,;=:@/?%\[\]]+"

_REQUEST_LINE = re.compile(rb"([A-Z][A-Z\-]{0,23}) (" + _TARGET + rb") HTTP/1\.([01])")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: (" + _VALUE + rb"))?")
# `*+` gives nothing back: parts that match the same bytes would otherwise be tried in every division.
_FIELD = re.compile(rb"(" + _TOKEN + rb"):[ \t]*+(" + _VALUE + rb")")
_OPTION = rb"[\t ]*+(?:" + _TOKEN + rb")?+[\t ]*+"
_OPTIONS = re.compile(_OPTION + rb"(?:," + _OPTION + rb")*+")
_LENGTH = re.compile(rb"[0-9]{1,15}")
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9\-._~!$&'()*+,;=%]{1,255})(?::[0-9]{0,5})?")
_ABSOLUTE = re.compile(rb"https?://([^/?]*)(.*)", re.IGNORECASE)

_MAX_CONNECTION_OPTIONS = 10

# What a reader does with a field, by its name in lower case; other fields are end to end.
_FORWARD, _DROP, _HOST_F, _BAD_F, _LENGTH_F, _CODING_F, _CONNECTION_F = range(7)
_EXPECT_F, _TYPE_F, _AUTH_F, _ID_F, _UPGRADE_F, _ENCODING_F, _ORIGIN_F = range(7, 14)

_REQUEST_FIELDS: dict[bytes, int] = {
    b"host": _HOST_F,
    b"content-length": _LENGTH_F,
    b"transfer-encoding": _CODING_F,
    b"connection": _CONNECTION_F,
    b"expect": _EXPECT_F,
    b"content-type": _TYPE_F,
    b"authorization": _AUTH_F,
    b"x-request-id": _ID_F,
    b"origin": _ORIGIN_F,
    b"upgrade": _UPGRADE_F,
    # Answers have to stay readable: how a stream ended is seen in its events.
    b"accept-encoding": _DROP,
    b"keep-alive": _DROP,
    b"proxy-authenticate": _DROP,
    b"proxy-authorization": _DROP,
    b"proxy-connection": _DROP,
    b"te": _DROP,
    b"trailer": _DROP,
    b"http2-settings": _DROP,
}

_ANSWER_FIELDS: dict[bytes, int] = {
    b"content-length": _LENGTH_F,
    b"transfer-encoding": _CODING_F,
    b"connection": _CONNECTION_F,
    b"content-type": _TYPE_F,
    b"content-encoding": _ENCODING_F,
    b"x-request-id": _DROP,
    b"keep-alive": _DROP,
    b"proxy-authenticate": _DROP,
    b"proxy-connection": _DROP,
    b"te": _DROP,
    b"upgrade": _DROP,
    # Which page may read an answer is not for an engine to say.
    b"access-control-allow-origin": _DROP,
    b"access-control-allow-credentials": _DROP,
    b"access-control-allow-headers": _DROP,
    b"access-control-allow-methods": _DROP,
    b"access-control-allow-private-network": _DROP,
    b"access-control-expose-headers": _DROP,
    b"access-control-max-age": _DROP,
}

_TRAILERS_FORBIDDEN = frozenset(
    {b"content-length", b"transfer-encoding", b"host", b"connection", b"trailer", b"content-type", b"content-encoding",
     b"content-range", b"authorization", b"set-cookie", b"cookie", b"expect", b"te", b"upgrade", b"cache-control"}
)  # fmt: skip


class BadAnswer(FlexInferError):
    """The engine's answer is not HTTP that may be passed on; the text says what is wrong."""


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


class AnswerHead:
    """An answer head that may be passed on."""

    __slots__ = ("chunked", "content_length", "content_type", "encoded", "events", "fields", "keep_alive", "minor",
                 "sized", "status", "status_line", "text")  # fmt: skip

    def __init__(self, status: int, status_line: bytes, minor: int) -> None:
        self.status = status
        self.status_line = status_line
        self.minor = minor
        self.fields: list[bytes] = []
        self.content_length = -1
        self.chunked = False
        self.keep_alive = minor == 1
        self.content_type = b""
        self.encoded = False
        self.events = False
        """It begins a stream of events that can be read."""
        self.sized = False
        """Its end is known from the head."""
        self.text = b""
        """Status line and fields, each with its line end."""


_SECRET_OR_UNIQUE = re.compile(rb"cookie|set-cookie|x-api-key|api-key|trace", re.IGNORECASE)


class _Lines:
    """Remembers what was read in short lines: most heads repeat the lines of the head before.

    A line with a secret is not remembered, nor one that no other request will have.
    """

    __slots__ = ("_kinds", "get", "seen")

    _MOST = 2048
    _LONGEST = 128
    _NEVER = frozenset({_AUTH_F, _ID_F})

    def __init__(self, kinds: dict[bytes, int]) -> None:
        self._kinds = kinds
        self.seen: dict[bytes, tuple[int, bytes]] = {}
        self.get = self.seen.get

    def read(self, line: bytes) -> tuple[int, bytes] | None:
        """What to do with a field line, and its value without white space around; None: it is malformed."""
        match = _FIELD.fullmatch(line)
        if match is None:
            return None
        name = match[1].lower()
        kind = self._kinds.get(name, _FORWARD)
        if kind == _FORWARD and b"_" in name and name.replace(b"_", b"-") in self._kinds:
            kind = _DROP  # servers in the manner of CGI take both spellings for one field
        value = match[2].rstrip(b" \t")
        if (kind == _HOST_F and not _HOST.fullmatch(value)) or (kind == _LENGTH_F and not _LENGTH.fullmatch(value)):
            kind = _BAD_F
        read = (kind, value)
        if len(line) <= self._LONGEST and kind not in self._NEVER and not _SECRET_OR_UNIQUE.match(line):
            if len(self.seen) >= self._MOST:
                self.seen.clear()
            self.seen[line] = read
        return read


class RequestReader:
    """Reads request heads. `read` takes one whole head, with its empty line."""

    __slots__ = ("_lines", "_max_fields", "_starts")

    def __init__(self, max_fields: int) -> None:
        self._max_fields = max_fields
        self._lines = _Lines(_REQUEST_FIELDS)
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
            if kind == _FORWARD:
                fields.append(line)
            elif kind == _LENGTH_F:
                if head.content_length >= 0:
                    raise _bad("two Content-Length fields")
                head.content_length = int(value)
            elif kind == _CONNECTION_F:
                connection = value if connection is None else connection + b"," + value
            elif kind != _DROP:
                _own_field(head, kind, value, line)
        if connection is not None:
            _apply_connection(head, connection)
        if head.host is None or head.chunked or head.target[0] != 0x2F:
            _check_request(head)
        return head

    def _start(self, line: bytes, raw: bytes) -> tuple[bytes, bytes, int]:
        match = _REQUEST_LINE.fullmatch(line)
        if match is None:
            raise _malformed(line, raw)
        start = (match[1], match[2], match[3][0] - 0x30)
        if len(line) <= 64:
            if len(self._starts) >= 256:
                self._starts.clear()
            self._starts[line] = start
        return start


def _own_field(head: RequestHead, kind: int, value: bytes, line: bytes) -> None:
    """A field that is read here; each may stand only once."""
    if kind == _TYPE_F:
        _once(not head.content_type, "Content-Type")
        head.content_type = value
        head.fields.append(line)
    elif kind == _HOST_F:
        _once(head.host is None, "Host")
        head.host = value
    elif kind == _AUTH_F:
        head.authorization += (value,)
    elif kind == _ORIGIN_F:
        _once(not head.origin, "Origin")
        head.origin = value or b"null"
    elif kind == _ID_F:
        _once(not head.request_id, "X-Request-ID")
        head.request_id = value
    elif kind == _CODING_F:
        _once(not head.chunked, "Transfer-Encoding")
        if value.lower() != b"chunked":
            raise _bad("a transfer coding other than chunked")
        head.chunked = True
    elif kind == _EXPECT_F:
        if value.lower() != b"100-continue":
            raise _bad("an expectation other than 100-continue")
        head.expects_continue = True
    elif kind == _BAD_F:
        raise _bad("an invalid Host, or a Content-Length that is not a plain number")
    else:
        head.upgrade = True


def _once(first: bool, name: str) -> None:
    if not first:
        raise _bad(f"two {name} fields")


def _apply_connection(head: RequestHead | AnswerHead, value: bytes) -> None:
    if value == b"keep-alive":
        head.keep_alive = True
        return
    options = _connection_options(value)
    if options is None:
        if isinstance(head, RequestHead):
            raise _bad("an invalid Connection field")
        raise BadAnswer("an invalid Connection field")
    if b"close" in options:
        head.keep_alive = False
    elif b"keep-alive" in options:
        head.keep_alive = True
    if options - {b"close", b"keep-alive", b"upgrade"}:
        head.fields = [line for line in head.fields if line[: line.index(b":")].lower() not in options]


def _connection_options(value: bytes) -> set[bytes] | None:
    if not _OPTIONS.fullmatch(value):
        return None
    options = {option.strip(b" \t").lower() for option in value.split(b",")} - {b""}
    return options if len(options) <= _MAX_CONNECTION_OPTIONS else None


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
    if absolute is not None and head.method != b"CONNECT":
        if not _HOST.fullmatch(absolute[1]):
            raise _bad("an invalid authority in its target")
        path: bytes = absolute[2]
        head.target = path if path.startswith(b"/") else b"/" + path
    elif head.method == b"CONNECT":
        raise _bad("the method CONNECT, which is not spoken here")
    elif head.target != b"*" or head.method != b"OPTIONS":
        raise _bad("a target that is neither a path nor an absolute URL")


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


_REMEMBERED_HEADS = 256
_REMEMBERED_HEAD_BYTES = 512


class AnswerReader:
    """Reads the heads of engines' answers."""

    __slots__ = ("_heads", "_lines", "_max_fields", "_starts", "known")

    def __init__(self, max_fields: int = 256) -> None:
        self._max_fields = max_fields
        self._lines = _Lines(_ANSWER_FIELDS)
        self._starts: dict[bytes, tuple[int, bytes, int]] = {}
        self._heads: dict[bytes, AnswerHead] = {}
        """Whole heads: those of the streams that an engine begins within one second are the same."""
        self.known = self._heads.get
        """The head that was read from these bytes before, or None."""

    def read(self, raw: bytes) -> AnswerHead:
        """BadAnswer: `raw` is no head that may be passed on. The same bytes give the same object; do not change it."""
        head = self._heads.get(raw)
        if head is not None:
            return head
        head = self._read(raw)
        head.sized = head.content_length >= 0 or head.status == 204 or head.status == 304
        head.events = head.status == 200 and not head.encoded and head.content_type.startswith(b"text/event-stream")
        head.text = b"\r\n".join([head.status_line, *head.fields, b""])
        if len(raw) <= _REMEMBERED_HEAD_BYTES and b"cookie" not in raw.lower():
            if len(self._heads) >= _REMEMBERED_HEADS:
                self._heads.clear()
            self._heads[raw] = head
        return head

    def _read(self, raw: bytes) -> AnswerHead:
        lines = raw.split(b"\r\n")
        start = self._starts.get(lines[0]) or self._start(lines[0])
        if len(lines) - 3 > self._max_fields:
            raise BadAnswer("too many fields")
        head = AnswerHead(*start)
        fields = head.fields
        known = self._lines.get
        connection: bytes | None = None
        for line in lines[1:-2]:
            read = known(line) or self._lines.read(line)
            if read is None:
                raise BadAnswer("a malformed header field")
            kind, value = read
            if kind == _FORWARD:
                fields.append(line)
            elif kind == _LENGTH_F:
                if head.content_length >= 0:
                    raise BadAnswer("two Content-Length fields")
                head.content_length = int(value)
                fields.append(line)
            elif kind == _CONNECTION_F:
                connection = value if connection is None else connection + b"," + value
            elif kind != _DROP:
                _answer_field(head, kind, value, line)
        if connection is not None:
            _apply_connection(head, connection)
        if head.chunked or head.status < 200 or head.status == 204:
            _check_answer(head)
        return head

    def _start(self, line: bytes) -> tuple[int, bytes, int]:
        match = _STATUS_LINE.fullmatch(line)
        if match is None:
            raise BadAnswer("a malformed status line")
        status_line = b"HTTP/1.1 " + match[2] + b" " + (match[3] or b"")
        start = (int(match[2]), status_line, match[1][0] - 0x30)
        if len(line) <= 64:
            if len(self._starts) >= 256:
                self._starts.clear()
            self._starts[line] = start
        return start


def _answer_field(head: AnswerHead, kind: int, value: bytes, line: bytes) -> None:
    if kind == _CODING_F:
        if head.chunked or value.lower() != b"chunked":
            raise BadAnswer("a transfer coding other than chunked")
        head.chunked = True
        return
    if kind == _TYPE_F:
        head.content_type = value.lower()
    elif kind == _ENCODING_F:
        head.encoded = value.lower() != b"identity"
    else:
        raise BadAnswer("a Content-Length that is not a plain number")
    head.fields.append(line)


def _check_answer(head: AnswerHead) -> None:
    if head.chunked and head.content_length >= 0:
        raise BadAnswer("both Content-Length and Transfer-Encoding")
    if head.chunked and head.minor == 0:
        raise BadAnswer("Transfer-Encoding in HTTP/1.0")
    if head.status < 200:
        if head.chunked or head.content_length > 0:
            raise BadAnswer("an interim answer with a body")
        if head.status == 101:
            raise BadAnswer("a switch of protocols nobody asked for")
    elif head.status == 204 and (head.chunked or head.content_length > 0):
        raise BadAnswer("a 204 with a body")


class BadChunk(ValueError):
    """A chunked body breaks its grammar; the text says how."""


_MAX_SIZE_LINE = 256
_MAX_TRAILER_BYTES = 8 * 1024
_SIZES: dict[bytes, int] = {b"%x" % size: size for size in range(1, 2048)}
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,8})(?:;" + _VALUE + rb")?\r\n")

_AT_SIZE, _IN_DATA, _AT_TRAILERS = range(3)


class ChunkReader:
    """Reads a chunked body: bytes in, payload out, and how much of the bytes may be passed on.

    After each `feed`, `raw` holds the bytes that may be forwarded as they are. A size line, the line
    end after the data and the last chunk are held back until they are whole, so whoever forwards `raw`
    can always end the message in another way. When `done`, `tail` is the last chunk with its trailers
    and `extra` what came behind it.
    """

    __slots__ = ("_held", "_left", "_state", "done", "extra", "raw", "tail")

    def __init__(self) -> None:
        self._state = _AT_SIZE
        self._left = 0
        """Bytes of data, with the CRLF behind them, that the open chunk still owes."""
        self._held = b""
        self.done = False
        self.raw = b""
        self.tail = b""
        self.extra = b""

    def feed(self, data: bytes) -> bytes:
        """The payload in `data`. Raises BadChunk."""
        if self._state == _AT_SIZE and not self._held:
            line_end = data.find(b"\r\n", 0, 8)
            size = _SIZES.get(data[:line_end])
            if size is not None and len(data) == size + line_end + 4 and data.endswith(b"\r\n"):
                self.raw = data
                return data[line_end + 2 : -2]
        return self._feed_any(data)

    def _feed_any(self, data: bytes) -> bytes:
        if self._held:
            data = self._held + data
            self._held = b""
        payload: list[bytes] = []
        at = 0
        end = len(data)
        while at < end and self._state < _AT_TRAILERS:
            step = self._size_line(data, at) if self._state == _AT_SIZE else self._data(data, at, payload)
            if step == 0:
                break
            at += step
        self.raw = data[:at]
        if self._state == _AT_TRAILERS:
            self._trailers(data[at:])
        elif at < end:
            self._held = data[at:]
        return payload[0] if len(payload) == 1 else b"".join(payload)

    def _size_line(self, data: bytes, at: int) -> int:
        """Bytes of the size line that starts at `at`; 0 if more are needed, or it is the last chunk."""
        match = _SIZE_LINE.match(data, at)
        if match is None:
            self._check_partial_size(data, at)
            return 0
        if match.end() - at > _MAX_SIZE_LINE:
            raise BadChunk("a chunk size line that is too long")
        size = int(match[1], 16)
        if size == 0:
            self._state = _AT_TRAILERS
            return 0
        self._state = _IN_DATA
        self._left = size + 2
        return match.end() - at

    @staticmethod
    def _check_partial_size(data: bytes, at: int) -> None:
        if b"\n" in data[at : at + _MAX_SIZE_LINE] or len(data) - at > _MAX_SIZE_LINE:
            raise BadChunk("a malformed chunk size")
        if not _PARTIAL_SIZE.fullmatch(data, at):
            raise BadChunk("a malformed chunk size")

    def _data(self, data: bytes, at: int, payload: list[bytes]) -> int:
        available = len(data) - at
        if self._left > 2:
            take = min(self._left - 2, available)
            payload.append(data[at : at + take] if at or take < len(data) else data)
            self._left -= take
            if available < take + 2:
                return take
            at += take
        else:
            take = 0
        line_end = data[at : at + 2]
        if line_end == b"\r\n":
            self._left = 0
            self._state = _AT_SIZE
            return take + 2
        if line_end not in (b"", b"\r"):
            raise BadChunk("data longer than its chunk size")
        return take

    def _trailers(self, data: bytes) -> None:
        """Reads `0`, trailers and the empty line; `data` starts at the size line of the last chunk."""
        match = _SIZE_LINE.match(data)
        start = match.end() - 2 if match is not None else 0
        stop = data.find(b"\r\n\r\n", start, start + _MAX_TRAILER_BYTES)
        if stop < 0:
            if len(data) - start >= _MAX_TRAILER_BYTES or b"\n" in data[start:].replace(b"\r\n", b""):
                raise BadChunk("malformed or oversized trailers")
            self._held = data
            return
        for line in data[start:stop].split(b"\r\n")[1:]:
            if not _FIELD.fullmatch(line) or line[: line.index(b":")].lower() in _TRAILERS_FORBIDDEN:
                raise BadChunk("a malformed or forbidden trailer")
        self.done = True
        self.tail = data[: stop + 4]
        self.extra = data[stop + 4 :]

    def close_chunk(self, filler: int, max_bytes: int = 64 * 1024) -> bytes:
        """Bytes that end the chunk left open in what was forwarded, its data filled up with `filler`.

        Empty if no chunk is open. A chunk that owes more than `max_bytes` is not filled: the bytes that
        follow are then still its data.
        """
        if self._state != _IN_DATA or self._left - 2 > max_bytes:
            return b""
        return bytes([filler]) * (self._left - 2) + b"\r\n"

    @property
    def owes(self) -> int:
        """Bytes of data that the open chunk still owes; 0 between chunks."""
        return self._left - 2 if self._state == _IN_DATA else 0


_PARTIAL_SIZE = re.compile(rb"[0-9A-Fa-f]{0,8}(?:(?<=[0-9A-Fa-f])(?:;" + _VALUE + rb")?\r?)?")


def chunk(payload: bytes) -> bytes:
    """`payload` (not empty) as one chunk."""
    return b"%x\r\n%b\r\n" % (len(payload), payload)
