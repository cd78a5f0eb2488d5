"""Files and folders that are either old or new after a crash, never a mix: write beside, fsync, rename."""

from __future__ import annotations

import os
from pathlib import Path


def write(path: Path, content: bytes) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def link(path: Path, target: str) -> None:
    """A symbolic link, or the old one with a new target."""
    try:
        if str(path.readlink()) == target:
            return
    except OSError:
        pass  # there is none yet
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    beside.unlink(missing_ok=True)
    beside.symlink_to(target)
    beside.replace(path)
    sync_folder(path.parent)


def rename(old: Path, new: Path) -> None:
    """Raises OSError when `new` is there and is not an empty folder."""
    old.rename(new)
    sync_folder(new.parent)
    if new.parent != old.parent:
        sync_folder(old.parent)


def sync_folder(folder: Path) -> None:
    """What was created, renamed or removed in the folder outlives a power cut."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
