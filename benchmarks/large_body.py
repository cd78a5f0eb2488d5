"""A prompt of 220 KB: requests a second and CPU against an aiohttp pass-through in the same run."""

from __future__ import annotations

import contextlib
import json
import tempfile
from pathlib import Path

from benchmarks import machine, peers, wrk
from benchmarks.table import Table, median

BODY_BYTES = 220_000
ROUNDS = 3
CONNECTIONS = 16


def body() -> str:
    empty = {"model": "bench", "messages": [{"role": "user", "content": ""}]}
    words = "some words of a long document " * (BODY_BYTES // 30)
    empty["messages"][0]["content"] = words[: BODY_BYTES - len(json.dumps(empty))]  # type: ignore[index]
    return json.dumps(empty)


def main(seconds: float = 3.0) -> Table:
    rates: dict[str, list[float]] = {}
    costs: dict[str, list[float]] = {}
    errors = 0
    with tempfile.TemporaryDirectory(prefix="bench-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        upstream = stack.enter_context(peers.json_upstream(folder))
        proxies = [
            stack.enter_context(peers.aiohttp_pass_through(upstream.port, folder)),
            stack.enter_context(peers.ours_with_keys(upstream.port, folder)),
        ]
        for _ in range(ROUNDS):
            for proxy in proxies:
                tree = machine.process_tree(proxy.pid)
                before = machine.cpu_ns(tree)
                load = wrk.run(proxy.port, connections=CONNECTIONS, seconds=seconds, folder=folder, body=body())
                costs.setdefault(proxy.name, []).append((machine.cpu_ns(tree) - before) / 1000 / max(1, load.requests))
                rates.setdefault(proxy.name, []).append(load.requests / max(1, round(seconds)))
                errors += load.errors
    rate = {name: median(values) for name, values in rates.items()}
    return Table(
        title="Large body",
        command="python -m benchmarks large_body",
        columns=("proxy", "requests/s", "rate, ratio to aiohttp", "CPU µs / request"),
        rows=[
            (name, f"{value:,.0f}", f"{value / rate['aiohttp']:.2f}", f"{median(costs[name]):.0f}")
            for name, value in rate.items()
        ],
        notes=[
            f"Prompts of 220 KB, {CONNECTIONS} connections; {errors} errors. Aim: at least 0.9 of aiohttp's rate.",
            "flexinfer holds a body whole and reads the model in it before an engine sees a byte.",
        ],
    )
