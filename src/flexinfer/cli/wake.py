"""`flexinfer wake NAME`: start a model before somebody asks for it."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flexinfer.cli import modelname, session

if TYPE_CHECKING:
    from flexinfer.api.v1alpha2.model import Model

_SAME_FAILURE_S = 3.0


@click.command("wake", short_help="Start a model, and wait until it is ready.")
@click.argument("name", shell_complete=modelname.complete)
@click.option("--timeout", type=click.FloatRange(min=0), default=None, help="Seconds to wait.  [default: for ever]")
@session.state_dir_option
def command(name: str, timeout: float | None, state_dir: Path | None) -> None:
    """Start the model NAME as a request would, and wait until it is ready; its download is waited for too.

    A failure is not waited out: the model is tried again at once.
    """
    session.run(_wake(name, timeout, state_dir))


async def _wake(name: str, timeout_s: float | None, state_dir: Path | None) -> None:
    from flexinfer.api import codec
    from flexinfer.cli import progress
    from flexinfer.clock import SystemClock
    from flexinfer.kube.store import MODELS
    from flexinfer.lifecycle.phases import FAILED_RETRY_S
    from flexinfer.local.control import ControlClient
    from flexinfer.local.state import State

    clock = SystemClock()
    async with ControlClient(State.locate(state_dir)) as control:
        name = await session.called(control, name)
        before = codec.from_object(await session.stored(control, name))
        at = max(filter(None, (clock.now(), before.status.last_active_time)))
        failed_at = _failed_at(before)
        if failed_at is not None:
            at = max(at, failed_at + timedelta(seconds=FAILED_RETRY_S))
        used = {"status": {"lastActiveTime": codec.format_time(at + timedelta(milliseconds=1), exact=True)}}
        await control.store().patch(
            MODELS, session.key(name), used, subresource="status", field_manager="flexinfer-wake"
        )
        give_up_at = clock.monotonic() + _SAME_FAILURE_S

        def over(model: Model) -> bool:
            if model.status.phase == "Ready":
                return True
            # The same failure may be the one before this attempt, which has not been looked at yet.
            is_old = _failed_at(model) == failed_at and clock.monotonic() < give_up_at
            return model.status.phase == "Failed" and not is_old

        try:
            model = await progress.wait(control, name, over, timeout_s=timeout_s)
        except TimeoutError:
            raise click.ClickException(f"{name} is not ready after {timeout_s:g} s; it goes on loading") from None
    if model.status.phase == "Failed":
        raise click.ClickException(f"{name}: {model.status.message}")
    took = model.status.metrics.load_time_seconds if model.status.metrics else ""
    click.echo(f"{name} is ready" + (f" (loaded in {took} s)" if took else ""))


def _failed_at(model: Model) -> datetime | None:
    loaded = model.condition("Loaded")
    return loaded.last_transition_time if model.status.phase == "Failed" and loaded is not None else None
