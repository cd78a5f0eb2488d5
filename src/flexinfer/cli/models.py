"""`flexinfer models list|rm|gc|pull`: the downloaded copies below the folder of models.

A copy is used by the Models of the `up` that runs and by those of <state-dir>/manifests. Deleting a
Model leaves its copy: weights are dear. `rm` and `gc` free them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flexinfer.cli import session, sources

if TYPE_CHECKING:
    from flexinfer.api.v1alpha2.model import Model
    from flexinfer.artifacts.tasks import Fetch
    from flexinfer.storage.copies import Copy


@click.group("models", short_help="Show, fetch and free downloaded models.")
def command() -> None:
    """Show, fetch and free the downloaded models of this machine."""


@command.command("list", short_help="Show the copies and who uses them.")
@sources.models_dir_option
@session.state_dir_option
@session.output_option
def list_(models_dir: Path | None, state_dir: Path | None, output: str) -> None:
    """Show the copies: source, revision, size, and which Models use them."""
    from flexinfer.cli.table import show
    from flexinfer.local.transfer import size
    from flexinfer.storage import copies

    root, users = session.run(_users(models_dir, state_dir))
    found = copies.copies(root)
    if output == "json":
        import msgspec

        rows = [{**msgspec.to_builtins(copy), "models": users.get(copy.key, [])} for copy in found]
        session.show_json(rows)
        return
    if not found:
        click.echo(f"no downloaded models in {root}")
        return
    show(
        ("KEY", "SOURCE", "REVISION", "SIZE", "STATE", "MODELS"),
        [
            (
                copy.key[:12],
                copy.source or "-",
                copy.revision or "main",
                size(copy.stored_bytes),
                "whole" if copy.complete else "partial",
                ", ".join(users.get(copy.key, [])) or "-",
            )
            for copy in found
        ],
    )


@command.command("rm", short_help="Free one copy.")
@click.argument("copy")
@click.option("--force", is_flag=True, help="Also a copy that a Model uses; it is fetched again when it is needed.")
@sources.models_dir_option
@session.state_dir_option
def rm(copy: str, force: bool, models_dir: Path | None, state_dir: Path | None) -> None:
    """Free one copy: COPY is its key, the beginning of it, or its source.

    One that a running engine reads is never freed.
    """
    from flexinfer.local.transfer import size
    from flexinfer.storage import copies

    root, users = session.run(_users(models_dir, state_dir))
    keys = _matching(copies.copies(root), copy)
    if not keys:
        raise click.ClickException(f"no such copy in {root}: {copy}")
    used = sorted({name for key in keys for name in users.get(key, [])})
    if used and not force:
        raise click.ClickException(f"{copy} is used by {', '.join(used)}: delete these first, or say --force")
    for key in keys:
        click.echo(f"freed {size(copies.remove(root, key))} ({key[:12]})")


@command.command("gc", short_help="Free every copy that no Model uses.")
@click.option("--dry-run", is_flag=True, help="Only show what would be freed.")
@sources.models_dir_option
@session.state_dir_option
def gc(dry_run: bool, models_dir: Path | None, state_dir: Path | None) -> None:
    """Free every copy that no Model of the `up` that runs or of <state-dir>/manifests uses."""
    from flexinfer.local.transfer import size
    from flexinfer.storage import copies

    root, users = session.run(_users(models_dir, state_dir))
    if dry_run:
        found = tuple(copy for copy in copies.copies(root) if copy.key not in users and not copy.in_use)
    else:
        found = copies.gc(root, users.keys())
    for copy in found:
        click.echo(f"{'would free' if dry_run else 'freed'} {size(copy.stored_bytes)}: {copy.source or copy.key}")
    if not found:
        click.echo("nothing to free")


@command.command("pull", short_help="Download a source, or what manifests name.")
@click.argument("source", metavar="SOURCE|FILE")
@click.option("--gguf-file", default="", help="Which file, where the repository has several models.")
@click.option("--checkpoint", is_flag=True, help="Safetensors, as vLLM reads them.  [default: GGUF, or what there is]")
@click.option("--refresh", is_flag=True, help="Ask the hub whether the revision has moved.")
@sources.token_option
@sources.models_dir_option
@session.state_dir_option
def pull(
    source: str,
    gguf_file: str,
    checkpoint: bool,
    refresh: bool,
    hf_token_file: Path | None,
    models_dir: Path | None,
    state_dir: Path | None,
) -> None:
    """Download SOURCE (HF://org/name[@revision]), or what the Models of the manifest FILE need. No `up` has to run."""
    token = sources.token_file(hf_token_file)
    root = session.run(_root(models_dir, state_dir))
    if _is_manifest(source):
        wanted = _of_manifest(Path(source), root)
    else:
        wanted = [_of_source(source, root, gguf_file, checkpoint=checkpoint, token=token)]
    if not wanted:
        click.echo(f"{source}: nothing to download")
    failed = [fetch for fetch in wanted if not _pull(fetch, token, refresh=refresh)]
    if failed:
        sys.exit(1)


def _is_manifest(text: str) -> bool:
    return text == "-" or Path(text).suffix.lower() in (".yaml", ".yml", ".json")


def _of_manifest(file: Path, root: Path) -> list[Fetch]:
    from flexinfer.cli import manifests

    found = {fetch.request: fetch for model in manifests.read([file]) if (fetch := _fetch(model, root))}
    return list(found.values())


def _of_source(text: str, root: Path, gguf_file: str, *, checkpoint: bool, token: Path | None) -> Fetch:
    from flexinfer.artifacts import source, tasks
    from flexinfer.cli.run import backend_of
    from flexinfer.errors import InvalidField, InvalidManifest

    try:
        parsed = source.parse(text)
    except InvalidField as error:
        raise InvalidManifest((error,)) from error
    if not isinstance(parsed, source.HuggingFace):
        raise InvalidManifest((InvalidField("source", text, "HF://org/name[@revision], org/name, or a manifest"),))
    checkpoint = checkpoint or backend_of(text, gguf_file, token) == "vllm"
    config = {"ggufFile": gguf_file} if gguf_file else {}
    return tasks.fetch(parsed, "checkpoint" if checkpoint else "gguf", config, str(root))


def _pull(fetch: Fetch, token: Path | None, *, refresh: bool) -> bool:
    """Whether it is there. Ctrl-C ends the download; what has come is kept."""
    import subprocess
    import time

    from flexinfer.cli.progress import Display
    from flexinfer.local import downloads, transfer

    argv = [sys.executable, "-m", "flexinfer", *fetch.args, *(["--refresh"] if refresh else [])]
    title = f"HF://{fetch.repository}"
    meter = transfer.Meter()
    env = downloads.environment(os.environ, token, str(Path.home()))
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=env) as child, Display(title) as display:
        assert child.stdout is not None
        outcome: transfer.Event | None = None
        try:
            for line in child.stdout:
                match transfer.read_event(line):
                    case transfer.Progress() as event:
                        meter.read(event, time.monotonic())
                        display.show("downloading", f"downloading {meter}" if meter.total else str(meter), meter.share)
                    case transfer.Verifying():
                        display.show("verifying", "verifying", None)
                    case transfer.Done() | transfer.Failed() as event:
                        outcome = event
        except KeyboardInterrupt:
            # The child, of the same terminal, has been told too.
            child.wait()
            raise SystemExit(130) from None
    match outcome:
        case transfer.Done(path=path, bytes=count):
            click.echo(f"{title}: {transfer.size(count)} in {path}")
            return True
        case transfer.Failed(message=message):
            click.echo(f"error: {title}: {message}", err=True)
        case _:
            click.echo(f"error: {title}: the download ended with exit code {child.returncode}", err=True)
    return False


def _matching(found: tuple[Copy, ...], text: str) -> list[str]:
    """Keys that a user's word means."""
    name = text.removeprefix("HF://").removeprefix("hf://")
    source, _, revision = name.partition("@")
    keys = [
        copy.key
        for copy in found
        if (len(text) >= 4 and copy.key.startswith(text))
        or (copy.source.removeprefix("HF://") == source and revision in ("", copy.revision, copy.commit))
    ]
    return list(dict.fromkeys(keys))


def _absolute(path: Path) -> Path:
    return path.absolute()


async def _root(models_dir: Path | None, state_dir: Path | None) -> Path:
    """The folder of models: the one that is named, that of the `up` that runs, the default one."""
    from flexinfer.errors import NothingRunning
    from flexinfer.local.control import ControlClient
    from flexinfer.local.state import State, default_models_dir

    if models_dir is not None:
        return _absolute(models_dir)
    try:
        async with ControlClient(State.locate(state_dir)) as control:
            return Path((await control.info()).models_dir)
    except NothingRunning:
        return default_models_dir()


async def _users(models_dir: Path | None, state_dir: Path | None) -> tuple[Path, Mapping[str, list[str]]]:
    """The folder of models, and the names of the Models that use each copy, by key."""
    from flexinfer.storage import copies

    root = await _root(models_dir, state_dir)
    users: dict[str, list[str]] = {}
    for name, model in sorted((await _models(state_dir)).items()):
        fetch = _fetch(model, root)
        request = copies.read_request(root, fetch.request) if fetch is not None else None
        if request is not None:
            users.setdefault(request.key, []).append(name)
    return root, users


async def _models(state_dir: Path | None) -> dict[str, Any]:
    from flexinfer.api import codec
    from flexinfer.cli import manifests
    from flexinfer.errors import NothingRunning
    from flexinfer.kube.store import MODELS
    from flexinfer.local.control import ControlClient
    from flexinfer.local.state import State

    state = State.locate(state_dir)
    found = {model.metadata.name: model for model in manifests.read(manifests.kept(state))}
    try:
        async with ControlClient(state) as control:
            listed = [codec.from_object(obj) for obj in (await control.store().list(MODELS)).items]
    except NothingRunning:
        listed = []
    return found | {model.metadata.name: model for model in listed}


def _fetch(model: Model, root: Path) -> Fetch | None:
    from flexinfer.errors import InvalidField
    from flexinfer.local.artifacts import Artifacts, Places

    try:
        return Artifacts(Places(models_dir=root)).fetch(model)
    except InvalidField:
        return None
