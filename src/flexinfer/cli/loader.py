"""`flexinfer loader fetch SOURCE`: bring a model's files below a folder; what `up` and Jobs run.

Stdout carries one JSON object a line:

    {"event": "progress", "done": 123, "total": 456}            bytes; at least one a second while it waits
    {"event": "verifying", "file": "model.gguf"}
    {"event": "done", "path": "/abs/folder", "file": "/abs/main.gguf or empty", "mmproj": "", "bytes": 456,
     "key": "…", "commit": "…"}
    {"event": "failed", "reason": "CamelCase", "message": "…", "retryAfterS": 15.0 or null}

Exit code 0 after `done`, 1 after `failed`.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

if TYPE_CHECKING:
    from types import FrameType

    from flexinfer.loader.fetch import Wanted


@click.group("loader")
def command() -> None:
    """Move the files of models: what `up` runs as child processes."""


@command.command("fetch")
@click.argument("source")
@click.option(
    "--root",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the models (--models-dir).",
)
@click.option("--revision", default="", help="Branch, tag or commit. [default: that of SOURCE, or main]")
@click.option("--reads", type=click.Choice(["gguf", "checkpoint"]), default="gguf", show_default=True)
@click.option("--gguf-file", default="", help="File to load, where the repository has several models.")
@click.option("--mmproj", default="", help="Vision projector, a file of the repository.")
@click.option("--allow", multiple=True, help="Pattern of files to take; repeatable.")
@click.option("--ignore", multiple=True, help="Pattern of files to leave out; repeatable.")
@click.option(
    "--token-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File with the hub's token. [default: HF_TOKEN]",
)
@click.option("--refresh", is_flag=True, help="Ask the hub whether the revision has moved.")
def fetch(source: str, root: Path, token_file: Path | None, refresh: bool, **options: Any) -> None:
    """Fetch HF://org/name[@revision] below --root, whole and verified; print events as JSON lines."""
    from flexinfer.loader.failures import FetchFailed
    from flexinfer.loader.fetch import fetch as run

    signal.signal(signal.SIGTERM, _interrupt)
    wanted = _wanted(source, **options)
    try:
        ready = run(wanted, root.absolute(), _tell, token_file=token_file, refresh=refresh)
    except FetchFailed as failure:
        _failed(failure.reason, failure.message, failure.retry_after_s)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _failed("Interrupted", "the download was ended; what has arrived is kept", None)
    _tell(
        {
            "event": "done",
            "path": str(ready.folder),
            "file": str(ready.main or ""),
            "mmproj": str(ready.mmproj or ""),
            "bytes": ready.size_bytes,
            "key": ready.key,
            "commit": ready.commit,
        }
    )


def _wanted(source: str, *, revision: str, reads: Any, gguf_file: str, mmproj: str, allow: Any, ignore: Any) -> Wanted:
    from flexinfer.artifacts import files
    from flexinfer.artifacts import source as sources
    from flexinfer.errors import InvalidField, InvalidManifest
    from flexinfer.loader.fetch import Wanted

    try:
        parsed = sources.parse(source)
        if not isinstance(parsed, sources.HuggingFace):
            raise InvalidField("SOURCE", source, "HF://org/name or HF://org/name@revision")
        if revision and parsed.revision and revision != parsed.revision:
            raise InvalidField("--revision", revision, f"the revision of SOURCE, {parsed.revision}, or none")
    except InvalidField as error:
        raise InvalidManifest((error,)) from error
    choice = files.Choice(reads=reads, gguf_file=gguf_file, mmproj=mmproj, allow=tuple(allow), ignore=tuple(ignore))
    return Wanted(parsed.repository, revision or parsed.revision, choice)


def _tell(event: dict[str, Any]) -> None:
    import msgspec

    try:
        sys.stdout.buffer.write(msgspec.json.encode(event) + b"\n")
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        # `up` is gone. What has arrived is kept for the next one.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _failed(reason: str, message: str, retry_after_s: float | None) -> NoReturn:
    _tell({"event": "failed", "reason": reason, "message": message, "retryAfterS": retry_after_s})
    sys.exit(1)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
