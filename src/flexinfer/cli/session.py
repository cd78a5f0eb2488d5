"""What the commands that speak to a running `up` share: the state directory option, the connection, the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import click

from flexinfer.api.meta import ObjectKey

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

NAMESPACE = "default"
"""Local mode has one namespace."""


def state_dir_option(command: F) -> F:
    return click.option(
        "--state-dir",
        type=click.Path(path_type=Path, file_okay=False),
        default=None,
        help="Which `up` to speak to. Default: $XDG_STATE_HOME/flexinfer, else ~/.local/state/flexinfer.",
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


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine; Ctrl-C ends it with the usual exit code."""
    try:
        return asyncio.run(main)
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def key(name: str) -> ObjectKey:
    return ObjectKey(NAMESPACE, name)
