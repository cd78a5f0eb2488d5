"""The memory mark: above it new requests are refused, before the kernel kills somebody.

Three limits may come first: the process's own address space, its cgroup, and the machine. What the
kernel can take back (page cache: the weights of models are mapped files) is not used memory. It is read
once a second, for each few megabytes of bodies that come in between, and before a large one is copied.
"""

from __future__ import annotations

import resource
from pathlib import Path
from typing import NamedTuple

import msgspec

MARK = 0.95
MACHINE_FLOOR_BYTES = 64 * 1024 * 1024
MIB = 1024 * 1024


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes; None: no such limit, or not to be read."""

    address_space: int | None = None
    address_space_limit: int | None = None
    cgroup: int | None = None
    """Without inactive page cache."""
    cgroup_limit: int | None = None
    machine_available: int | None = None


def overload(reading: Reading, ahead: int = 0, mark: float = MARK) -> str | None:
    """Why no new request may be taken; None: there is room, for `ahead` bytes more as well."""
    for used, limit, whose in (
        (reading.address_space, reading.address_space_limit, "this process"),
        (reading.cgroup, reading.cgroup_limit, "the control group"),
    ):
        if used is not None and limit is not None and used + ahead >= mark * limit:
            return f"{whose} uses {used // MIB} of {limit // MIB} MiB of memory"
    available = reading.machine_available
    if available is not None and available - ahead < MACHINE_FLOOR_BYTES:
        return f"the machine has {available // MIB} MiB of memory left"
    return None


class Gauge:
    """Reads this process's memory and the limits around it."""

    def __init__(self, root: Path = Path("/")) -> None:
        soft = resource.getrlimit(resource.RLIMIT_AS)[0]
        self._address_space_limit = soft if soft != resource.RLIM_INFINITY else None
        self._statm = root / "proc/self/statm"
        self._meminfo = root / "proc/meminfo"
        self._cgroup = _cgroup_of(root)

    def read(self) -> Reading:
        used, limit = _cgroup_use(*self._cgroup) if self._cgroup is not None else (None, None)
        return Reading(
            address_space=_address_space(self._statm) if self._address_space_limit is not None else None,
            address_space_limit=self._address_space_limit,
            cgroup=used,
            cgroup_limit=limit,
            machine_available=_available(self._meminfo),
        )

    def overload(self, ahead: int = 0) -> str | None:
        return overload(self.read(), ahead)


def _text(path: Path) -> str:
    try:
        return path.read_text("ascii")
    except (OSError, UnicodeDecodeError):
        return ""


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() else None


def _address_space(statm: Path) -> int | None:
    pages = _number((_text(statm).split() or [""])[0])
    return pages * resource.getpagesize() if pages is not None else None


def _available(meminfo: Path) -> int | None:
    for line in _text(meminfo).splitlines():
        if line.startswith("MemAvailable:"):
            kib = _number(line.split()[1])
            return kib * 1024 if kib is not None else None
    return None


class _Files(NamedTuple):
    """Where a cgroup tells its memory, by version."""

    limit: str
    used: str
    idle: str


_V2 = _Files("memory.max", "memory.current", "inactive_file")
_V1 = _Files("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_NO_LIMIT = 2**60
"""Version 1 writes a number where there is none."""


def _cgroup_of(root: Path) -> tuple[Path, _Files] | None:
    """The nearest cgroup of this process with a memory limit of its own."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, controllers, place = [*line.split(":", 2), "", ""][:3]
        if number == "0" and not controllers:
            top, files = root / "sys/fs/cgroup", _V2
        elif "memory" in controllers.split(","):
            top, files = root / "sys/fs/cgroup/memory", _V1
        else:
            continue
        folder = top / place.lstrip("/")
        for candidate in (folder, *folder.parents):
            if not candidate.is_relative_to(top):
                break
            limit = _number(_text(candidate / files.limit).strip())
            if limit is not None and limit < _NO_LIMIT:
                return candidate, files
    return None


def _cgroup_use(folder: Path, files: _Files) -> tuple[int | None, int | None]:
    used = _number(_text(folder / files.used).strip())
    limit = _number(_text(folder / files.limit).strip())
    for line in _text(folder / "memory.stat").splitlines():
        name, _, value = line.partition(" ")
        idle = _number(value)
        if name == files.idle and used is not None and idle is not None:
            used = max(0, used - idle)
    return used, limit
