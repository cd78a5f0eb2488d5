"""Tables for people: aligned columns, phases in colour where there is a terminal."""

from __future__ import annotations

from collections.abc import Sequence

import click

PHASE_COLOURS = {
    "Ready": "green",
    "Loading": "yellow",
    "Pending": "yellow",
    "Failed": "red",
    "Preempted": "magenta",
    "Deleting": "magenta",
}


def show(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    click.echo(render(columns, rows))


def render(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in (columns, *rows)) for i in range(len(columns))]
    lines = ["  ".join(name.ljust(width) for name, width in zip(columns, widths, strict=True)).rstrip()]
    for row in rows:
        cells = [
            click.style(cell.ljust(width), fg=PHASE_COLOURS[cell]) if cell in PHASE_COLOURS else cell.ljust(width)
            for cell, width in zip(row, widths, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
