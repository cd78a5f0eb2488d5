"""The copies of models below a model root: what is there, who uses it, and how it is freed.

`artifacts.layout` says where they lie. A copy is in use while somebody holds it (`hold`), which ends
with that process; a copy that is in use, or that is being fetched, is never removed.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

from flexinfer.artifacts import layout
from flexinfer.errors import ArtifactError, FlexInferError
from flexinfer.storage import durable
from flexinfer.storage.locks import FileLock

_TRASH = ".trash"
_MAX_RECORD_BYTES = 16 << 20
_Record = TypeVar("_Record")


class CopyInUse(FlexInferError):
    """A copy cannot be freed: an engine of some process reads it, or it is being fetched."""


class FileRecord(msgspec.Struct, kw_only=True, rename="camel"):
    name: str
    size: int
    digest: str
    """`sha256:<hex>`, or `git:<hex>` for the id of a git blob."""
    mtime_ns: int = 0
    """Modification time when the digest was compared; 0: it has not been."""


class Manifest(msgspec.Struct, kw_only=True, rename="camel"):
    """`manifest.json`: in a finished copy every file has been verified."""

    key: str
    source: str
    revision: str
    commit: str
    files: list[FileRecord]
    verified_at: str = ""
    """Time of the last check, RFC 3339; empty while something is missing."""

    @property
    def size_bytes(self) -> int:
        return sum(file.size for file in self.files)


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What a Model's words led to: the copy, and which of its files the Model means."""

    key: str
    main: str = ""
    mmproj: str = ""


class Ready(NamedTuple):
    """A verified copy as an engine is given it."""

    key: str
    folder: Path
    main: Path | None
    """The GGUF to open; None for a checkpoint, which is the folder."""
    mmproj: Path | None
    size_bytes: int
    commit: str


class Copy(msgspec.Struct, frozen=True, kw_only=True):
    key: str
    source: str
    revision: str
    commit: str
    files: tuple[str, ...]
    size_bytes: int
    """Of all its files, once it is whole."""
    stored_bytes: int
    """What it takes on the disk."""
    complete: bool
    in_use: bool
    last_used_s: float
    """Seconds since the epoch; of its last change when it was never used."""
    path: str


class Hold:
    """Keeps a copy from being freed until `release`, or the end of the process."""

    def __init__(self, lock: FileLock) -> None:
        self._lock = lock

    def release(self) -> None:
        if self._lock.held:
            _touch(self._lock.path)
            self._lock.release()


def fetch_lock(root: Path, key: str) -> FileLock:
    """Held by the one process that fetches, repairs or removes this copy."""
    return FileLock(_locks(root) / f"{key}.fetch")


def hold(root: Path, key: str) -> Hold | None:
    """None while somebody removes the copy. Look it up again afterwards: it may have gone just before."""
    lock = FileLock(_locks(root) / f"{key}.use", shared=True)
    # Whoever lists the copies has the lock for a moment.
    tries = 20
    while not lock.acquire():
        tries -= 1
        if not tries:
            return None
        threading.Event().wait(0.01)
    _touch(lock.path)
    return Hold(lock)


def lookup(root: Path, request: str) -> Ready | None:
    """The verified copy for a request (`layout.request_key`), found without a hub and without reading its bytes."""
    found = read_request(root, request)
    manifest = read_manifest(Path(layout.folder(str(root), found.key))) if found else None
    if found is None or manifest is None:
        return None
    folder = Path(layout.folder(str(root), found.key)) / layout.FILES
    if not all(intact(folder, file) for file in manifest.files):
        return None
    names = {file.name for file in manifest.files}
    if (found.main or found.mmproj) and not {name for name in (found.main, found.mmproj) if name} <= names:
        return None
    return Ready(
        key=found.key,
        folder=folder,
        main=folder / found.main if found.main else None,
        mmproj=folder / found.mmproj if found.mmproj else None,
        size_bytes=manifest.size_bytes,
        commit=manifest.commit,
    )


def intact(folder: Path, file: FileRecord) -> bool:
    """The file has been verified and has not been touched since."""
    try:
        found = (folder / file.name).lstat()
    except OSError:
        return False
    return bool(file.mtime_ns) and (found.st_size, found.st_mtime_ns) == (file.size, file.mtime_ns)


def read_request(root: Path, request: str) -> Request | None:
    return _read(Path(layout.request_path(str(root), request)), Request)


def read_manifest(folder: Path) -> Manifest | None:
    """None where there is none, or one that cannot be read."""
    return _read(folder / layout.MANIFEST, Manifest)


def copies(root: Path) -> tuple[Copy, ...]:
    """All copies, whole ones and partial ones, by source and key. Raises ArtifactError when the root cannot be read."""
    try:
        with os.scandir(root / layout.FOLDER) as entries:
            names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise ArtifactError(f"{root / layout.FOLDER}: {error.strerror}") from error
    found = [_copy(root, name) for name in names if _is_key(name.removesuffix(layout.PART_SUFFIX))]
    return tuple(sorted(found, key=lambda copy: (copy.source, copy.key, not copy.complete)))


def remove(root: Path, key: str) -> int:
    """Frees a copy, whole or partial; the bytes that were freed. Raises CopyInUse, ArtifactError for an unknown key."""
    if not _is_key(key):
        raise ArtifactError(f"{key!r} is no key of a copy")
    folder, part = Path(layout.folder(str(root), key)), Path(layout.partial_folder(str(root), key))
    with fetch_lock(root, key) as fetching, FileLock(_locks(root) / f"{key}.use") as using:
        if not fetching.acquire():
            raise CopyInUse(f"copy {key} is being fetched")
        if not using.acquire():
            raise CopyInUse(f"copy {key} is in use")
        if not folder.exists() and not part.exists():
            raise ArtifactError(f"there is no copy {key} below {root}")
        freed = sum(_discard(path) for path in (folder, part) if path.exists())
    _forget(root)
    return freed


def gc(root: Path, keep: Collection[str] = ()) -> tuple[Copy, ...]:
    """Frees what nobody uses and `keep` does not name; what was freed."""
    freed = []
    for copy in copies(root):
        if copy.key in keep:
            continue
        try:
            remove(root, copy.key)
        except CopyInUse:
            continue
        except ArtifactError:
            pass  # its other half was freed with it
        freed.append(copy)
    for trash in (root / layout.FOLDER).glob(f"*{_TRASH}"):
        shutil.rmtree(trash, ignore_errors=True)
    return tuple(freed)


def _copy(root: Path, name: str) -> Copy:
    path = root / layout.FOLDER / name
    key = name.removesuffix(layout.PART_SUFFIX)
    manifest = read_manifest(path)
    use = _locks(root) / f"{key}.use"
    files = tuple(file.name for file in manifest.files) if manifest else ()
    return Copy(
        key=key,
        source=manifest.source if manifest else "",
        revision=manifest.revision if manifest else "",
        commit=manifest.commit if manifest else "",
        files=files,
        size_bytes=manifest.size_bytes if manifest else 0,
        stored_bytes=_size(path),
        complete=name == key and manifest is not None,
        in_use=_locked(use) or _locked(_locks(root) / f"{key}.fetch"),
        last_used_s=max(_changed_s(use), _changed_s(path / layout.MANIFEST)) or _changed_s(path),
        path=str(path / layout.FILES),
    )


def _locked(path: Path) -> bool:
    if not path.exists():
        return False
    with FileLock(path) as lock:
        try:
            return not lock.acquire()
        except OSError:
            return False  # another user's; what it holds shows when somebody removes the copy


def _discard(path: Path) -> int:
    """Out of sight in one step, then gone: whoever is killed in between leaves trash, not half a copy."""
    size = _size(path)
    trash = path.with_name(f"{path.name}{_TRASH}")
    shutil.rmtree(trash, ignore_errors=True)
    durable.rename(path, trash)
    shutil.rmtree(trash, ignore_errors=True)
    return size


def _forget(root: Path) -> None:
    """Requests whose copy has gone."""
    for path in (root / layout.FOLDER / "requests").glob("*.json"):
        found = _read(path, Request)
        standing = (layout.folder, layout.partial_folder)
        if found is None or not any(Path(place(str(root), found.key)).exists() for place in standing):
            path.unlink(missing_ok=True)
            path.with_suffix("").unlink(missing_ok=True)


def _read(path: Path, kind: type[_Record]) -> _Record | None:
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.read(_MAX_RECORD_BYTES), type=kind)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _is_key(name: str) -> bool:
    return len(name) == 32 and all(char in "0123456789abcdef" for char in name)


def _locks(root: Path) -> Path:
    return root / layout.FOLDER / "locks"


def _size(path: Path) -> int:
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                total += (Path(folder) / name).lstat().st_size
            except OSError:
                continue
    return total


def _changed_s(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _touch(path: Path) -> None:
    try:
        os.utime(path)
    except OSError:
        pass  # another user's file: its time is only shown
