"""Cores, memory and instruction sets that this process may use: affinity and cgroup limits count."""

from __future__ import annotations

from pathlib import Path

import msgspec

from flexinfer.hardware import files

MIB = 2**20


class CPU(msgspec.Struct, frozen=True, kw_only=True):
    cores: int
    memory_mib: int
    flags: tuple[str, ...]


def read(root: Path) -> CPU:
    quota, memory_limit = _cgroup(root)
    allowed = _allowed_cores(root)
    cores = min(allowed, int(quota)) if quota is not None else allowed
    total = _meminfo_bytes(root)
    memory = min(total, memory_limit) if memory_limit is not None and total else total
    return CPU(cores=max(cores, 1), memory_mib=memory // MIB, flags=_flags(root))


def _allowed_cores(root: Path) -> int:
    """How many cores the scheduler may put this process on."""
    for line in files.text(root / "proc/self/status").splitlines():
        name, _, value = line.partition(":")
        if name == "Cpus_allowed_list":
            return max(_count(value.strip()), 1)
    return max(files.text(root / "proc/cpuinfo").count("\nprocessor") + 1, 1)


def _count(ranges: str) -> int:
    """`0-3,8` is 5 cores."""
    total = 0
    for part in ranges.split(","):
        first, _, last = part.partition("-")
        low, high = files.number(first), files.number(last or first)
        if low is not None and high is not None and high >= low:
            total += high - low + 1
    return total


def _meminfo_bytes(root: Path) -> int:
    for line in files.text(root / "proc/meminfo").splitlines():
        name, _, value = line.partition(":")
        if name == "MemTotal":
            return (files.number(value.removesuffix("kB").strip()) or 0) * 1024
    return 0


def _flags(root: Path) -> tuple[str, ...]:
    for line in files.text(root / "proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return tuple(sorted(set(value.split())))
    return ()


def _cgroup(root: Path) -> tuple[float | None, int | None]:
    """The tightest CPU quota (cores) and memory limit (bytes) of this process's groups; None: no limit."""
    quotas: list[float] = []
    limits: list[int] = []
    for line in files.text(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        parts = [part for part in path.split("/") if part and part != ".."]
        if number == "0" and not controllers:
            base = root / "sys/fs/cgroup"
            for depth in range(len(parts) + 1):
                folder = base.joinpath(*parts[:depth])
                quotas += _quota_v2(files.text(folder / "cpu.max"))
                limits += _limit(files.text(folder / "memory.max"))
        elif "cpu" in controllers.split(","):
            for depth in range(len(parts) + 1):
                quotas += _quota_v1((root / "sys/fs/cgroup/cpu").joinpath(*parts[:depth]))
        elif "memory" in controllers.split(","):
            for depth in range(len(parts) + 1):
                folder = (root / "sys/fs/cgroup/memory").joinpath(*parts[:depth])
                limits += _limit(files.text(folder / "memory.limit_in_bytes"))
    return min(quotas, default=None), min(limits, default=None)


def _quota_v2(line: str) -> list[float]:
    """`150000 100000` is 1.5 cores, `max 100000` no limit."""
    quota, _, period = line.partition(" ")
    allowed, of = files.number(quota), files.number(period.strip())
    return [allowed / of] if allowed and of else []


def _quota_v1(folder: Path) -> list[float]:
    quota, period = files.integer(folder / "cpu.cfs_quota_us", -1), files.integer(folder / "cpu.cfs_period_us")
    return [quota / period] if quota > 0 and period > 0 else []


def _limit(line: str) -> list[int]:
    # cgroup v1 writes "no limit" as the largest page-aligned number.
    limit = files.number(line) or 0
    return [limit] if 0 < limit < 2**60 else []
