"""`flexinfer down`: end the `up` that runs, and wait until it is gone."""

from __future__ import annotations

from pathlib import Path

import click

from flexinfer.cli import session


@click.command("down", short_help="End the `up` that runs.")
@session.state_dir_option
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    help="Seconds to wait for it to end.",
)
def command(state_dir: Path | None, timeout: float) -> None:
    """End the `up` that runs: open requests get their grace, engines stop, nothing is left."""
    session.run(_down(state_dir, timeout))


async def _down(state_dir: Path | None, timeout: float) -> None:
    from flexinfer.local.control import ControlClient
    from flexinfer.local.state import State

    state = State.locate(state_dir)
    async with ControlClient(state) as control:
        info = await control.info()
        await control.shutdown()
    if not await state.released(timeout):
        raise click.ClickException(f"`up` (pid {info.pid}) has not ended within {timeout:g} s")
    click.echo(f"up (pid {info.pid}) has ended")
