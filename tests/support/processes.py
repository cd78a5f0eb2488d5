"""Looking at and cleaning up real processes in tests of local mode."""

from __future__ import annotations

import contextlib
from pathlib import Path

from flexinfer.local import keeper

BAD_ENGINE = Path(__file__).with_name("bad_engine.py")
UP_LIKE = Path(__file__).with_name("up_like.py")


def live(pids: list[int]) -> list[int]:
    """Those that still run; a zombie does not."""
    return [pid for pid in pids if (stat := keeper.read_stat(pid)) is not None and stat[1] not in "ZX"]


def parent(pid: int) -> int:
    stat = keeper.read_stat(pid)
    assert stat is not None
    return stat[0]


def tree(pid: int) -> list[int]:
    return [child for child, _ in keeper.descendants(pid)]


def with_words(words: str) -> list[int]:
    """Processes of this machine (or of this namespace of processes) that have these words in their command line."""
    wanted = words.encode()
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if wanted in file.read_bytes().replace(b"\0", b" "):
                found.append(int(file.parent.name))
    return live(found)


def pss_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    raise AssertionError("no Pss")
