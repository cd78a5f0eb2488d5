"""The control plane of the cluster tests: start until healthy, memory, and what is written at rest."""

from __future__ import annotations

import subprocess
import time
from collections import Counter
from pathlib import Path

from tests.support.cluster import audit
from tests.support.cluster.controlplane import ControlPlane, Settings

from benchmarks import machine
from benchmarks.table import Table, median

STARTS = 3
_BUILD = Path(__file__).parent.parent / "hack" / "cluster-tools.sh"


def main(seconds: float = 60.0) -> Table:
    tools = Path(subprocess.check_output([_BUILD], text=True).splitlines()[-1])
    settings = Settings(address="127.0.0.1")
    starts = []
    for _ in range(STARTS - 1):
        with ControlPlane(tools, settings) as plane:
            starts.append(plane.started_in_s)
    with ControlPlane(tools, settings) as plane:
        starts.append(plane.started_in_s)
        time.sleep(10)  # what follows a start is not rest
        pids = [process.pid for process in plane.processes.values()]
        memory = sum(map(machine.pss_mib, pids))
        before, cpu = len(audit.read(plane.places.audit_log)), machine.cpu_ns(pids)
        time.sleep(seconds)
        cpu_ms = (machine.cpu_ns(pids) - cpu) / 1e6 / seconds
        calls = audit.read(plane.places.audit_log)[before:]
    writes = Counter(f"{call.resource} by {call.user}" for call in calls if call.is_write)
    minutes = seconds / 60
    by_whom = "; ".join(f"{count / minutes:.0f} {what}" for what, count in writes.most_common()) or "none"
    return Table(
        title="Control plane of the cluster tests, with nothing in it",
        command="python -m benchmarks cluster_start",
        columns=("figure", "value", "aim"),
        rows=[
            (f"start, until it is healthy (median of {STARTS})", f"{median(starts):.1f} s", "3 to 5 s"),
            ("PSS of all four parts", f"{memory:.0f} MiB", ""),
            ("CPU at rest", f"{cpu_ms:.0f} ms/s", ""),
            ("writes at rest", f"{sum(writes.values()) / minutes:.0f} /min", ""),
            ("of these, besides leases", f"{besides_leases(calls) / minutes:.0f} /min", "0"),
        ],
        notes=[f"At rest: {seconds:.0f} s, by the audit log. Writes per minute: {by_whom}."],
    )


def besides_leases(calls: list[audit.Entry]) -> int:
    return sum(call.is_write and call.resource != "leases" for call in calls)
