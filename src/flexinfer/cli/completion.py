"""`flexinfer completion SHELL`: the lines that make a shell complete commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command("completion", short_help="Print the completion script of a shell.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the completion script of SHELL.

    For bash, put this into ~/.bashrc: eval "$(flexinfer completion bash)"
    """
    from flexinfer.cli import flexinfer

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(flexinfer, {}, "flexinfer", "_FLEXINFER_COMPLETE").source())
