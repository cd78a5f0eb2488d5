"""Log files of containers: `<restart>.log` in a folder of the container; the newest few are kept."""

from __future__ import annotations

from pathlib import Path

_KEPT = 5
# The programs between us and the container's own; what they say is no word of the container.
_HELPERS = ("bwrap: ", "setpriv: ", "nsenter: ")


def files(folder: Path) -> list[Path]:
    """Oldest first."""
    return sorted(folder.glob("*.log"), key=lambda file: int(file.stem)) if folder.is_dir() else []


def next_file(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    there = files(folder)
    for old in there[: 1 - _KEPT]:
        old.unlink()
    fresh = folder / f"{int(there[-1].stem) + 1 if there else 0}.log"
    fresh.touch()
    return fresh


def end_of(file: Path, size: int) -> bytes:
    with file.open("rb") as source:
        source.seek(max(0, file.stat().st_size - size))
        return source.read(size)


def tail(data: bytes, lines: int) -> bytes:
    if lines == 0:
        return b""
    position = len(data) - 1 if data.endswith(b"\n") else len(data)
    for _ in range(lines):
        position = data.rfind(b"\n", 0, position)
        if position < 0:
            return data
    return data[position + 1 :]


def refused_by_sandbox(file: Path) -> str:
    """Why the container's program could not be run; empty when it was."""
    words = end_of(file, 1024).decode(errors="replace").strip().splitlines()
    return words[-1] if words and words[-1].startswith(_HELPERS) else ""
