"""The folder of a copy -> the same folder in a faster place, all of it or nothing.

Times are kept: a copy that was verified counts as verified there too.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flexinfer.artifacts import layout
from flexinfer.loader import failures
from flexinfer.loader.failures import FetchFailed
from flexinfer.storage import copies

Tell = Callable[[dict[str, Any]], None]


def stage(source: Path, target: Path, tell: Tell) -> int:
    """Bytes of the model that are in `target` afterwards. Raises FetchFailed."""
    manifest = copies.read_manifest(source)
    if manifest is None or not all(_has(source, file) for file in manifest.files):
        raise FetchFailed("CopyDamaged", f"{source} is no whole copy of a model", 30.0)
    total = manifest.size_bytes
    try:
        there = copies.read_manifest(target)
        if there is not None and all(copies.intact(target / layout.FILES, file) for file in there.files):
            return total
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(target.parent).free
        if total > free:
            raise FetchFailed("DiskFull", f"{target.parent} has {free} bytes free, the model has {total}", 15.0)
        _bring(source, target, manifest, tell)
    except OSError as error:
        raise failures.of_storage(error, target) from error
    return total


def _has(source: Path, file: copies.FileRecord) -> bool:
    try:
        return (source / layout.FILES / file.name).stat().st_size == file.size
    except OSError:
        return False


def _bring(source: Path, target: Path, manifest: copies.Manifest, tell: Tell) -> None:
    part = target.with_name(f"{target.name}{layout.PART_SUFFIX}")
    shutil.rmtree(part, ignore_errors=True)
    done = 0
    for file in manifest.files:
        place = part / layout.FILES / file.name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / layout.FILES / file.name, place)
        shutil.copystat(source / layout.FILES / file.name, place)
        done += file.size
        tell({"event": "progress", "done": done, "total": manifest.size_bytes})
    shutil.copyfile(source / layout.MANIFEST, part / layout.MANIFEST)
    part.rename(target)
