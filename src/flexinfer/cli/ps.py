"""`flexinfer ps`: one line per model."""

from __future__ import annotations

from datetime import UTC, datetime
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
        engines = await control.engines()
    models.sort(key=lambda model: model.key)
    if output == "json":
        import msgspec

        click.echo(msgspec.json.format(msgspec.json.encode([facts(model, engines) for model in models])).decode())
        return
    from flexinfer.cli.table import show

    show(COLUMNS, [row(model, engines, datetime.now(UTC)) for model in models])


def facts(model: Any, engines: list[Any]) -> dict[str, Any]:
    """The same for programs: numbers with their unit in the name, times as RFC 3339, null for what is not known."""
    from flexinfer.api.codec import format_time

    status = model.status
    mine = [engine for engine in engines if engine.model == model.metadata.name]
    last_use = status.last_active_time
    return {
        "name": model.metadata.name,
        "backend": status.backend or model.spec.backend,
        "phase": status.phase or "Pending",
        "substage": status.loading_substage or None,
        "progress": status.loading_progress,
        "devices": sorted({engine.device for engine in mine if engine.device}),
        "memoryMiB": sum(engine.memory_mib for engine in mine),
        "lastUse": format_time(last_use) if last_use is not None else None,
        "message": status.message,
    }


def row(model: Any, engines: list[Any], now: datetime) -> tuple[str, ...]:
    """The cells of one model, as text."""
    status = model.status
    mine = [engine for engine in engines if engine.model == model.metadata.name]
    memory_mib = sum(engine.memory_mib for engine in mine)
    return (
        model.metadata.name,
        status.backend or model.spec.backend,
        status.phase or "Pending",
        _progress(status),
        ", ".join(sorted({engine.device for engine in mine if engine.device})) or "-",
        f"{memory_mib} MiB" if memory_mib else "-",
        ago(status.last_active_time, now),
    )


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
