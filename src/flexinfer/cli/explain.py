"""`flexinfer explain NAME`: why a model is in its phase, with the facts."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flexinfer.cli import modelname, session

if TYPE_CHECKING:
    from flexinfer.api.v1alpha2.model import Model


@click.command("explain", short_help="Say why a model is in its phase, with the facts.")
@click.argument("name", shell_complete=modelname.complete)
@session.state_dir_option
@session.output_option
def command(name: str, state_dir: Path | None, output: str) -> None:
    """Say why the model NAME is in its phase: what was decided, on which facts, and what would change it."""
    session.run(_explain(name, state_dir, output))


async def _explain(name: str, state_dir: Path | None, output: str) -> None:
    from flexinfer.api import codec
    from flexinfer.local.control import ControlClient
    from flexinfer.local.state import State

    async with ControlClient(State.locate(state_dir)) as control:
        name = await session.called(control, name)
        obj = await session.stored(control, name)
        engines = [engine for engine in await control.engines() if engine.model == name]
        use = (await control.uses()).get(name)
    if output == "json":
        facts = {"model": name, "status": obj.get("status", {}), "engines": engines, "use": use}
        session.show_json(facts)
        return
    for line in explanation(codec.from_object(obj), engines, use, datetime.now(UTC)):
        click.echo(line)


def explanation(model: Model, engines: list[Any], use: Any, now: datetime) -> Iterator[str]:
    from flexinfer.api import defaults
    from flexinfer.cli.ps import ago, in_use, last_used
    from flexinfer.lifecycle.phases import FAILED_RETRY_S, MEANING

    status, spec = model.status, defaults.resolve(model.spec)
    phase = status.phase or "Pending"
    yield f"{model.metadata.name} is {phase}: {MEANING[phase]}."
    if status.message:
        yield f"  because: {status.message}"
    if phase == "Failed":
        yield f"  next: a request {FAILED_RETRY_S:.0f} s after the failure starts it afresh; so does a changed manifest"
    yield ""
    yield f"backend:    {status.backend or spec.backend}"
    yield f"source:     {spec.source}"
    used = in_use(use) or ago(last_used(status, use, now), now)
    yield f"last use:   {used}; idle after {spec.serverless.idle_timeout}"
    yield f"wait limit: {spec.serverless.cold_start_timeout} for a request that meets it asleep"
    if status.metrics and status.metrics.load_time_seconds:
        yield f"last load:  {status.metrics.load_time_seconds} s"
    for engine in engines:
        # There is no process between two starts, and none of ours at all behind an external server.
        process = f"pid {engine.pid}, " if engine.pid else ""
        yield f"engine:     {process}{engine.state}, {engine.address}, restarts {engine.restarts}"
        if engine.pid:
            yield f"memory:     {engine.memory_mib} MiB on {engine.device or 'cpu'}"
        if engine.placement:
            yield f"devices:    {engine.placement}"
        if engine.log:
            yield f"log:        {engine.log}"
    yield ""
    yield "conditions:"
    for condition in status.conditions:
        message = f": {condition.message}" if condition.message else ""
        yield f"  {condition.type}={condition.status} {condition.reason}{message}"
