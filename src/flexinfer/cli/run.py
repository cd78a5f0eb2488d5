"""`flexinfer run SOURCE [PROMPT]`: a model without a manifest: write one, serve it, ask it something."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import Any

import click

from flexinfer.cli import session, sources

EXPECTED = "a .gguf file, file:///path, HF://org/name[@revision], org/name or ollama://name:tag"


@click.command("run", short_help="Serve one model without a manifest, and ask it something.")
@click.argument("source")
@click.argument("prompt", required=False)
@click.option("--name", default=None, help="Name of the model. Default: the last part of SOURCE.")
@click.option("--gguf-file", default="", help="Which file, where the repository has several models.")
@click.option("--backend", default="", help="Engine to run it.  [default: by source]")
@sources.token_option
@click.option("--print", "only_print", is_flag=True, help="Only show the manifest.")
@session.state_dir_option
def command(
    source: str,
    prompt: str | None,
    name: str | None,
    gguf_file: str,
    backend: str,
    hf_token_file: Path | None,
    only_print: bool,
    state_dir: Path | None,
) -> None:
    """Serve the model of SOURCE and stream its answer to PROMPT.

    SOURCE is a .gguf file, file:///path, HF://org/name (or org/name) or ollama://name:tag.

    The manifest is kept in <state-dir>/manifests. If no `up` runs, one is started in the background; it stays until
    `flexinfer down`.
    """
    token = sources.token_file(hf_token_file)
    given, source = source, uri(source)
    backend = backend or backend_of(source, gguf_file, token)
    obj = manifest(source, name, backend=backend, gguf_file=gguf_file, gpu=_has_gpu())
    if only_print:
        import yaml

        click.echo(yaml.safe_dump(obj, sort_keys=False), nl=False)
        return
    _check_file(given)
    session.run(_run(obj, prompt, state_dir, token))


def uri(source: str) -> str:
    """The source as a manifest has it. Raises InvalidManifest for what is none that `run` takes."""
    from flexinfer.api import sourcegrammar
    from flexinfer.errors import InvalidField, InvalidManifest

    if "://" in source:
        if sourcegrammar.form_of(source) in ("file", "hf", "ollama"):
            return source
        raise InvalidManifest((InvalidField("source", source, EXPECTED),))
    path = Path(source).expanduser()
    if path.suffix.lower() == ".gguf":
        # Without `..`, and without following links: the files of the hub's cache are links to names that say nothing.
        whole = os.path.abspath(path)  # noqa: PTH100
        if not sourcegrammar.matches(f"file://{whole}"):
            link = f"ln -s {shlex.quote(whole)} ~/{re.sub('[^A-Za-z0-9._-]+', '-', path.name)}"
            expected = f"a path without spaces or shell characters; a link without them will do: {link}"
            raise InvalidManifest((InvalidField("source", whole, expected),))
        return f"file://{whole}"
    if sourcegrammar.matches(source) and not path.exists():
        return f"HF://{source}"
    raise InvalidManifest((InvalidField("source", source, EXPECTED),))


def _check_file(source: str) -> None:
    """A path is looked at before anything is kept; what `file:///models/` names depends on the `up` that serves."""
    from flexinfer.errors import InvalidField, InvalidManifest

    path = Path(source).expanduser()
    if "://" not in source and path.suffix.lower() == ".gguf" and not path.is_file():
        raise InvalidManifest((InvalidField("source", source, "a file that is there"),))


def backend_of(source: str, gguf_file: str = "", token_file: Path | None = None) -> str:
    """The engine for a source. Raises FetchFailed when the hub says that there is no such repository."""
    from flexinfer.api import sourcegrammar
    from flexinfer.artifacts import files
    from flexinfer.artifacts import source as grammar

    form = sourcegrammar.form_of(source)
    if form != "hf" or gguf_file:
        return "ollama" if form == "ollama" else "llamacpp"
    parsed = grammar.parse(source)
    assert isinstance(parsed, grammar.HuggingFace)
    listing = _listing(parsed.repository, parsed.revision, token_file)
    if listing is None:
        return "llamacpp" if "gguf" in parsed.name.lower() else "vllm"
    if not any(name.lower().endswith(".gguf") for name in listing):
        return "vllm"
    from flexinfer.errors import ArtifactError, FlexInferError

    try:
        files.choose(listing, files.Choice())
    except ArtifactError as error:
        said = str(error).replace("config.ggufFile", "--gguf-file")
        raise FlexInferError(f"{source}: {said}") from error
    return "llamacpp"


def _listing(repository: str, revision: str, token_file: Path | None) -> dict[str, int] | None:
    """Name -> bytes; None when the hub cannot be asked now, which the download will tell."""
    from flexinfer.loader.failures import FetchFailed
    from flexinfer.loader.hub import HubClient

    def never(_seconds: float) -> None:
        raise FetchFailed("HubUnavailable", "not now")

    try:
        found = HubClient(repository, token_file).listing(revision, never)
    except FetchFailed as failure:
        if failure.reason in ("HubUnavailable", "HubUnreachable", "RateLimited", "Offline"):
            return None
        raise
    return {name: file.size for name, file in found.files.items()}


def manifest(
    source: str, name: str | None = None, *, backend: str = "llamacpp", gguf_file: str = "", gpu: bool = False
) -> dict[str, Any]:
    """The Model for a source. Raises InvalidManifest."""
    from flexinfer.api import codec

    spec: dict[str, Any] = {"backend": backend, "source": source}
    if gguf_file:
        spec["config"] = {"ggufFile": gguf_file}
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


def default_name(source: str) -> str:
    """The last part of a source as a DNS-1123 label."""
    last = source.rstrip("/").rsplit("/", 1)[-1].partition("@")[0]
    stem = last[: -len(".gguf")] if last.lower().endswith(".gguf") else last
    return re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-")[:63].strip("-") or "model"


def _has_gpu() -> bool:
    from flexinfer.hardware.detect import detect

    return bool(detect().devices)


async def _run(obj: dict[str, Any], prompt: str | None, state_dir: Path | None, token: Path | None) -> None:
    from flexinfer.cli import manifests, progress
    from flexinfer.cli.chat import ask
    from flexinfer.cli.detach import start_detached
    from flexinfer.errors import NothingRunning
    from flexinfer.kube.store import MODELS
    from flexinfer.local.control import ControlClient
    from flexinfer.local.manifestfiles import FIELD_MANAGER
    from flexinfer.local.ports import is_free
    from flexinfer.local.state import State

    state = State.locate(state_dir)
    obj = manifests.namespaced(obj)
    name = obj["metadata"]["name"]
    try:
        async with ControlClient(state) as control:
            manifests.check_free(await manifests.find(control.store(), session.key(name)))
            await control.store().apply(MODELS, obj, field_manager=FIELD_MANAGER, force=True)
        manifests.keep(state, obj)
    except NothingRunning:
        manifests.keep(state, obj)
        port = session.DEFAULT_PORT if is_free(session.DEFAULT_PORT) else 0
        more = ["--hf-token-file", str(token)] if token else []
        started = await start_detached(state, ["--port", str(port), *more])
        click.secho(
            f"started `flexinfer up` at {started.proxy} (log: {started.log}); `{session.down(state_dir)}` ends it",
            err=True,
        )
    async with ControlClient(state) as control:
        model = await progress.downloaded(control, name)
        if model is not None and model.status.phase == "Failed":
            raise click.ClickException(f"{name}: {model.status.message}")
        if prompt is not None:
            await ask(control, name, [{"role": "user", "content": prompt}])
    if prompt is None:
        click.echo(f"model {name} is served; ask it with: flexinfer chat {name}")
