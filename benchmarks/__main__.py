"""Run figures and print their tables: python -m benchmarks [NAME ...] [--seconds S] [--write]"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from benchmarks import machine
from benchmarks.table import page

FIGURES = (
    "cpu_per_request",
    "other_gateways",
    "cpu_per_chunk",
    "large_body",
    "many_streams",
    "added_latency",
    "leaving",
    "memory_slope",
    "cold_path",
    "cluster_wake",
    "idle_models",
    "cluster_start",
    "control_loop",
    "kube_client",
    "manager",
)
PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one or more of: {', '.join(FIGURES)}")
    parser.add_argument("--seconds", type=float, help="length of one measurement, instead of each figure's own")
    parser.add_argument("--write", action="store_true", help="rewrite docs/benchmarks.md (all figures only)")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in FIGURES]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(FIGURES)}")
    if options.write and options.names:
        parser.error("--write rewrites the whole page: leave the names out")

    print(machine.facts(), file=sys.stderr)
    if machine.load_average() > 0.5 * len(machine.CORES):
        print(
            f"the machine is busy (load {machine.load_average():.1f}): these figures will not be honest",
            file=sys.stderr,
        )
    tables = []
    for name in options.names or FIGURES:
        print(f"== {name}", file=sys.stderr)
        figure = importlib.import_module(f"benchmarks.{name}")
        table = figure.main() if options.seconds is None else figure.main(options.seconds)
        print(table.markdown() + "\n", flush=True)
        tables.append(table)
    if options.write:
        PAGE.write_text(page(tables))
        print(f"wrote {PAGE}", file=sys.stderr)


if __name__ == "__main__":
    main()
