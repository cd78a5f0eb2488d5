"""Reading an engine's log while the keeper writes and turns it over: the last lines, and what is new.

Lines end with a newline or a carriage return (progress bars). They are for people and for patterns:
bytes that are no UTF-8 are replaced and control characters removed, whatever an engine prints.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import BinaryIO

READ_LIMIT_BYTES = 256 * 1024
LINE_LIMIT_CHARS = 4096

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_ENDS = re.compile(rb"[\r\n]+")


def clean(raw: bytes) -> str:
    text = _ESCAPES.sub("", raw.decode("utf-8", "replace"))
    return _CONTROLS.sub("", text)[:LINE_LIMIT_CHARS]


def older(path: Path) -> Path:
    """Where the keeper moves the first half of a log that grows too large."""
    return path.with_name(path.name + ".1")


def read_end(path: Path, limit_bytes: int) -> bytes:
    """The last bytes of a log, its older half included; empty when there is none."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - limit_bytes))
            data = file.read(limit_bytes)
    except FileNotFoundError:
        data = b""
    if len(data) < limit_bytes and path.suffix != ".1":
        data = read_end(older(path), limit_bytes - len(data)) + data
    return data


def tail(path: Path, count: int = 20, limit_bytes: int = 64 * 1024) -> list[str]:
    """The last `count` lines that are not empty."""
    lines = [clean(line) for line in _ENDS.split(read_end(path, limit_bytes))]
    return [line for line in lines if line.strip()][-count:] if count > 0 else []


class LogReader:
    """What was written since the last look, across turn-overs. Needs no close: it opens per look.

    `last_lines` None begins with the current file, which is all there is of a new log; a number begins
    that many lines before the end, ALL at the oldest line kept.
    """

    ALL = -1

    def __init__(self, path: Path, *, last_lines: int | None = None) -> None:
        self._path = path
        self._inode = 0
        self._offset = 0
        self._rest = b""
        if last_lines is not None:
            self._seek(last_lines)

    def _seek(self, lines: int) -> None:
        for path in (self._path, older(self._path)):
            try:
                with path.open("rb") as file:
                    self._inode = os.fstat(file.fileno()).st_ino
                    self._offset, lines = (0, lines) if lines < 0 else _lines_before_end(file, lines)
            except FileNotFoundError:
                return
            if lines == 0:
                return

    @property
    def partial(self) -> str:
        """The line that has not ended yet."""
        return clean(self._rest)

    def read_bytes(self) -> bytes:
        """At most READ_LIMIT_BYTES; empty when there is nothing new."""
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return b""
        with file:
            inode = os.fstat(file.fileno()).st_ino
            if self._inode not in {0, inode}:
                data = self._read_older()
                if data:
                    return data
                self._offset = 0
            self._inode = inode
            return self._take(file)

    def _read_older(self) -> bytes:
        """The rest of the file that we were in before it was turned over."""
        try:
            with older(self._path).open("rb") as file:
                if os.fstat(file.fileno()).st_ino == self._inode:
                    return self._take(file)
        except FileNotFoundError:
            pass
        return b""

    def _take(self, file: BinaryIO) -> bytes:
        file.seek(self._offset)
        data = file.read(READ_LIMIT_BYTES)
        self._offset += len(data)
        return data

    def read_lines(self) -> list[str]:
        """The lines that have ended since the last look."""
        data = self.read_bytes()
        if not data:
            return []
        parts = _ENDS.split(self._rest + data)
        self._rest = parts.pop()[-READ_LIMIT_BYTES:]
        return [clean(part) for part in parts if part]


def _lines_before_end(file: BinaryIO, count: int) -> tuple[int, int]:
    """Where the last `count` lines begin, and how many lines the file lacks."""
    end = file.seek(0, os.SEEK_END)
    if count == 0 or end == 0:
        return end, count
    # The newline at the very end closes the last line and begins none.
    stop = end - 1
    while stop > 0:
        start = max(0, stop - READ_LIMIT_BYTES)
        file.seek(start)
        block = file.read(stop - start)
        found = len(block)
        while (found := block.rfind(b"\n", 0, found)) >= 0:
            count -= 1
            if count == 0:
                return start + found + 1, 0
        stop = start
    return 0, count - 1
