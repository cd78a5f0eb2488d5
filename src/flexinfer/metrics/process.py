"""What every long-running process shows of itself: which build it is, and what it takes of its machine."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

from flexinfer import __version__
from flexinfer.metrics.family import Family, Series

BUILD_INFO = Family(
    name="flexinfer_build_info", type="gauge", labels=("component", "version"),
    help="1; which build of which component this is.",
)  # fmt: skip
CPU_SECONDS = Family(
    name="process_cpu_seconds_total", type="counter", help="CPU time of this process, user and system.",
)  # fmt: skip
RESIDENT_BYTES = Family(
    name="process_resident_memory_bytes", type="gauge", help="Memory of this process that is in RAM.",
)  # fmt: skip
OPEN_FDS = Family(
    name="process_open_fds", type="gauge", help="File descriptors that this process has open.",
)  # fmt: skip

FAMILIES: tuple[Family, ...] = (BUILD_INFO, CPU_SECONDS, RESIDENT_BYTES, OPEN_FDS)

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class ProcessMetrics:
    """Register it with a Registry. Where there is no /proc, what it would tell is left out."""

    def __init__(self, component: str, proc: Path = Path("/proc/self")) -> None:
        self._component = component
        self._proc = proc

    def collect(self) -> Iterator[Series]:
        yield BUILD_INFO, [((self._component, __version__), 1)]
        used = resource.getrusage(resource.RUSAGE_SELF)
        yield CPU_SECONDS, [((), used.ru_utime + used.ru_stime)]
        try:
            pages = int((self._proc / "statm").read_text().split()[1])
            open_fds = sum(1 for _ in (self._proc / "fd").iterdir())
        except OSError:
            return
        yield RESIDENT_BYTES, [((), pages * _PAGE_BYTES)]
        yield OPEN_FDS, [((), open_fds)]
