"""1,000 streams of 20 events a second: the longest stall, what was lost, and what one stream costs in memory."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import machine, peers
from benchmarks.table import Table

STREAMS = 1000
EVENTS_PER_SECOND = 20


def main(seconds: float = 8.0) -> Table:
    """Streams are asked for during `seconds` and then let end, so that a run takes ten seconds more at most."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        upstream = stack.enter_context(peers.sse_upstream(folder))
        proxy = stack.enter_context(peers.ours(upstream.port, folder))
        client(proxy.port, 8, 0.1, 200).wait()  # code loaded
        before = machine.pss_mib(proxy.pid)
        few = client(proxy.port, STREAMS, 60, 1)
        time.sleep(5)
        idle = machine.pss_mib(proxy.pid)
        few.kill()
        few.wait()
        process = client(proxy.port, STREAMS, seconds, EVENTS_PER_SECOND)
        said, _ = process.communicate()
        result: dict[str, float] = json.loads(said)
    per_stream = (idle - before) * 1024 / STREAMS
    return Table(
        title="1,000 streams",
        command="python -m benchmarks many_streams",
        columns=("figure", "value", "aim"),
        rows=[
            ("streams of 200 events that ended whole", f"{result['complete']:,.0f}", ""),
            ("streams cut, or with an event lost", f"{result['broken']:.0f}", "none"),
            ("longest time without an event in any stream", f"{result['longest_gap_ms']:.0f} ms", "≤ 1,000 ms"),
            ("events/s, all together", f"{result['events_per_second']:,.0f}", ""),
            ("memory of one idle stream", f"{per_stream:.1f} KiB", "≤ 16 KiB"),
        ],
        notes=[
            f"{STREAMS:,} at once, {EVENTS_PER_SECOND} events/s each, by one process; engine and clients share a core.",
            "Idle: one event a second; the growth of the process's memory (PSS) by 1,000 of them, a thousandth of it.",
        ],
    )


def client(port: int, streams: int, seconds: float, rate: int) -> subprocess.Popen[str]:
    argv = ["taskset", "-c", str(machine.LOAD_CORE), sys.executable, "-m", "benchmarks.sse", "load"]
    return subprocess.Popen(
        [*argv, str(port), str(streams), str(seconds), str(rate)], stdout=subprocess.PIPE, text=True
    )
