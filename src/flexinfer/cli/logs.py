"""`flexinfer logs NAME`: what the engine of a model wrote."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from flexinfer.cli import session


@click.command("logs", short_help="Print the engine's log of a model.")
@click.argument("name")
@click.option("--follow", "-f", is_flag=True, help="Go on as the engine writes, over restarts too.")
@click.option("--tail", type=click.IntRange(min=0), default=None, help="Only the last N lines.")
@session.state_dir_option
def command(name: str, follow: bool, tail: int | None, state_dir: Path | None) -> None:
    """Print what the engine of the model NAME wrote in its last start."""
    session.run(_logs(name, follow, tail, state_dir))


async def _logs(name: str, follow: bool, tail: int | None, state_dir: Path | None) -> None:
    from flexinfer.errors import NotFound
    from flexinfer.local.control import ControlClient
    from flexinfer.local.state import State

    async with ControlClient(State.locate(state_dir)) as control:
        try:
            async for chunk in control.logs(name, follow=follow, tail=tail):
                sys.stdout.buffer.write(chunk)
                sys.stdout.buffer.flush()
        except NotFound as error:
            await session.stored(control, name)
            raise click.ClickException(str(error)) from None
