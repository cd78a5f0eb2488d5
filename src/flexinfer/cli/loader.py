"""`flexinfer loader fetch|check|stage`: bring a model's files to a folder; what `up`, Jobs and init containers run.

Stdout carries one JSON object a line:

    {"event": "progress", "done": 123, "total": 456}            bytes; at least one a second while it waits
    {"event": "verifying", "file": "model.gguf"}
    {"event": "done", "path": "/abs/folder", "file": "/abs/main.gguf or empty", "mmproj": "", "bytes": 456,
     "key": "…", "commit": "…"}
    {"event": "failed", "reason": "CamelCase", "message": "…", "retryAfterS": 15.0 or null}

Exit code 0 after `done`, 1 after `failed`. With `--result FILE` the last event is also written there, as a pod's
termination message, and the exit code is 3 where trying again at once cannot help: a Job then gives up.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

if TYPE_CHECKING:
    from types import FrameType

    from flexinfer.loader.fetch import Wanted

AGAIN, HOPELESS = 1, 3
_ENDED = "Interrupted"
MOST_MESSAGE = 2000
"""A node keeps 4096 bytes of a termination message."""

_reads = click.option("--reads", type=click.Choice(["gguf", "checkpoint"]), default="gguf", show_default=True)
_gguf_file = click.option("--gguf-file", default="", help="File to load, where there are several models.")
_result = click.option(
    "--result", type=click.Path(path_type=Path, dir_okay=False), help="File that gets the last event."
)


@click.group("loader")
def command() -> None:
    """Move the files of models: what `up`, Jobs and init containers run."""


@command.command("fetch")
@click.argument("source")
@click.option(
    "--root",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the models (--models-dir).",
)
@click.option("--revision", default="", help="Branch, tag or commit. [default: that of SOURCE, or main]")
@_reads
@_gguf_file
@click.option("--mmproj", default="", help="Vision projector, a file of the repository.")
@click.option("--allow", multiple=True, help="Pattern of files to take; repeatable.")
@click.option("--ignore", multiple=True, help="Pattern of files to leave out; repeatable.")
@click.option(
    "--token-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File with the hub's token. [default: HF_TOKEN]",
)
@click.option("--refresh", is_flag=True, help="Ask the hub whether the revision has moved.")
@_result
def fetch(source: str, root: Path, token_file: Path | None, refresh: bool, result: Path | None, **options: Any) -> None:
    """Fetch HF://org/name[@revision] or ollama://name[:tag] below --root, whole and verified; print JSON lines."""
    from flexinfer.loader.fetch import fetch as run

    wanted = _wanted(source, **options)

    def work() -> dict[str, Any]:
        ready = run(wanted, root.absolute(), _tell, token_file=token_file, refresh=refresh)
        return {
            "path": str(ready.folder),
            "file": str(ready.main or ""),
            "mmproj": str(ready.mmproj or ""),
            "bytes": ready.size_bytes,
            "key": ready.key,
            "commit": ready.commit,
        }

    _run(work, result)


@command.command("check")
@click.argument("path", type=click.Path(path_type=Path))
@_reads
@_gguf_file
@_result
def check(path: Path, reads: Any, gguf_file: str, result: Path | None) -> None:
    """Look whether the model at PATH is there and can be opened; write nothing but events."""
    from flexinfer.artifacts.files import Choice
    from flexinfer.loader import check as checks

    def work() -> dict[str, Any]:
        found = checks.check(path, Choice(reads=reads, gguf_file=gguf_file))
        return {"path": str(path), "file": str(path / found.file) if found.file else "", "bytes": found.bytes}

    _run(work, result)


@command.command("stage")
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
@_result
def stage(source: Path, target: Path, result: Path | None) -> None:
    """Bring the folder of a copy, SOURCE, to TARGET, for example into memory."""
    from flexinfer.loader.stage import stage as run

    _run(lambda: {"path": str(target), "bytes": run(source, target, _tell)}, result)


def _run(work: Callable[[], dict[str, Any]], result: Path | None) -> None:
    from flexinfer.loader.failures import FetchFailed

    signal.signal(signal.SIGTERM, _interrupt)
    try:
        done = work()
    except FetchFailed as failure:
        _failed(failure.reason, failure.message, failure.retry_after_s, result)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _failed(_ENDED, "the work was ended; what has arrived is kept", None, result)
    _tell({"event": "done", **done}, result)


def _wanted(source: str, *, revision: str, reads: Any, gguf_file: str, mmproj: str, allow: Any, ignore: Any) -> Wanted:
    from flexinfer.artifacts import files
    from flexinfer.artifacts import source as sources
    from flexinfer.errors import InvalidField, InvalidManifest
    from flexinfer.loader.fetch import Wanted

    try:
        parsed = sources.parse(source)
        if isinstance(parsed, sources.Ollama):
            return Wanted(f"{parsed.namespace}/{parsed.name}", parsed.tag, files.Choice(reads="registry"))
        if not isinstance(parsed, sources.HuggingFace):
            raise InvalidField("SOURCE", source, "HF://org/name, HF://org/name@revision or ollama://name:tag")
        if revision and parsed.revision and revision != parsed.revision:
            raise InvalidField("--revision", revision, f"the revision of SOURCE, {parsed.revision}, or none")
    except InvalidField as error:
        raise InvalidManifest((error,)) from error
    choice = files.Choice(reads=reads, gguf_file=gguf_file, mmproj=mmproj, allow=tuple(allow), ignore=tuple(ignore))
    return Wanted(parsed.repository, revision or parsed.revision, choice)


def _tell(event: dict[str, Any], result: Path | None = None) -> None:
    import msgspec

    line = msgspec.json.encode(event)
    if result is not None:
        try:
            result.write_bytes(line)
        except OSError as error:
            click.echo(f"{result}: {error.strerror}", err=True)
    try:
        sys.stdout.buffer.write(line + b"\n")
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        # `up` is gone. What has arrived is kept for the next one.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _failed(reason: str, message: str, retry_after_s: float | None, result: Path | None) -> NoReturn:
    said = message if len(message) <= MOST_MESSAGE else f"{message[:MOST_MESSAGE]} …"
    _tell({"event": "failed", "reason": reason, "message": said, "retryAfterS": retry_after_s}, result)
    sys.exit(HOPELESS if result is not None and retry_after_s is None and reason != _ENDED else AGAIN)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
