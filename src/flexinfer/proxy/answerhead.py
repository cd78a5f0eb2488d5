"""The head of an engine's answer: what may be passed on, held to the same grammar as requests.

Whatever breaks a rule is a BadAnswer.
"""

from __future__ import annotations

import re

from flexinfer.errors import FlexInferError
from flexinfer.proxy.fieldlines import (
    ANSWER_FIELDS,
    CODING_F,
    CONNECTION_F,
    DROP,
    ENCODING_F,
    FORWARD,
    LENGTH_F,
    TYPE_F,
    VALUE,
    Lines,
    apply_connection,
)  # fmt: skip

_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: (" + VALUE + rb"))?")
_REMEMBERED_HEADS = 256
_REMEMBERED_HEAD_BYTES = 512


class BadAnswer(FlexInferError):
    """The engine's answer is not HTTP that may be passed on; the text says what is wrong."""


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


class AnswerReader:
    """Reads the heads of engines' answers."""

    __slots__ = ("_heads", "_lines", "_max_fields", "_starts", "known")

    def __init__(self, max_fields: int = 256) -> None:
        self._max_fields = max_fields
        self._lines = Lines(ANSWER_FIELDS)
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
            if kind == FORWARD:
                fields.append(line)
            elif kind == LENGTH_F:
                if head.content_length >= 0:
                    raise BadAnswer("two Content-Length fields")
                head.content_length = int(value)
                fields.append(line)
            elif kind == CONNECTION_F:
                connection = value if connection is None else connection + b"," + value
            elif kind != DROP:
                _answer_field(head, kind, value, line)
        if connection is not None and not apply_connection(head, connection):
            raise BadAnswer("an invalid Connection field")
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
    if kind == CODING_F:
        if head.chunked or value.lower() != b"chunked":
            raise BadAnswer("a transfer coding other than chunked")
        head.chunked = True
        return
    if kind == TYPE_F:
        head.content_type = value.lower()
    elif kind == ENCODING_F:
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
