"""`flexinfer delete NAME...`: remove Models from the `up` that runs, or from what the next one serves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from flexinfer.cli import modelname, session

if TYPE_CHECKING:
    from flexinfer.local.state import State


@click.command("delete", short_help="Remove a Model from the `up` that runs, or the next one.")
@click.argument("names", nargs=-1, required=True, shell_complete=modelname.complete)
@session.state_dir_option
def command(names: tuple[str, ...], state_dir: Path | None) -> None:
    """Remove the Models NAME...; their engines are stopped, their files stay.

    A Model that the `up` has from a FILE goes when it is removed from there. Where no `up` runs, those that `run` and
    `apply` have kept for the next one are removed.
    """
    session.run(_delete(names, state_dir))


async def _delete(names: tuple[str, ...], state_dir: Path | None) -> None:
    from flexinfer.errors import NothingRunning
    from flexinfer.local.state import State

    state = State.locate(state_dir)
    try:
        missing = await _from_up(state, names)
    except NothingRunning:
        if not any(state.manifest(name).exists() for name in names):
            raise
        missing = _from_disk(state, names)
    if missing:
        raise click.ClickException(f"no such model: {', '.join(missing)}")


async def _from_up(state: State, names: tuple[str, ...]) -> list[str]:
    """Names that it does not have. Raises NothingRunning."""
    from flexinfer.cli import manifests
    from flexinfer.errors import NotFound
    from flexinfer.kube.store import MODELS
    from flexinfer.local.control import ControlClient

    missing = []
    async with ControlClient(state) as control:
        store = control.store()
        found = {name: await manifests.find(store, session.key(name)) for name in names}
        for obj in found.values():
            manifests.check_free(obj)
        for name, obj in found.items():
            if obj is None:
                missing.append(name)
                continue
            # First: an `up` that follows the folder would bring it back.
            manifests.forget(state, name)
            try:
                await store.delete(MODELS, session.key(name))
            except NotFound:
                click.echo(f"model/{name} was gone already")
            else:
                click.echo(f"model/{name} deleted")
    return missing


def _from_disk(state: State, names: tuple[str, ...]) -> list[str]:
    """Names of which no manifest is kept. Raises StateLocked when an `up` starts meanwhile."""
    from flexinfer.cli import manifests

    missing = []
    with state.locked():
        for name in names:
            if state.manifest(name).exists():
                manifests.forget(state, name)
                state.forget(name)
                click.echo(f"model/{name} deleted")
            else:
                missing.append(name)
    return missing
