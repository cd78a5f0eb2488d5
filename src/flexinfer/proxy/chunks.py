"""Chunked bodies: read strictly, and passed on as they came."""

from __future__ import annotations

import re

from flexinfer.proxy.fieldlines import FIELD, VALUE

_MAX_SIZE_LINE = 256
_MAX_TRAILER_BYTES = 8 * 1024
_SIZES: dict[bytes, int] = {b"%x" % size: size for size in range(1, 2048)}
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,8})(?:;" + VALUE + rb")?\r\n")

# Chunks of 1 to 15 bytes, whole: read one by one, a body of them would cost a hundred times one in large chunks.
_TINY_CHUNK = b"|".join(b"(?i:%x)\r\n[\0-\xff]{%d}\r\n" % (size, size) for size in range(1, 16))
_TINY_CHUNKS = re.compile(b"(?:" + _TINY_CHUNK + b")*+")
_each_tiny_chunk = re.compile(_TINY_CHUNK).findall

_AT_SIZE, _IN_DATA, _AT_TRAILERS = range(3)
_TRAILERS_FORBIDDEN = frozenset(
    {b"content-length", b"transfer-encoding", b"host", b"connection", b"trailer", b"content-type", b"content-encoding",
     b"content-range", b"authorization", b"set-cookie", b"cookie", b"expect", b"te", b"upgrade", b"cache-control"}
)  # fmt: skip


class BadChunk(ValueError):
    """A chunked body breaks its grammar; the text says how."""


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
            if self._state == _IN_DATA:
                step = self._data(data, at, payload)
            else:
                step = self._whole_chunks(data, at, payload) or self._size_line(data, at)
            if step == 0:
                break
            at += step
        self.raw = data[:at]
        if self._state == _AT_TRAILERS:
            self._trailers(data[at:])
        elif at < end:
            self._held = data[at:]
        return payload[0] if len(payload) == 1 else b"".join(payload)

    @staticmethod
    def _whole_chunks(data: bytes, at: int, payload: list[bytes]) -> int:
        """Bytes of the plain chunk that begins at `at` and is whole, or of all the tiny ones."""
        line_end = data.find(b"\r\n", at, at + 8)
        if line_end == at + 1:
            match = _TINY_CHUNKS.match(data, at)
            assert match is not None
            end = match.end()
            payload += [chunk[3:-2] for chunk in _each_tiny_chunk(data, at, end)]
            return end - at
        size = _SIZES.get(data[at:line_end]) if line_end > at else None
        if size is None:
            return 0
        stop = line_end + 2 + size
        if data[stop : stop + 2] != b"\r\n":
            return 0
        payload.append(data[line_end + 2 : stop])
        return stop + 2 - at

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
            if not FIELD.fullmatch(line) or line[: line.index(b":")].lower() in _TRAILERS_FORBIDDEN:
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


_PARTIAL_SIZE = re.compile(rb"[0-9A-Fa-f]{0,8}(?:(?<=[0-9A-Fa-f])(?:;" + VALUE + rb")?\r?)?")


def chunk(payload: bytes) -> bytes:
    """`payload` (not empty) as one chunk."""
    return b"%x\r\n%b\r\n" % (len(payload), payload)
