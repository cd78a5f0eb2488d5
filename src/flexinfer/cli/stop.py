"""`flexinfer stop NAME`: end the engine of a model now; the next request starts it again."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flexinfer.cli import modelname, session

if TYPE_CHECKING:
    from flexinfer.api.v1alpha2.model import Model


@click.command("stop", short_help="Stop a model's engine; the next request starts it again.")
@click.argument("name", shell_complete=modelname.complete)
@click.option("--timeout", type=click.FloatRange(min=0), default=60.0, show_default=True, help="Seconds to wait.")
@session.state_dir_option
def command(name: str, timeout: float, state_dir: Path | None) -> None:
    """Stop the engine of the model NAME and free its memory; open requests get 30 s to end.

    The model stays: the next request, or `flexinfer wake`, starts it again.
    """
    session.run(_stop(name, timeout, state_dir))


async def _stop(name: str, timeout_s: float, state_dir: Path | None) -> None:
    from flexinfer.api import codec
    from flexinfer.api.wellknown import ANNOTATION_STOPPED_AT
    from flexinfer.cli import progress
    from flexinfer.clock import SystemClock
    from flexinfer.kube.store import MODELS
    from flexinfer.lifecycle import scaling
    from flexinfer.local.control import ControlClient
    from flexinfer.local.state import State

    async with ControlClient(State.locate(state_dir)) as control:
        name = await session.called(control, name)
        before = codec.from_object(await session.stored(control, name))
        used = before.status.last_active_time
        at = max(filter(None, (SystemClock().now(), used and used + timedelta(milliseconds=1))))
        patch = {"metadata": {"annotations": {ANNOTATION_STOPPED_AT: codec.format_time(at, exact=True)}}}
        await control.store().patch(MODELS, session.key(name), patch, field_manager="flexinfer-stop")
        if not before.status.replicas and before.status.phase not in ("Ready", "Loading"):
            click.echo(f"{name} is not running")
            return

        def over(model: Model) -> bool:
            gone = not model.status.replicas and model.status.phase not in ("Ready", "Loading")
            return gone or not scaling.stopped(model)

        try:
            model = await progress.wait(control, name, over, timeout_s=timeout_s)
        except TimeoutError:
            raise click.ClickException(f"{name} has not ended after {timeout_s:g} s; it goes on draining") from None
    if not scaling.stopped(model):
        raise click.ClickException(f"{name} was asked for meanwhile and goes on")
    click.echo(f"{name} is stopped; the next request starts it again")
