"""`flexinfer apply FILE...`: add or change Models of the `up` that runs, and keep them for the next one."""

from __future__ import annotations

from pathlib import Path

import click

from flexinfer.cli import session


@click.command("apply", short_help="Add or change Models of the `up` that runs.")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, allow_dash=True))
@session.state_dir_option
def command(files: tuple[Path, ...], state_dir: Path | None) -> None:
    """Add or change the Models of FILE... (`-` is standard input).

    They are also written to <state-dir>/manifests, which `flexinfer up` without FILE serves. A Model that the `up`
    has from a FILE is changed there.
    """
    session.run(_apply(files, state_dir))


async def _apply(files: tuple[Path, ...], state_dir: Path | None) -> None:
    from flexinfer.api import codec
    from flexinfer.cli import manifests
    from flexinfer.kube.store import MODELS
    from flexinfer.local.control import ControlClient
    from flexinfer.local.manifestfiles import FIELD_MANAGER
    from flexinfer.local.state import State

    models = manifests.read(files)
    state = State.locate(state_dir)
    async with ControlClient(state) as control:
        store = control.store()
        for model in models:
            manifests.check_free(await manifests.find(store, model.key))
        for model in models:
            obj = manifests.namespaced(codec.to_object(model))
            was = await manifests.find_alive(store, model.key)
            after = await store.apply(MODELS, obj, field_manager=FIELD_MANAGER, force=True)
            manifests.keep(state, obj)
            same = was is not None and after["metadata"]["generation"] == was["metadata"]["generation"]
            verb = "created" if was is None else "unchanged" if same else "configured"
            click.echo(f"model/{model.metadata.name} {verb}")
