"""`flexinfer rollout`: which revision of a Model serves in a cluster, which there were, and back to an old one."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from flexinfer.cli import session

if TYPE_CHECKING:
    from flexinfer.api.meta import ObjectKey
    from flexinfer.kube.client import HttpStore
    from flexinfer.lifecycle.revisions import Entry

F = TypeVar("F", bound=Callable[..., Any])

_LOOK_S = 0.5


@click.group("rollout", short_help="Show the revisions of a Model in a cluster, or go back to one.")
def command() -> None:
    """Revisions of a Model in a cluster, which is found as kubectl finds it."""


def _cluster_options(function: F) -> F:
    options = (
        click.option("--namespace", "-n", default=None, help="[default: that of the kubeconfig's context]"),
        click.option("--context", default=None, help="Of the kubeconfig."),
        click.option(
            "--kubeconfig",
            type=click.Path(path_type=Path, dir_okay=False),
            default=None,
            help="Instead of $KUBECONFIG and ~/.kube/config.",
        ),
    )
    for option in options:
        function = option(function)
    return function


@command.command("status")
@click.argument("model")
@click.option("--watch/--no-watch", default=True, show_default=True, help="Wait until the rollout has ended.")
@click.option("--timeout", type=click.FloatRange(min=0), default=None, help="Seconds to wait.  [default: for ever]")
@_cluster_options
def status(model: str, watch: bool, timeout: float | None, **where: Any) -> None:
    """Say which revision of MODEL serves, once its rollout has ended.

    Exit code 1 if the new revision was taken back, or the time was up.
    """
    session.run(_in_cluster(model, where, lambda store, key: _status(store, key, watch, timeout)))


@command.command("history")
@click.argument("model")
@click.option("--revision", type=int, default=None, metavar="NUMBER", help="Print the spec of this one, as YAML.")
@_cluster_options
def history(model: str, revision: int | None, **where: Any) -> None:
    """List the last revisions of the spec of MODEL, and what each changed."""
    session.run(_in_cluster(model, where, lambda store, key: _history(store, key, revision)))


@command.command("undo")
@click.argument("model")
@click.option("--to-revision", type=int, default=None, metavar="NUMBER", help="[default: the one before]")
@_cluster_options
def undo(model: str, to_revision: int | None, **where: Any) -> None:
    """Write an earlier spec back into MODEL; `spec.replicas` stays as it is.

    Where a repository or another object keeps the Model, that will win: change it there.
    """
    session.run(_in_cluster(model, where, lambda store, key: _undo(store, key, to_revision)))


async def _in_cluster(model: str, where: dict[str, Any], act: Callable[[HttpStore, ObjectKey], Any]) -> None:
    from flexinfer.api.meta import ObjectKey
    from flexinfer.kube import config

    async with config.from_environment(where["context"], kubeconfig=where["kubeconfig"]) as store:
        await act(store, ObjectKey(where["namespace"] or store.namespace, model))


async def _entries(store: HttpStore, key: ObjectKey) -> tuple[dict[str, Any], list[Entry]]:
    """The Model, and its revisions."""
    from flexinfer.api.wellknown import LABEL_MODEL
    from flexinfer.kube.store import CONTROLLER_REVISIONS, MODELS, Selection
    from flexinfer.lifecycle import revisions
    from flexinfer.resources import names

    model = await store.get(MODELS, key)
    listed = await store.list(CONTROLLER_REVISIONS, Selection(key.namespace, {LABEL_MODEL: names.label(key.name)}))
    return model, revisions.history(model, listed.items)


async def _status(store: HttpStore, key: ObjectKey, watch: bool, timeout_s: float | None) -> None:
    from flexinfer.kube.store import MODELS

    said = ""
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                model = await store.get(MODELS, key)
                ended, text = _told(model)
                if text != said:
                    click.echo(text)
                    said = text
                if ended or not watch:
                    break
                await asyncio.sleep(_LOOK_S)
    except TimeoutError:
        click.echo(f"not ended within {timeout_s:g} s", err=True)
        sys.exit(1)
    if _condition(model).get("reason") == "WentBack":
        sys.exit(1)


def _condition(model: dict[str, Any]) -> dict[str, Any]:
    found: list[dict[str, Any]] = (model.get("status") or {}).get("conditions") or []
    return next((one for one in found if one["type"] == "RolledOut"), {})


def _told(model: dict[str, Any]) -> tuple[bool, str]:
    """Whether the rollout has ended, and what there is to say."""
    status, condition = model.get("status") or {}, _condition(model)
    if status.get("observedGeneration") != model["metadata"].get("generation"):
        return False, "the manager has not seen the newest spec yet"
    phase = status.get("phase", "")
    if not condition:
        return phase in ("Idle", "Failed"), f"nothing has served yet ({phase}): {status.get('message', '')}"
    asleep = phase == "Idle"
    text = condition["message"] + (" (it sleeps: a request starts it)" if asleep else "")
    return asleep or condition["status"] == "True" or condition["reason"] == "WentBack", text


async def _history(store: HttpStore, key: ObjectKey, number: int | None) -> None:
    import yaml

    from flexinfer.cli import table

    _, entries = await _entries(store, key)
    if number is not None:
        click.echo(yaml.safe_dump(_numbered(entries, number, key).spec, sort_keys=False, allow_unicode=True), nl=False)
        return
    rows = [
        [str(one.number), one.revision, one.created_at, ", ".join(one.marks), ", ".join(one.changed)] for one in entries
    ]
    table.show(["REVISION", "HASH", "CREATED", "NOW", "CHANGED"], rows)


def _numbered(entries: list[Entry], number: int, key: ObjectKey) -> Entry:
    from flexinfer.errors import FlexInferError

    for one in entries:
        if one.number == number:
            return one
    there = ", ".join(str(one.number) for one in entries) or "none"
    raise FlexInferError(f"model/{key.name} has no revision {number}; there are {there}")


async def _undo(store: HttpStore, key: ObjectKey, number: int | None) -> None:
    from flexinfer.errors import FlexInferError
    from flexinfer.kube.store import MODELS
    from flexinfer.lifecycle import revisions

    model, entries = await _entries(store, key)
    to = revisions.before(entries) if number is None else _numbered(entries, number, key)
    if to is None:
        raise FlexInferError(f"model/{key.name} has no revision before this one")
    if "spec" in to.marks:
        click.echo(f"model/{key.name} has the spec of revision {to.number} already")
        return
    await store.patch(MODELS, key, revisions.written_back(model, to), field_manager="flexinfer-rollout")
    click.echo(f"model/{key.name} has the spec of revision {to.number} again")
    if keeper := revisions.repository(model):
        click.echo(f"warning: {keeper} keeps this Model and will write its own spec again: change it there", err=True)
