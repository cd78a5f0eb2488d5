"""Server-sent events: an exact reader, and a cheap watch over a stream that is passed on.

The reader follows the HTML standard: lines end in LF, CR or CRLF, an empty line ends an event, and
any split of the bytes gives the same events. It is bounded: of a longer event the first bytes are
kept and it is marked as truncated.

The watch tells how a stream of completions ended. Three ends are failures whatever the status line
said: an `error` object, `finish_reason: "abort"`, and no `[DONE]`.
"""

from __future__ import annotations

import re
from collections import deque
from typing import Any

import msgspec

MAX_EVENT_BYTES = 64 * 1024
_TAIL_EVENTS = 6  # an error, an abort or the usage stands in the last few events
_BATCH = 32
_LARGE_PIECE_BYTES = 4 * 1024
_MOST_TOKENS = 10**9


class Event(msgspec.Struct, frozen=True):
    data: bytes
    event: bytes = b""
    id: bytes = b""
    truncated: bool = False


class Reader:
    """Bytes in, events out."""

    __slots__ = ("_data", "_event", "_id", "_limit", "_line", "_seen_cr", "_size", "_started", "_truncated")

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._limit = max_event_bytes
        self._line = bytearray()
        self._data: list[bytes] = []
        self._size = 0
        self._event = b""
        self._id = b""
        self._seen_cr = False
        self._started = False
        self._truncated = False

    @property
    def at_boundary(self) -> bool:
        """No event is half read."""
        return not self._line and not self._data and not self._event and not self._truncated

    def feed(self, chunk: bytes) -> list[Event]:
        events: list[Event] = []
        if self._seen_cr and chunk:
            self._seen_cr = False
            if chunk[0] == 0x0A:
                chunk = chunk[1:]
        if chunk.endswith(b"\r"):
            self._seen_cr = True
        # bytes.splitlines ends lines at LF, CR and CRLF only.
        for line in chunk.splitlines(keepends=True):
            text = line.rstrip(b"\r\n")
            room = self._limit - len(self._line)
            self._line += text[: max(0, room)]
            self._truncated = self._truncated or len(text) > room
            if len(text) < len(line):
                self._end_of_line(events)
        return events

    def _end_of_line(self, events: list[Event]) -> None:
        line = bytes(self._line)
        self._line.clear()
        if not self._started:
            self._started = True
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not line:
            self._dispatch(events)
            return
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            room = self._limit - self._size
            self._data.append(value[: max(0, room)])
            self._size += len(value) + 1
            self._truncated = self._truncated or len(value) > room
        elif name == b"event":
            self._event = value
        elif name == b"id" and b"\0" not in value:
            self._id = value

    def _dispatch(self, events: list[Event]) -> None:
        if self._data:
            events.append(Event(b"\n".join(self._data), self._event, self._id, self._truncated))
        self._data.clear()
        self._size = 0
        self._event = b""
        self._truncated = False


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Choice(msgspec.Struct):
    finish_reason: str | None = None


class _Chunk(msgspec.Struct):
    error: Any = None
    usage: _Usage | None = None
    choices: list[_Choice] | None = None


_decode_chunk = msgspec.json.Decoder(_Chunk).decode


class StreamEnd(msgspec.Struct, frozen=True):
    """How a stream ended."""

    done: bool
    error: bool
    aborted: bool
    output_tokens: int
    """The engine's own count, else the number of events."""
    prompt_tokens: int = 0
    """The engine's own count; 0 where it gave none."""

    @property
    def ok(self) -> bool:
        return not self.failure

    @property
    def failure(self) -> str:
        """What was wrong with it, in a word for logs; empty if nothing was."""
        if self.error:
            return "engine_error"
        if self.aborted:
            return "engine_abort"
        return "" if self.done else "engine_cut"


class StreamWatch:
    """Watches the payload of a stream while it is passed on.

    Pieces are collected and looked at a few dozen at a time. Where they are whole events of one `data`
    line each, as engines send them, that is a handful of searches over the lot; anything else goes
    through the exact reader. Only the last few events are decoded, and those that hold an `error`.
    """

    __slots__ = ("_aborted", "_error", "_events", "_pieces", "_prompt_tokens", "_reader", "_tail", "_tokens", "_whole")

    def __init__(self) -> None:
        self._events = 0
        self._whole = True
        self._pieces: list[bytes] = []
        self._tail: deque[bytes] = deque(maxlen=_TAIL_EVENTS)
        """Data of the last events."""
        self._reader: Reader | None = None
        self._error = False
        self._aborted = False
        self._tokens: int | None = None
        self._prompt_tokens = 0

    def feed(self, payload: bytes) -> None:
        pieces = self._pieces
        pieces.append(payload)
        if len(pieces) >= _BATCH or len(payload) > _LARGE_PIECE_BYTES:
            self._look_at_pieces()

    @property
    def whole(self) -> bool:
        """The last byte ended an event: another event may follow."""
        self._look_at_pieces()
        return self._whole

    @property
    def events(self) -> int:
        """Events with data so far, `[DONE]` included."""
        self._look_at_pieces()
        return self._events

    def _look_at_pieces(self) -> None:
        block = b"".join(self._pieces)
        self._pieces.clear()
        if not block:
            return
        if self._whole and block[:5] == b"data:" and block[-2:] == b"\n\n" and b"\r" not in block:
            count = block.count(b"\n\ndata:") + 1
            if block.count(b"\n") == 2 * count and len(block) <= _BATCH * _LARGE_PIECE_BYTES:
                self._events += count
                self._tail.extend(line[5:] for line in block[:-2].rsplit(b"\n\n", _TAIL_EVENTS)[-_TAIL_EVENTS:])
                if b'"error"' in block or b'"abort"' in block:
                    for line in block.split(b"\n\n"):
                        if b'"error"' in line or b'"abort"' in line:
                            self._decode(line[5:])
                return
        self._read_exactly(block)

    def _read_exactly(self, block: bytes) -> None:
        reader = self._reader
        if reader is None:
            reader = self._reader = Reader()
            if self._events:
                reader.feed(b"\n")  # a byte order mark opens a stream, it does not follow an event
        for event in reader.feed(block):
            self._events += 1
            self._tail.append(event.data)
            if b'"error"' in event.data or b'"abort"' in event.data:
                self._decode(event.data)
        self._whole = reader.at_boundary

    def _decode(self, data: bytes) -> None:
        try:
            chunk = _decode_chunk(data)
        except UnicodeDecodeError:
            self._decode(data.decode("utf-8", "replace").encode())
            return
        except (msgspec.DecodeError, RecursionError):
            return
        if chunk.error is not None:
            self._error = True
        if chunk.usage is not None:
            prompt, output = chunk.usage.prompt_tokens, chunk.usage.completion_tokens
            # An engine may write any number; one that cannot be true would spoil the sums for ever.
            if prompt is not None and 0 <= prompt <= _MOST_TOKENS:
                self._prompt_tokens = prompt
            if output is not None and 0 <= output <= _MOST_TOKENS:
                self._tokens = output
        if chunk.choices and any(choice.finish_reason == "abort" for choice in chunk.choices):
            self._aborted = True

    def finish(self) -> StreamEnd:
        """The verdict at the end of the stream; may be asked before, too."""
        self._look_at_pieces()
        done = bool(self._tail) and self._tail[-1].strip() == b"[DONE]"
        for data in self._tail:
            self._decode(data)
        events = self._events - 1 if done else self._events
        tokens = events if self._tokens is None else self._tokens
        return StreamEnd(done, self._error, self._aborted, tokens, self._prompt_tokens)


# In a string of the answer the quotes would be escaped, so neither is ever found in what a model said.
_ABORTED = re.compile(rb'"finish_reason"[ \t\r\n]*:[ \t\r\n]*"abort"')
_ERROR_FIRST = re.compile(rb'[ \t\r\n]*\{[ \t\r\n]*"error"[ \t\r\n]*:[ \t\r\n]*[{"]')


def answer_failed(tail: bytes) -> bool:
    """Whether a JSON answer with status 200, of which this is the end or all, tells of a failure."""
    if b'"abort"' in tail and _ABORTED.search(tail) is not None:
        return True
    return _ERROR_FIRST.match(tail) is not None


_PROMPT_TOKENS, _COMPLETION_TOKENS = b'"prompt_tokens"', b'"completion_tokens"'
_COUNT = re.compile(rb"[ \t\r\n]*:[ \t\r\n]*([0-9]{1,12})(?![0-9])")


def answer_tokens(tail: bytes) -> tuple[int, int]:
    """The engine's counts of prompt and output near the end of a JSON answer, 0 for one that is not there."""
    return _count_after(_PROMPT_TOKENS, tail), _count_after(_COMPLETION_TOKENS, tail)


def _count_after(key: bytes, tail: bytes) -> int:
    at = tail.rfind(key)
    if at < 0:
        return 0
    match = _COUNT.match(tail, at + len(key))
    count = int(match[1]) if match is not None else 0
    return count if count <= _MOST_TOKENS else 0
