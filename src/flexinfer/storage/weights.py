"""Open a GGUF file of this machine and say what it is, or why it will not load."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import BinaryIO

from flexinfer.artifacts import files, gguf
from flexinfer.artifacts.gguf import GGUFFacts
from flexinfer.errors import ArtifactError


def inspect(path: str | Path) -> GGUFFacts:
    """The header of a GGUF; of all parts, when `path` is one part of a split model.

    Raises ArtifactError (NotGGUF, BrokenGGUF, TruncatedGGUF) with the path and what is wrong.
    """
    whole = Path(path)
    found = [_inspect_one(whole.parent / name) for name in files.parts(whole.name)]
    return gguf.joined(tuple(found)) if len(found) > 1 else found[0]


def _inspect_one(path: Path) -> GGUFFacts:
    try:
        found = path.stat()
        if stat.S_ISDIR(found.st_mode):
            raise ArtifactError(f"is a folder, expected a GGUF file{_inside(path)}")
        # A pipe or a device would block, or never end.
        if not stat.S_ISREG(found.st_mode):
            raise ArtifactError("is not a regular file")
        with path.open("rb") as file:
            return gguf.read(reader(file), found.st_size)
    except FileNotFoundError:
        raise ArtifactError(f"{path}: no such file") from None
    except OSError as error:
        raise ArtifactError(f"{path}: {error.strerror or error}") from error
    except ArtifactError as error:
        raise type(error)(f"{path}: {error}") from error


def reader(file: BinaryIO) -> gguf.Read:
    """The file as the readers of headers take it: (offset, count) to bytes, fewer at its end."""

    def read(offset: int, count: int) -> bytes:
        file.seek(offset)
        return file.read(count)

    return read


def _inside(folder: Path) -> str:
    try:
        names = sorted(child.name for child in folder.glob("*.gguf"))[:3]
    except OSError:
        return ""
    return f" such as {', '.join(names)} in it" if names else ""
