"""Memory under load: how much the proxy grows between the 2nd and the last tenth of 200,000 requests."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks import machine, peers, wrk
from benchmarks.table import Table

REQUESTS = 200_000


def slope_mib(samples: list[tuple[int, float]]) -> float:
    """MiB per 100,000 requests, between the 2nd and the last tenth of (requests so far, MiB)."""
    total = samples[-1][0]
    early = [mib for count, mib in samples if total / 10 < count <= total / 5]
    late = [mib for count, mib in samples if count > total * 9 / 10]
    between = total * (0.95 - 0.15)
    return (sum(late) / len(late) - sum(early) / len(early)) / between * 100_000


def a_second_of_wrk(port: int, folder: Path) -> int:
    load = wrk.run(port, connections=32, seconds=1, folder=folder)
    if load.errors or not load.requests:
        raise SystemExit(f"{load.errors} errors under load")
    return load.requests


def measure(requests: int = REQUESTS, load: Callable[[int, Path], int] = a_second_of_wrk) -> list[tuple[int, float]]:
    """(requests so far, MiB) after each call of `load`, with keys and the access line; it tells its requests."""
    samples: list[tuple[int, float]] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        upstream = stack.enter_context(peers.json_upstream(folder))
        proxy = stack.enter_context(peers.ours_with_access_log(upstream.port, folder))
        done = 0
        while done < requests or len(samples) < 20:
            done += load(proxy.port, folder)
            samples.append((done, machine.pss_mib(proxy.pid)))
    return samples


def main(seconds: float = 0.0) -> Table:
    """As many requests as it takes: `seconds` changes nothing."""
    samples = measure()
    return Table(
        title="Memory under load",
        command="python -m benchmarks memory_slope",
        columns=("figure", "value", "aim"),
        rows=[
            ("requests", f"{samples[-1][0]:,}", f"{REQUESTS:,} or more"),
            ("memory after the first second, and at the end", f"{samples[0][1]:.1f} and {samples[-1][1]:.1f} MiB", ""),
            ("growth per 100,000 requests", f"{slope_mib(samples):.2f} MiB", "< 1 MB"),
        ],
        notes=["With keys and the access line; PSS of the process, 2nd tenth of the requests against the last."],
    )
