"""`flexinfer ps`: one line per model."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from flexinfer.cli import session

COLUMNS = ("NAME", "BACKEND", "PHASE", "PROGRESS", "DEVICE", "MEMORY", "LAST USE")


@click.command("ps", short_help="Show the models: phase, progress, device, memory, last use.")
@session.state_dir_option
@session.output_option
def command(state_dir: Path | None, output: str) -> None:
    """Show the models of the `up` that runs: phase, progress, device, memory, last use."""
    session.run(_ps(state_dir, output))


async def _ps(state_dir: Path | None, output: str) -> None:
    from flexinfer.api import codec
    from flexinfer.kube.store import MODELS
    from flexinfer.local.control import ControlClient
    from flexinfer.local.state import State

    async with ControlClient(State.locate(state_dir)) as control:
        models = [codec.from_object(item) for item in (await control.store().list(MODELS)).items]
        engines, uses = await control.engines(), await control.uses()
    now = datetime.now(UTC)
    models.sort(key=lambda model: model.key)
    if output == "json":
        session.show_json([facts(model, engines, uses, now) for model in models])
        return
    from flexinfer.cli.table import show

    show(COLUMNS, [row(model, engines, uses, now) for model in models])
    for model in models:
        if said := remark(model):
            click.echo(f"{model.metadata.name}: {said}")


def remark(model: Any) -> str:
    """What its owner ought to know: why it failed, or what is wrong with its manifest; empty if nothing is."""
    valid = model.condition("ConfigValid")
    if model.status.phase == "Failed":
        said = model.status.message
    else:
        said = valid.message if valid is not None and valid.status == "False" else ""
    return said.splitlines()[0] if said else ""


def facts(model: Any, engines: list[Any], uses: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """The same for programs: numbers with their unit in the name, times as RFC 3339, null for what is not known."""
    from flexinfer.api.codec import format_time

    status = model.status
    mine = [engine for engine in engines if engine.model == model.metadata.name]
    use = uses.get(model.metadata.name)
    last_use = last_used(status, use, now)
    return {
        "name": model.metadata.name,
        "backend": status.backend or model.spec.backend,
        "phase": status.phase or "Pending",
        "deleting": model.metadata.deletion_timestamp is not None,
        "substage": status.loading_substage or None,
        "progress": status.loading_progress,
        "devices": sorted({engine.device for engine in mine if engine.device}),
        "memoryMiB": sum(engine.memory_mib for engine in mine),
        "lastUse": format_time(last_use) if last_use is not None else None,
        "open": use.open if use is not None else 0,
        "waiting": use.waiting if use is not None else 0,
        "message": status.message,
    }


def row(model: Any, engines: list[Any], uses: Mapping[str, Any], now: datetime) -> tuple[str, ...]:
    """The cells of one model, as text."""
    status = model.status
    mine = [engine for engine in engines if engine.model == model.metadata.name]
    memory_mib = sum(engine.memory_mib for engine in mine)
    return (
        model.metadata.name,
        status.backend or model.spec.backend,
        "Deleting" if model.metadata.deletion_timestamp is not None else status.phase or "Pending",
        _progress(status),
        ", ".join(sorted({engine.device for engine in mine if engine.device})) or "-",
        f"{memory_mib} MiB" if memory_mib else "-",
        in_use(uses.get(model.metadata.name)) or ago(last_used(status, uses.get(model.metadata.name), now), now),
    )


def in_use(use: Any) -> str:
    """`2 open, 1 waiting` while clients use it; empty otherwise."""
    counts = ((use.open, "open"), (use.waiting, "waiting")) if use is not None else ()
    return ", ".join(f"{count} {word}" for count, word in counts if count)


def last_used(status: Any, use: Any, now: datetime) -> datetime | None:
    """When it was last used: as its status says, or later, as the proxy knows."""
    noted: datetime | None = status.last_active_time
    if use is None or use.idle_seconds is None:
        return noted
    told = now - timedelta(seconds=use.idle_seconds)
    return told if noted is None else max(noted, told)


def _progress(status: Any) -> str:
    from flexinfer.cli import progress

    return progress.words(status) or "-"


def ago(then: datetime | None, now: datetime) -> str:
    """`12 s ago`, `5 min ago`, `3 h ago`; `never` for None."""
    if then is None:
        return "never"
    seconds = max(0, int((now - then).total_seconds()))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"
