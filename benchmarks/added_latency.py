"""Latency that a proxy adds to one request after another on one connection, over going direct."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

from benchmarks import peers, wrk
from benchmarks.table import Table, median

ROUNDS = 3


def main(seconds: float = 3.0) -> Table:
    loads: dict[str, list[wrk.Load]] = {}
    with tempfile.TemporaryDirectory(prefix="bench-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        upstream = stack.enter_context(peers.json_upstream(folder))
        targets = [upstream, *(stack.enter_context(start(upstream.port, folder)) for start in peers.PROXIES)]
        for target in targets:
            wrk.run(target.port, connections=1, seconds=1, folder=folder)
        for _ in range(ROUNDS):
            for target in targets:
                load = wrk.run(target.port, connections=1, seconds=seconds, folder=folder)
                loads.setdefault(target.name, []).append(load)
    p50 = {name: median([load.p50_us for load in runs]) for name, runs in loads.items()}
    p99 = {name: median([load.p99_us for load in runs]) for name, runs in loads.items()}
    table = Table(
        title="Added latency",
        command="python -m benchmarks added_latency",
        columns=("target", "p50 µs", "p99 µs", "added p50 µs", "added p99 µs"),
        notes=["One connection, one request after the other. Added = the proxy's figure less the direct one."],
    )
    for name in loads:
        added = (
            ("", "") if name == "direct" else (f"{p50[name] - p50['direct']:.0f}", f"{p99[name] - p99['direct']:.0f}")
        )
        table.rows.append((name, f"{p50[name]:.0f}", f"{p99[name]:.0f}", *added))
    return table
