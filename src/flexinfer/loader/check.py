"""A model that somebody else put in a place: whether it is there, and what of it an engine would open. Nothing is
written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from flexinfer.artifacts import files
from flexinfer.errors import ArtifactError
from flexinfer.loader import failures
from flexinfer.loader.failures import FetchFailed
from flexinfer.storage import weights

MOST_FILES = 100_000
LOOK_AGAIN_S = 30.0
"""Somebody may be filling the place just now."""


class Found(NamedTuple):
    file: str
    """The GGUF below the place; empty when the place itself is what an engine opens."""
    bytes: int


def check(path: Path, choice: files.Choice) -> Found:
    """Raises FetchFailed with reason NotThere, Empty, ArtifactInvalid, FilesNotChosen or that of the storage."""
    try:
        if not path.exists():
            raise FetchFailed("NotThere", f"{path} does not exist on the claim", LOOK_AGAIN_S)
        if path.is_file():
            return Found("", _size(path, choice))
        listing = _listing(path)
    except OSError as error:
        raise failures.of_storage(error, path) from error
    if not listing:
        raise FetchFailed("Empty", f"{path} is empty", LOOK_AGAIN_S)
    if choice.reads != "gguf":
        return Found("", sum(listing.values()))
    try:
        chosen = files.choose(listing, choice)
    except ArtifactError as error:
        raise FetchFailed("FilesNotChosen", f"{path}: {error}", LOOK_AGAIN_S) from error
    return Found(chosen.main, _size(path / chosen.main, choice))


def _size(path: Path, choice: files.Choice) -> int:
    if choice.reads != "gguf":
        return path.stat().st_size
    try:
        return weights.inspect(path).file_bytes
    except ArtifactError as error:
        raise FetchFailed("ArtifactInvalid", str(error), LOOK_AGAIN_S) from error


def _listing(path: Path) -> dict[str, int]:
    found: dict[str, int] = {}
    for folder, _, names in os.walk(path):
        for name in names:
            place = Path(folder) / name
            if place.is_file():
                found[str(place.relative_to(path))] = place.stat().st_size
            if len(found) > MOST_FILES:
                raise FetchFailed("FilesNotChosen", f"{path} has over {MOST_FILES} files")
    return found
