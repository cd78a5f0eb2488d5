"""Cores, memory and instruction sets that this process may use: affinity and cgroup limits count."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from flexinfer.hardware import files
from flexinfer.placement.nodefacts import NumaNode

MIB = 2**20
FEATURES = ("avx2", "avx512", "amx")
"""What engines look for, as the beginning of the kernel's names."""


class CPU(msgspec.Struct, frozen=True, kw_only=True):
    cores: int
    memory_mib: int
    memory_free_mib: int | None = None
    """What programs could still get; the page cache counts as free."""
    name: str = ""
    flags: tuple[str, ...] = ()
    numa_nodes: tuple[NumaNode, ...] = ()


def read(root: Path) -> CPU:
    quota, limits = _cgroup(root)
    allowed = _allowed_cores(root)
    cores = min(allowed, int(quota)) if quota is not None else allowed
    total, available = _meminfo_bytes(root)
    memory = min([total, *(limit for limit, _ in limits)]) if total else total
    free = [max(limit - used, 0) for limit, used in limits if used is not None and limit < total]
    free += [available] if available is not None else []
    return CPU(
        cores=max(cores, 1),
        memory_mib=memory // MIB,
        memory_free_mib=min(free) // MIB if free and total else None,
        name=_field(root, "model name"),
        flags=_flags(root),
        numa_nodes=_numa(root),
    )


def features(flags: Sequence[str]) -> tuple[str, ...]:
    """Of a processor's flags those that matter to engines: `avx2`, `avx512*`, `amx*`."""
    return tuple(sorted(flag for flag in flags if flag == "avx2" or flag.startswith(FEATURES[1:])))


def _numa(root: Path) -> tuple[NumaNode, ...]:
    nodes = []
    for folder in files.folders(root / "sys/devices/system/node", "node*"):
        index = files.number(folder.name.removeprefix("node"))
        if index is None:
            continue
        total = 0
        for line in files.text(folder / "meminfo").splitlines():
            name, _, value = line.partition(":")
            if name.endswith(" MemTotal"):
                total = (files.number(value.strip().removesuffix("kB").strip()) or 0) * 1024
        nodes.append(NumaNode(index=index, cpus=files.text(folder / "cpulist")[:200], memory_mib=total // MIB))
    return tuple(nodes)


def _field(root: Path, wanted: str) -> str:
    for line in files.text(root / "proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == wanted:
            return value.strip()[:120]
    return ""


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


def _meminfo_bytes(root: Path) -> tuple[int, int | None]:
    """All memory, and what is available of it."""
    found: dict[str, int] = {}
    for line in files.text(root / "proc/meminfo").splitlines():
        name, _, value = line.partition(":")
        kilobytes = files.number(value.strip().removesuffix("kB").strip())
        if kilobytes is not None:
            found[name] = kilobytes * 1024
    return found.get("MemTotal", 0), found.get("MemAvailable")


def _flags(root: Path) -> tuple[str, ...]:
    for line in files.text(root / "proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return tuple(sorted(set(value.split())))
    return ()


def _cgroup(root: Path) -> tuple[float | None, list[tuple[int, int | None]]]:
    """The tightest CPU quota of this process's groups in cores, and each memory limit with what is used of it."""
    quotas: list[float] = []
    limits: list[tuple[int, int | None]] = []
    for line in files.text(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        parts = [part for part in path.split("/") if part and part != ".."]
        if number == "0" and not controllers:
            base = root / "sys/fs/cgroup"
            for depth in range(len(parts) + 1):
                folder = base.joinpath(*parts[:depth])
                quotas += _quota_v2(files.text(folder / "cpu.max"))
                limits += _limit(folder, "memory.max", "memory.current", "inactive_file")
        elif "cpu" in controllers.split(","):
            for depth in range(len(parts) + 1):
                quotas += _quota_v1((root / "sys/fs/cgroup/cpu").joinpath(*parts[:depth]))
        elif "memory" in controllers.split(","):
            for depth in range(len(parts) + 1):
                folder = (root / "sys/fs/cgroup/memory").joinpath(*parts[:depth])
                limits += _limit(folder, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    return min(quotas, default=None), limits


def _quota_v2(line: str) -> list[float]:
    """`150000 100000` is 1.5 cores, `max 100000` no limit."""
    quota, _, period = line.partition(" ")
    allowed, of = files.number(quota), files.number(period.strip())
    return [allowed / of] if allowed and of else []


def _quota_v1(folder: Path) -> list[float]:
    quota, period = files.integer(folder / "cpu.cfs_quota_us", -1), files.integer(folder / "cpu.cfs_period_us")
    return [quota / period] if quota > 0 and period > 0 else []


def _limit(folder: Path, limit_file: str, used_file: str, cache: str) -> list[tuple[int, int | None]]:
    """The limit of a group and what is used of it, without file pages that can be dropped."""
    # cgroup v1 writes "no limit" as the largest page-aligned number.
    limit = files.number(files.text(folder / limit_file)) or 0
    if not 0 < limit < 2**60:
        return []
    used = files.number(files.text(folder / used_file))
    if used is None:
        return [(limit, None)]
    droppable = 0
    for line in files.text(folder / "memory.stat").splitlines():
        name, _, value = line.partition(" ")
        if name == cache:
            droppable = files.number(value) or 0
    return [(limit, max(used - droppable, 0))]
