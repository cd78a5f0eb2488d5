"""Read small files of /proc and /sys below a root folder; what is not there reads as nothing."""

from __future__ import annotations

from pathlib import Path

_MOST_BYTES = 1 << 20


def text(path: Path) -> str:
    """Contents of a small file, stripped; empty where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(_MOST_BYTES).decode("utf-8", "replace").strip()
    except OSError:
        return ""


def integer(path: Path, default: int = 0) -> int:
    """A whole number, decimal or 0x; `default` where there is none."""
    try:
        return int(text(path), 0)
    except ValueError:
        return default


def number(word: str) -> int | None:
    """A whole number of ASCII digits, of at most 19; None for anything else."""
    return int(word) if word.isascii() and word.isdigit() and len(word) < 20 else None


def folders(path: Path, pattern: str) -> list[Path]:
    """Entries that match, in the order of their numbers (`card2` before `card10`)."""
    return sorted(path.glob(pattern), key=lambda found: (len(found.name), found.name))
