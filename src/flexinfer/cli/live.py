"""The live table of an `up` on a terminal: one line per model, those that are awake first.

It is redrawn when something changes; nothing is drawn while nothing happens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from flexinfer.api.meta import ObjectKey
from flexinfer.api.v1alpha2.model import Model, ModelStatus
from flexinfer.cli import progress
from flexinfer.cli.table import PHASE_COLOURS

FRAME_LINES = 8
"""Of the terminal that models cannot have: title, header, borders, a line for what is left out, room for log lines."""
NAME_COLUMNS = 40


class LiveTable:
    """A context: inside it the table stands at the end of the terminal, log lines above it."""

    def __init__(self, console: Console, models: Callable[[], Sequence[Model]], title: str) -> None:
        self._console = console
        self._models = models
        self._title = title
        self._live = Live(console=console, auto_refresh=False, transient=False)

    def __enter__(self) -> Self:
        self._live.__enter__()
        self._live.update(self._draw(), refresh=True)
        return self

    def __exit__(self, *details: object) -> None:
        self._live.update(self._draw(), refresh=True)
        self._live.__exit__(None, None, None)

    def on_change(self, _key: ObjectKey, _old: Model | None, _new: Model | None) -> None:
        """An informer's handler."""
        self._live.update(self._draw(), refresh=True)

    def _draw(self) -> Group:
        table = Table()
        for column in ("MODEL", "BACKEND", "PHASE", "PROGRESS", "LAST USE"):
            table.add_column(column)
        models = sorted(self._models(), key=lambda model: (model.status.phase in (None, "Idle"), model.key))
        shown = models[: max(3, self._console.height - FRAME_LINES)]
        for model in shown:
            status = model.status
            phase = status.phase or "Pending"
            colour = PHASE_COLOURS.get(phase, "white")
            table.add_row(
                _cut(model.metadata.name),
                status.backend or model.spec.backend,
                Text(phase, style=colour),
                # Never markup: what an engine or a manifest says may hold brackets.
                Text(_remark(status)),
                _clock_time(status.last_active_time),
            )
        left = len(models) - len(shown)
        more = [Text(f"… and {left} more: flexinfer ps")] if left else []
        return Group(Text(self._title, style="bold", no_wrap=True), table, *more)


def _cut(name: str) -> str:
    return name if len(name) <= NAME_COLUMNS else f"{name[: NAME_COLUMNS - 1]}…"


def _remark(status: ModelStatus) -> str:
    if status.phase == "Failed":
        return status.message.splitlines()[0] if status.message else ""
    said = progress.words(status)
    return said if status.loading_progress is None or not said else f"{progress.bar(status.loading_progress)} {said}"


def _clock_time(at: datetime | None) -> str:
    return at.astimezone().strftime("%H:%M:%S") if at is not None else "never"
