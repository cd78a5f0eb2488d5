"""CPU per streamed chunk: 64 streams of 200 events at 50 events/s each, and as many as the machine carries."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks import machine, peers
from benchmarks.table import Table


@dataclass(frozen=True)
class Pace:
    name: str
    streams: int
    events_per_second: int
    """Of one stream."""


PACES = (Pace("64 × 50/s", 64, 50), Pace("256 × 200/s", 256, 200))


def load(port: int, pace: Pace, seconds: float) -> dict[str, float]:
    argv = ["taskset", "-c", str(machine.LOAD_CORE), sys.executable, "-m", "benchmarks.sse", "load"]
    argv += [str(port), str(pace.streams), str(seconds), str(pace.events_per_second)]
    result: dict[str, float] = json.loads(subprocess.run(argv, capture_output=True, text=True, check=True).stdout)
    return result


def main(seconds: float = 3.0) -> Table:
    """A run lasts from `seconds` to `seconds` plus one stream: streams that began are let end."""
    table = Table(
        title="CPU per streamed chunk",
        command="python -m benchmarks cpu_per_chunk",
        columns=("proxy", "load", "CPU µs / chunk", "ratio to nginx", "chunk delay p50 / p99 µs", "chunks/s", "broken"),
        notes=[
            "180-byte events, 200 a stream, each sent as one chunk. Aim: flexinfer at most 1.2 × nginx.",
            "Delay is from the engine's clock in the event to the client's read; the direct row is the floor.",
        ],
    )
    with tempfile.TemporaryDirectory(prefix="bench-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        upstream = stack.enter_context(peers.sse_upstream(folder))
        proxies = [stack.enter_context(start(upstream.port, folder)) for start in peers.PROXIES]
        for pace in PACES:
            direct = load(upstream.port, pace, seconds)
            table.rows.append(_row("direct", pace, "", "", direct))
            nginx_cost = 0.0
            for proxy in proxies:
                tree = machine.process_tree(proxy.pid)
                before = machine.cpu_ns(tree)
                result = load(proxy.port, pace, seconds)
                cost = (machine.cpu_ns(tree) - before) / 1000 / max(1, result["events"])
                nginx_cost = nginx_cost or cost
                table.rows.append(_row(proxy.name, pace, f"{cost:.1f}", f"{cost / nginx_cost:.2f}", result))
    return table


def _row(name: str, pace: Pace, cost: str, ratio: str, result: dict[str, float]) -> tuple[str, ...]:
    delay = f"{result['p50_us']:.0f} / {result['p99_us']:.0f}"
    return (name, pace.name, cost, ratio, delay, f"{result['events_per_second']:,.0f}", f"{result['broken']:.0f}")
