"""`flexinfer up` with 200 models that nobody calls: start, memory, and what it does at rest."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from benchmarks import local_up, machine
from benchmarks.table import Table

MODELS = 200


def main(seconds: float = 10.0) -> Table:
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        names = [f"idle-{number:03}" for number in range(MODELS)]
        with local_up.up(Path(name), names, idle_timeout="5m") as up:
            time.sleep(3)  # what follows a start is not rest
            tree = machine.process_tree(up.pid)
            memory = {pid: machine.pss_mib(pid) for pid in tree}
            cpu, woken = machine.cpu_ns(tree), machine.wakeups(tree)
            time.sleep(seconds)
            cpu_ms = (machine.cpu_ns(tree) - cpu) / 1e6 / seconds
            woken_per_s = (machine.wakeups(tree) - woken) / seconds
    others = sum(value for pid, value in memory.items() if pid != up.pid)
    return Table(
        title=f"`flexinfer up` with {MODELS} idle models",
        command="python -m benchmarks idle_models",
        columns=("figure", "value", "aim"),
        rows=[
            ("start, until all models are listed", f"{up.start_s:.2f} s", ""),
            ("PSS of `up`", f"{memory[up.pid]:.1f} MiB", ""),
            (f"PSS of the keeper ({len(tree) - 1} process)", f"{others:.1f} MiB", ""),
            ("PSS of both", f"{memory[up.pid] + others:.1f} MiB", "≤ 100 MB"),
            ("CPU at rest", f"{cpu_ms:.2f} ms/s", "none"),
            ("wake-ups at rest", f"{woken_per_s:.1f} /s", "none"),
        ],
        notes=[f"At rest: {seconds:.0f} s without a request, all threads of `up` and keeper."],
    )
