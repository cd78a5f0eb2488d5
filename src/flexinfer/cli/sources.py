"""Options that say where models come from: shared by the commands that start an `up` or fetch for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

_FILE = click.Path(path_type=Path, dir_okay=False)
_FOLDER = click.Path(path_type=Path, file_okay=False)


def token_option(command: F) -> F:
    return click.option(
        "--hf-token-file",
        type=_FILE,
        default=None,
        help="File with the Hugging Face token, read for each download. Default: HF_TOKEN.",
    )(command)


def models_dir_option(command: F) -> F:
    return click.option(
        "--models-dir",
        type=_FOLDER,
        default=None,
        help="The folder that file:///models/ names and downloads go to. Default: $XDG_CACHE_HOME/flexinfer/models.",
    )(command)


def options(command: F) -> F:
    """`downloads`, `hf_token_file`, `pvc`, `allow_root`."""
    for option in (
        click.option(
            "--allow-root",
            multiple=True,
            type=_FOLDER,
            help="Folder that file:// sources must lie in, links followed; repeatable. Default: anywhere.",
        ),
        click.option(
            "--pvc", multiple=True, metavar="NAME=DIR", help="Folder that stands for the claim of pvc://NAME/path."
        ),
        click.option(
            "--downloads", type=click.IntRange(min=1), default=2, show_default=True, help="Downloads at a time."
        ),
    ):
        command = option(command)
    return token_option(command)


def claims(pairs: tuple[str, ...]) -> dict[str, Path]:
    """The folders of `--pvc NAME=DIR`."""
    found: dict[str, Path] = {}
    for pair in pairs:
        name, equals, folder = pair.partition("=")
        if not name or not equals or not Path(folder).is_dir():
            raise click.BadParameter(f"{pair!r}: expected NAME=DIR with a folder that is there", param_hint="--pvc")
        found[name] = Path(folder).absolute()
    return found


def roots(folders: tuple[Path, ...]) -> tuple[Path, ...]:
    for folder in folders:
        if not folder.is_dir():
            raise click.BadParameter(f"{folder}: expected a folder that is there", param_hint="--allow-root")
    return tuple(folder.absolute() for folder in folders)


def token_file(path: Path | None) -> Path | None:
    if path is None:
        return None
    try:
        path.open("rb").close()
    except OSError as error:
        raise click.BadParameter(f"{path}: {error.strerror}", param_hint="--hf-token-file") from None
    return path.absolute()
