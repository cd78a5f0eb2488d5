"""One file from the hub: resumed where it stopped, never longer than announced, verified before it counts.

The digest is computed while the bytes arrive; what an earlier run left is read once.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from flexinfer.loader.failures import FetchFailed, Transient
from flexinfer.loader.hub import Patience
from flexinfer.loader.origin import Answer, Origin, Remote

PIECE_BYTES = 8 << 30
"""Most bytes of one request: caches in front of a hub refuse to answer with very large bodies."""
_READ_BYTES = 1 << 20
_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)")


class Partial:
    """The part of a file that is there. Only one process has it open: the one that holds the copy's lock."""

    def __init__(self, path: Path, file: Remote) -> None:
        self.path = path
        self.file = file
        self.offset = 0
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        self._hash = hasher(file)

    def resume(self) -> None:
        """Take over what is there, as far as it can be part of the file."""
        if os.fstat(self._fd).st_size > self.file.size:
            self.restart()
        while chunk := os.pread(self._fd, _READ_BYTES, self.offset):
            self._hash.update(chunk)
            self.offset += len(chunk)

    def restart(self) -> None:
        os.ftruncate(self._fd, 0)
        self.offset = 0
        self._hash = hasher(self.file)

    def write(self, chunk: bytes) -> None:
        rest = memoryview(chunk)
        while rest:
            written = os.pwrite(self._fd, rest, self.offset)
            self._hash.update(rest[:written])
            self.offset += written
            rest = rest[written:]

    def verified(self) -> bool:
        return self._hash.hexdigest() == self.file.digest.partition(":")[2]

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()

    def sync(self) -> None:
        os.fsync(self._fd)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)


def hasher(file: Remote) -> hashlib._Hash:
    """For the kind of digest that the listing has: SHA-256 of the bytes, or the id of a git blob."""
    if file.digest.startswith("sha256:"):
        return hashlib.sha256()
    # Git names blobs by SHA-1; here it only tells damage from no damage.
    return hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)


def download(
    hub: Origin,
    file: Remote,
    commit: str,
    path: Path,
    *,
    seen: Callable[[int], None],
    pause: Callable[[float], None],
) -> None:
    """Leaves the whole, verified and synced file at `path`. Raises FetchFailed; OSError of the disk."""
    with Partial(path, file) as part:
        part.resume()
        # Of two failures one may be of the bytes that an earlier run left.
        chances = 3 if part.offset else 2
        patience = Patience(pause)
        seen(part.offset)
        while True:
            if part.offset == file.size:
                if part.verified():
                    part.sync()
                    return
                chances -= 1
                if not chances:
                    part.remove()
                    raise FetchFailed(
                        "DigestMismatch",
                        f"{file.name}: the bytes that arrived are not those of the listing: {file.digest} expected,"
                        f" {part.digest} received; they were removed",
                        300.0,
                    )
                part.restart()
                seen(0)
            before = part.offset
            try:
                _go_on(hub, part, commit, seen)
            except Transient as failure:
                patience.failed(failure, progressed=part.offset > before)


def _go_on(hub: Origin, part: Partial, commit: str, seen: Callable[[int], None]) -> None:
    size, name = part.file.size, part.file.name
    end = min(part.offset + PIECE_BYTES, size)
    span = None if part.offset == 0 and end == size else (part.offset, end)
    with hub.body(name, commit, span) as response:
        end = _begin(response, part, end)
        # Whole blocks would be lost when the connection breaks, so bytes are taken as they come.
        for chunk in response.iter_bytes():
            if part.offset + len(chunk) > end:
                part.restart()
                raise FetchFailed(
                    "WrongContent", f"{name}: the hub sends more than the {end} bytes that it announced", 300.0
                )
            part.write(chunk)
            seen(part.offset)
    if part.offset < end:
        raise Transient("HubUnreachable", f"{name}: the body ended after {part.offset} of {size} bytes", 15.0)


def _begin(response: Answer, part: Partial, end: int) -> int:
    """Where the body will end, once it is clear that it goes on where the file stops."""
    size, name = part.file.size, part.file.name
    if response.status_code == 200:
        length = response.headers.get("Content-Length", "")
        encoded = response.headers.get("Content-Encoding", "identity") != "identity"
        if length.isdigit() and not encoded and int(length) != size:
            kind = response.headers.get("Content-Type", "")[:60]
            raise FetchFailed(
                "WrongContent", f"{name}: the hub sends {length} bytes ({kind}) where its listing says {size}", 300.0
            )
        if part.offset:
            part.restart()
        return size
    found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
    good = response.status_code == 206 and found is not None and int(found[1]) == part.offset
    if not good or found is None or not part.offset <= int(found[2]) < end or found[3] not in ("*", str(size)):
        at = part.offset
        part.restart()
        raise Transient("RangeRefused", f"{name}: the hub does not go on at byte {at}", 15.0)
    return int(found[2]) + 1
