"""`flexinfer delete NAME...`: remove Models from the `up` that runs."""

from __future__ import annotations

from pathlib import Path

import click

from flexinfer.cli import modelname, session


@click.command("delete", short_help="Remove a Model from the `up` that runs.")
@click.argument("names", nargs=-1, required=True, shell_complete=modelname.complete)
@session.state_dir_option
def command(names: tuple[str, ...], state_dir: Path | None) -> None:
    """Remove the Models NAME...; their engines are stopped, their files stay.

    A Model that the `up` has from a FILE goes when it is removed from there.
    """
    session.run(_delete(names, state_dir))


async def _delete(names: tuple[str, ...], state_dir: Path | None) -> None:
    from flexinfer.cli import manifests
    from flexinfer.errors import NotFound
    from flexinfer.kube.store import MODELS
    from flexinfer.local.control import ControlClient
    from flexinfer.local.state import State

    state = State.locate(state_dir)
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
    if missing:
        raise click.ClickException(f"no such model: {', '.join(missing)}")
