"""CPU per request: POST of 0.8 KB, answer of 1 KB, 32 connections, against nginx in the same run."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

from benchmarks import machine, peers, wrk
from benchmarks.table import Table, median

ROUNDS = 3


def main(seconds: float = 4.0) -> Table:
    costs: dict[str, list[float]] = {}
    rates: dict[str, list[float]] = {}
    errors: dict[str, int] = {}
    with tempfile.TemporaryDirectory(prefix="bench-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        upstream = stack.enter_context(peers.json_upstream(folder))
        starts = (*peers.PROXIES, peers.ours_with_keys, peers.ours_with_access_log)
        proxies = [stack.enter_context(start(upstream.port, folder)) for start in starts]
        for proxy in proxies:
            wrk.run(proxy.port, connections=32, seconds=1, folder=folder)  # warm: pools filled, code loaded
        # Rounds go from proxy to proxy, so that a slow minute of the machine meets all of them.
        for _ in range(ROUNDS):
            for proxy in proxies:
                tree = machine.process_tree(proxy.pid)
                before = machine.cpu_ns(tree)
                load = wrk.run(proxy.port, connections=32, seconds=seconds, folder=folder)
                spent = machine.cpu_ns(tree) - before
                costs.setdefault(proxy.name, []).append(spent / 1000 / max(1, load.requests))
                rates.setdefault(proxy.name, []).append(load.requests / max(1, round(seconds)))
                errors[proxy.name] = errors.get(proxy.name, 0) + load.errors
    cost = {name: median(values) for name, values in costs.items()}
    table = Table(
        title="CPU per request",
        command="python -m benchmarks cpu_per_request",
        columns=(
            "proxy",
            "CPU µs / request",
            "ratio to nginx",
            "requests/s (load and upstream share a core)",
            "errors",
        ),
        notes=[
            "Aim: flexinfer at most 1.8 × nginx with keys, 2.2 × with the access line as well; both 0.4 × aiohttp.",
            "What limits it: 38 % is the kernel (two reads, two writes, as nginx) and 48 % CPython, by `perf`.",
        ],
    )
    for name, value in cost.items():
        ratio = value / cost["nginx"]
        table.rows.append((name, f"{value:.1f}", f"{ratio:.2f}", f"{median(rates[name]):,.0f}", str(errors[name])))
    return table
