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


def command_line(pid: int) -> list[str]:
    """The words that it was started with; none once it is gone."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return []
    return words.decode(errors="replace").rstrip("\0").split("\0")


def loaders(pid: int) -> list[int]:
    """The downloads below an `up`."""
    return [child for child in tree(pid) if "loader" in command_line(child)]


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
