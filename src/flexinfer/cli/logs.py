"""`flexinfer logs NAME`: what the engine of a model wrote."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import click

from flexinfer.cli import modelname, session


@click.command("logs", short_help="Print the engine's log of a model.")
@click.argument("name", shell_complete=modelname.complete)
@click.option("--follow", "-f", is_flag=True, help="Go on as the engine writes, over restarts too.")
@click.option("--tail", type=click.IntRange(min=0), default=None, help="Only the last N lines.")
@session.state_dir_option
def command(name: str, follow: bool, tail: int | None, state_dir: Path | None) -> None:
    """Print what the engine of the model NAME wrote in its last start, also after `up` has ended."""
    session.run(_logs(name, follow, tail, state_dir))


async def _logs(name: str, follow: bool, tail: int | None, state_dir: Path | None) -> None:
    from flexinfer.errors import NotFound, NothingRunning
    from flexinfer.local.control import ControlClient
    from flexinfer.local.state import State

    state = State.locate(state_dir)
    async with contextlib.AsyncExitStack() as stack:
        try:
            control = await stack.enter_async_context(ControlClient(state))
        except NothingRunning:
            if not _print_left(state.current_log(name), tail):
                raise
            click.echo(f"no `flexinfer up` runs: this is what the last engine of {name} wrote", err=True)
            return
        name = await session.called(control, name)
        try:
            async for chunk in control.logs(name, follow=follow, tail=tail):
                _write(chunk)
        except NotFound as error:
            raise click.ClickException(str(error)) from None


def _print_left(path: Path | None, tail: int | None) -> bool:
    """Print a log that an `up` has left; False where there is none."""
    from flexinfer.local.enginelog import LogReader

    if path is None:
        return False
    reader = LogReader(path, last_lines=LogReader.ALL if tail is None else tail)
    while chunk := reader.read_bytes():
        _write(chunk)
    return True


def _write(chunk: bytes) -> None:
    sys.stdout.buffer.write(chunk)
    sys.stdout.buffer.flush()
