"""A figure's table, and the page that holds them all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from benchmarks import machine


@dataclass(kw_only=True)
class Table:
    title: str
    command: str
    columns: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What was aimed at, what limits a figure that was not reached."""

    def markdown(self) -> str:
        lines = [
            f"## {self.title}",
            "",
            f"`{self.command}`",
            "",
            f"| {' | '.join(self.columns)} |",
            f"|{'---|' * len(self.columns)}",
            *(f"| {' | '.join(row)} |" for row in self.rows),
        ]
        if self.notes:
            lines += ["", *(f"- {note}" for note in self.notes)]
        return "\n".join(lines)


def page(tables: Sequence[Table]) -> str:
    day = datetime.now(UTC).strftime("%Y-%m-%d")
    head = (
        "# Figures\n\n"
        "Written by `make bench ARGS=--write`. Ratios within one run count; absolute times belong to the machine.\n"
        "Proxies are pinned to one core, load and upstream to another; CPU is what the scheduler counted for all\n"
        "threads of a proxy's processes. A figure that misses its aim stands here as measured.\n\n"
        f"Measured {day} on {machine.facts()}.\n\n"
    )
    return head + "\n\n".join(table.markdown() for table in tables) + "\n"


def median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` (0 to 1) of all values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
