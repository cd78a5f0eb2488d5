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


def temperature(device: Path) -> float | None:
    """The hottest sensor of a device's hwmon, °C; None where it has none."""
    found = [integer(entry, -(10**6)) for entry in device.glob("hwmon/hwmon*/temp[0-9]*_input")]
    known = [value / 1000 for value in found if -50_000 <= value <= 200_000]
    return max(known, default=None)


def pci_address(device: Path) -> str:
    """The address that the kernel states in a device's uevent; empty where it states none."""
    for line in text(device / "uevent").splitlines():
        name, _, value = line.partition("=")
        if name == "PCI_SLOT_NAME":
            return value.strip()[:16]
    return ""


def numa(device: Path) -> int | None:
    """The NUMA node; None on machines that have one only."""
    node = integer(device / "numa_node", -1)
    return node if node >= 0 else None
