"""Tells when files change: inotify on their folders, or a look every two seconds where there is none.

Editors write anew, rename over or swap links, so the folders are watched, those of each link on the
way too. What comes is only a hint: `settled` returns once the files have been left alone for a while.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Self

from flexinfer import logs

log = logs.get("files")

SETTLE_S = 0.5
LONGEST_SETTLE_S = 5.0
"""Files that are written all the time are read at least this often."""
POLL_S = 2.0
MAX_LINKS = 40

_MODIFY, _ATTRIB, _CLOSE_WRITE, _MOVED_FROM, _MOVED_TO, _CREATE, _DELETE = 0x2, 0x4, 0x8, 0x40, 0x80, 0x100, 0x200
_DELETE_SELF, _MOVE_SELF, _UNMOUNT, _OVERFLOW, _IGNORED, _ONLY_FOLDER = 0x400, 0x800, 0x2000, 0x4000, 0x8000, 0x1000000
_IN_FOLDER = _ATTRIB | _CLOSE_WRITE | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE | _DELETE_SELF | _MOVE_SELF
_OF_ITSELF = _DELETE_SELF | _MOVE_SELF | _UNMOUNT | _OVERFLOW | _IGNORED
_EVENT = struct.Struct("iIII")
_READ_BYTES = 64 * 1024

Stamp = tuple[int, int, int, int]


class Place(NamedTuple):
    """An entry of a folder; an empty name is any entry."""

    folder: str
    name: str


class FileWatch:
    """A context, inside of which `settled` can be awaited by one task. `files` is asked at each look."""

    def __init__(
        self,
        files: Callable[[], Sequence[Path]],
        folder: Path | None = None,
        *,
        inotify: bool = True,
        settle_s: float = SETTLE_S,
        poll_s: float = POLL_S,
    ) -> None:
        """Changes count from here on. `folder`: one whose entries are files of the set, whatever they are called."""
        self._files = files
        self._folder = folder
        self._may_watch = inotify
        self._settle_s = settle_s
        self._poll_s = poll_s
        self._hint = asyncio.Event()
        self._inotify: _Inotify | None = None
        self._stamps = self._read_stamps()

    def __enter__(self) -> Self:
        before = self._stamps
        self._open()
        if self._stamps != before:
            self._hint.set()
        return self

    def __exit__(self, *_details: object) -> None:
        self._close()

    def look(self) -> None:
        """Let `settled` return although nothing was seen."""
        self._hint.set()

    async def settled(self) -> None:
        """Once something may have changed and has been left alone. Changes from here on are for the next call."""
        await self._hinted()
        loop = asyncio.get_running_loop()
        latest = loop.time() + LONGEST_SETTLE_S
        while loop.time() < latest:
            self._hint.clear()
            try:
                await asyncio.wait_for(self._hint.wait(), self._settle_s)
            except TimeoutError:
                break
        self._hint.clear()
        # Links may lead elsewhere, and a folder may be another one of the same name.
        self._close()
        self._open()

    async def _hinted(self) -> None:
        if self._inotify is not None:
            await self._hint.wait()
            return
        while not self._hint.is_set() and self._read_stamps() == self._stamps:
            try:
                await asyncio.wait_for(self._hint.wait(), self._poll_s)
            except TimeoutError:
                continue

    def _open(self) -> None:
        files = list(self._files())
        wanted = [place for file in files for place in places(file)]
        if self._folder is not None:
            wanted.append(Place(str(self._folder), ""))
        self._stamps = self._read_stamps()
        if not self._may_watch:
            return
        try:
            self._inotify = _Inotify(wanted, [str(file) for file in files], self._hint.set)
        except OSError as error:
            log.warning("files cannot be watched, they are looked at", every_s=self._poll_s, error=error.strerror)

    def _close(self) -> None:
        if self._inotify is not None:
            self._inotify.close()
            self._inotify = None

    def _read_stamps(self) -> tuple[Stamp | None, ...]:
        return tuple(_stamp(file) for file in self._files())


def _stamp(file: Path) -> Stamp | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


class _Inotify:
    """OSError when there is no inotify, or no watch left."""

    def __init__(self, wanted: Sequence[Place], files: Sequence[str], changed: Callable[[], None]) -> None:
        self._changed = changed
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._names: dict[int, set[str]] = {}
        self._loop = asyncio.get_running_loop()
        self._descriptor = self._checked(self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        try:
            for place in wanted:
                self._names.setdefault(self._watch(place.folder, _IN_FOLDER | _ONLY_FOLDER), set()).add(place.name)
            for file in files:
                # A writer that takes its time would otherwise be seen when it closes the file only.
                if Path(file).is_file():
                    self._names[self._watch(file, _MODIFY)] = {""}
        except OSError:
            os.close(self._descriptor)
            raise
        self._loop.add_reader(self._descriptor, self._read)

    def close(self) -> None:
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)

    def _watch(self, path: str, mask: int) -> int:
        return self._checked(self._libc.inotify_add_watch(self._descriptor, os.fsencode(path), mask))

    def _checked(self, result: int) -> int:
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return result

    def _read(self) -> None:
        try:
            data = os.read(self._descriptor, _READ_BYTES)
        except BlockingIOError:
            return
        if any(self._concerns(watch, mask, name) for watch, mask, name in _events(data)):
            self._changed()

    def _concerns(self, watch: int, mask: int, name: str) -> bool:
        names = self._names.get(watch, set())
        return bool(mask & _OF_ITSELF) or "" in names or name in names


def _events(data: bytes) -> Iterator[tuple[int, int, str]]:
    at = 0
    while at < len(data):
        watch, mask, _, length = _EVENT.unpack_from(data, at)
        at += _EVENT.size
        yield watch, mask, os.fsdecode(data[at : at + length].rstrip(b"\0"))
        at += length


def places(file: Path) -> list[Place]:
    """Where a change could make `file` another one: its entry, and that of each link on the way to it."""
    found: list[Place] = []
    left = list(reversed(Path(os.path.abspath(file)).parts[1:]))  # noqa: PTH100 - a link's `..` must not be resolved
    folder, links = "/", 0
    while left:
        name = left.pop()
        if name == "..":
            folder = os.path.dirname(folder)  # noqa: PTH120
            continue
        path = os.path.join(folder, name)  # noqa: PTH118
        if os.path.islink(path) and links < MAX_LINKS:  # noqa: PTH114
            links += 1
            found.append(Place(folder, name))
            target = os.readlink(path)  # noqa: PTH115
            if target.startswith("/"):
                folder = "/"
            left += reversed([part for part in target.split("/") if part not in ("", ".")])
        elif left:
            folder = path
        else:
            found.append(Place(folder, name))
    return found
