"""How far a model is, for people: as words, as a bar in a table, and while a command waits for it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

import click

if TYPE_CHECKING:
    from flexinfer.api.v1alpha2.model import Model, ModelStatus
    from flexinfer.local.control import ControlClient

_LOOK_S = 0.1
_FULL, _EMPTY = "━", "─"


def words(status: ModelStatus) -> str:
    """`Downloading 34%, about 40 s left`; empty where nothing is under way."""
    from flexinfer.local.transfer import duration

    if status.phase not in ("Loading", "Pending"):
        return ""
    said = status.loading_substage or (status.message.splitlines()[0] if status.message else "")
    if status.loading_progress is not None:
        said += f" {status.loading_progress:.0%}"
    if status.loading_seconds_left is not None:
        said += f", about {duration(status.loading_seconds_left)} left"
    return said.strip()


def bar(share: float, width: int = 12) -> str:
    full = round(width * min(max(share, 0.0), 1.0))
    return _FULL * full + _EMPTY * (width - full)


class Display:
    """A context that shows one line of progress on standard error: a bar on a terminal, elsewhere a line per step."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._step = self._said = ""
        self._progress: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn

            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[said]}"))
            self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
            self._task = self._progress.add_task(self._title, total=None, said="")
            self._progress.start()
        return self

    def __exit__(self, *details: object) -> None:
        self.hide()

    def hide(self) -> None:
        """Nothing is shown from here on."""
        if self._progress is not None:
            self._progress.stop()
        self._title = ""

    def show(self, step: str, said: str, share: float | None) -> None:
        """`share` is 0 to 1; without one a terminal's bar only moves. Elsewhere each new step or tenth is a line."""
        if not self._title:
            return
        if self._progress is not None:
            total, done = (None, 0.0) if share is None else (1.0, share)
            self._progress.update(self._task, total=total, completed=done, said=said)
            return
        step += "" if share is None else f" {int(share * 10)}"
        if step != self._step and said != self._said:
            click.echo(f"{self._title}: {said}", err=True)
        self._step, self._said = step, said

    def model(self, status: ModelStatus) -> None:
        phase = status.phase or "Pending"
        said = words(status)
        self.show(
            f"{phase} {status.loading_substage}",
            f"{phase} ({said})" if said else phase,
            status.loading_progress if said else None,
        )


async def wait(
    control: ControlClient,
    name: str,
    over: Callable[[Model], bool],
    *,
    timeout_s: float | None = None,
) -> Model:
    """Show the model until `over` says so. Raises TimeoutError; ClickException when it is not there."""
    from flexinfer.api import codec
    from flexinfer.cli import session

    async with asyncio.timeout(timeout_s):
        with Display(name) as display:
            while True:
                model = codec.from_object(await session.stored(control, name))
                if over(model):
                    return model
                display.model(model.status)
                await asyncio.sleep(_LOOK_S)


async def downloaded(control: ControlClient, name: str) -> Model | None:
    """Show the download of a model until it is over, well or not; at once where there is none. None: no such model."""
    from flexinfer.lifecycle.phases import DOWNLOADING

    def over(model: Model) -> bool:
        status = model.status
        return status.phase is not None and status.loading_substage != DOWNLOADING

    try:
        return await wait(control, name, over)
    except click.ClickException:
        return None
