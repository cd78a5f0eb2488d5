"""Resident memory of containers, sampled: over its limit a container is killed, as by the kernel's OOM killer.

What counts is memory that the kernel cannot take back: anonymous and shared pages, not pages of mapped
files (weights), as a memory cgroup would reclaim those first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

EVERY_S = 0.1
_COUNTED = ("RssAnon:", "RssShmem:")


class Limited(NamedTuple):
    pid: int
    limit: int
    besides: Callable[[], int]
    """Bytes that count too: volumes in memory."""
    exceeded: Callable[[], None]


async def watch(limited: Callable[[], Iterable[Limited]]) -> None:
    """Until cancelled."""
    while True:
        await asyncio.sleep(EVERY_S)
        containers = list(limited())
        if not containers:
            continue
        children = tree(parents())
        for one in containers:
            if sum(resident(pid) for pid in below(one.pid, children)) + one.besides() > one.limit:
                one.exceeded()


def parents(proc: Path = Path("/proc")) -> dict[int, int]:
    """The parent of every process."""
    found = {}
    for entry in proc.iterdir():
        if entry.name.isdecimal():
            try:
                # The name of the program is in parentheses and may hold spaces.
                found[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError, ValueError):
                continue
    return found


def tree(parent_of: dict[int, int]) -> dict[int, list[int]]:
    children: dict[int, list[int]] = {}
    for pid, parent in parent_of.items():
        children.setdefault(parent, []).append(pid)
    return children


def below(pid: int, children: dict[int, list[int]]) -> Iterator[int]:
    """`pid` and every descendant."""
    yield pid
    for child in children.get(pid, ()):
        yield from below(child, children)


def resident(pid: int, proc: Path = Path("/proc")) -> int:
    """Bytes that count; 0 for a process that is gone."""
    try:
        lines = (proc / str(pid) / "status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(_COUNTED))
