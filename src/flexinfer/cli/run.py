"""`flexinfer run SOURCE [PROMPT]`: a model without a manifest: write one, serve it, ask it something."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import click

from flexinfer.cli import session


@click.command("run", short_help="Serve one model without a manifest, and ask it something.")
@click.argument("source")
@click.argument("prompt", required=False)
@click.option("--name", default=None, help="Name of the model. Default: the last part of SOURCE.")
@click.option("--print", "only_print", is_flag=True, help="Only show the manifest.")
@session.state_dir_option
def command(source: str, prompt: str | None, name: str | None, only_print: bool, state_dir: Path | None) -> None:
    """Serve the model of SOURCE (a .gguf file or file:// URI) and stream its answer to PROMPT.

    The manifest is kept in <state-dir>/manifests. If no `up` runs, one is started in the background; it stays until
    `flexinfer down`.
    """
    obj = manifest(source, name, gpu=_has_gpu())
    if only_print:
        import yaml

        click.echo(yaml.safe_dump(obj, sort_keys=False), nl=False)
        return
    _check_file(source)
    session.run(_run(obj, prompt, state_dir))


def manifest(source: str, name: str | None = None, *, gpu: bool = False) -> dict[str, Any]:
    """The Model for a source. Raises InvalidManifest where there is no such source."""
    from flexinfer.api import codec
    from flexinfer.errors import InvalidField, InvalidManifest

    if "://" not in source:
        path = Path(source).expanduser()
        if path.suffix.lower() != ".gguf":
            expected = "a .gguf file or a file:// URI"
            raise InvalidManifest((InvalidField("source", source, expected),))
        # Without `..`, and without following links: the files of the hub's cache are links to names that say nothing.
        source = f"file://{os.path.abspath(path)}"  # noqa: PTH100
    if not source.startswith("file://"):
        raise InvalidManifest((InvalidField("source", source, "a .gguf file or a file:// URI"),))
    spec: dict[str, Any] = {"backend": "llamacpp", "source": source}
    if gpu:
        spec["gpu"] = {"vendor": "auto"}
    obj = {
        "apiVersion": "ai.flexinfer/v1alpha2",
        "kind": "Model",
        "metadata": {"name": name or default_name(source)},
        "spec": spec,
    }
    codec.decode(obj)
    return obj


def _check_file(source: str) -> None:
    """A path is looked at before anything is kept; what `file:///models/` names depends on the `up` that serves."""
    from flexinfer.errors import InvalidField, InvalidManifest

    if "://" not in source and not Path(source).expanduser().is_file():
        raise InvalidManifest((InvalidField("source", source, "a file that is there"),))


def default_name(source: str) -> str:
    """The last part of a source as a DNS-1123 label."""
    last = source.rstrip("/").rsplit("/", 1)[-1]
    stem = last[: -len(".gguf")] if last.lower().endswith(".gguf") else last
    return re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-")[:63].strip("-") or "model"


def _has_gpu() -> bool:
    from flexinfer.hardware.detect import detect

    return bool(detect().devices)


async def _run(obj: dict[str, Any], prompt: str | None, state_dir: Path | None) -> None:
    from flexinfer.cli import manifests
    from flexinfer.cli.chat import ask
    from flexinfer.cli.detach import start_detached
    from flexinfer.errors import NothingRunning
    from flexinfer.kube.store import MODELS
    from flexinfer.local.control import ControlClient
    from flexinfer.local.state import State

    state = State.locate(state_dir)
    obj = manifests.namespaced(obj)
    name = obj["metadata"]["name"]
    try:
        async with ControlClient(state) as control:
            await control.info()
            await control.store().apply(MODELS, obj, field_manager="flexinfer-apply", force=True)
        manifests.keep(state, obj)
    except NothingRunning:
        manifests.keep(state, obj)
        started = await start_detached(state, ["--port", "0"])
        click.secho(
            f"started `flexinfer up` at {started.proxy} (log: {started.log}); `flexinfer down` ends it", err=True
        )
    if prompt is not None:
        async with ControlClient(state) as control:
            await ask(control, name, [{"role": "user", "content": prompt}])
    else:
        click.echo(f"model {name} is served; ask it with: flexinfer chat {name}")
