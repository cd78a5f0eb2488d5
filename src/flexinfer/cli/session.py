"""What commands share: output for programs; the state directory, connection and loop of those that speak to an `up`."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from flexinfer.api.meta import ObjectKey

if TYPE_CHECKING:
    from flexinfer.local.control import ControlClient

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_PORT = 8080
"""Where `up` listens when nothing else is said."""
NAMESPACE = "default"
"""Local mode has one namespace."""


def state_dir_option(command: F) -> F:
    return click.option(
        "--state-dir",
        type=click.Path(path_type=Path, file_okay=False),
        default=None,
        help="Where `up` keeps its socket, logs and manifests; one `up` for each. "
        "Default: $XDG_STATE_HOME/flexinfer, else ~/.local/state/flexinfer.",
    )(command)


def output_option(command: F) -> F:
    return click.option(
        "--output",
        "-o",
        type=click.Choice(["text", "json"]),
        default="text",
        show_default=True,
        help="For people or programs.",
    )(command)


def show_json(found: Any) -> None:
    import msgspec

    click.echo(msgspec.json.format(msgspec.json.encode(found)).decode())


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine; Ctrl-C ends it with the usual exit code."""
    try:
        return asyncio.run(main)
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def down(state_dir: Path | None) -> str:
    """The command that ends the `up` of this state directory, as a shell takes it."""
    return "flexinfer down" + (f" --state-dir {shlex.quote(str(state_dir))}" if state_dir is not None else "")


def elsewhere(host: str) -> str:
    """What follows the address of an `up` where it has more of them."""
    return ", and on every other address of this machine" if host in ("0.0.0.0", "::") else ""


def key(name: str) -> ObjectKey:
    return ObjectKey(NAMESPACE, name)


async def called(control: ControlClient, name: str) -> str:
    """The Model that goes by this name, its own or another. Raises ClickException where none does."""
    from flexinfer.api import codec
    from flexinfer.api.nearnames import nearest
    from flexinfer.kube.store import MODELS
    from flexinfer.lifecycle.modelnames import NameTable, further_names

    table, known = NameTable(), []
    for item in (await control.store().list(MODELS)).items:
        model = codec.from_object(item)
        further = further_names(model)
        known += [model.metadata.name, *further]
        table.put(model.metadata.name, further)
    owner = table.owner(name)
    if owner is None:
        near = nearest(name, known)
        raise click.ClickException(f"no such model: {name}" + (f"; did you mean {near}?" if near else ""))
    return owner


async def stored(control: ControlClient, name: str) -> dict[str, Any]:
    """The Model as the `up` that runs has it. Raises ClickException when it has none of that name."""
    from flexinfer.errors import NotFound
    from flexinfer.kube.store import MODELS

    try:
        return await control.store().get(MODELS, key(name))
    except NotFound:
        raise click.ClickException(f"no such model: {name}") from None
