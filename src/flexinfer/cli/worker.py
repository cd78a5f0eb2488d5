"""`flexinfer worker`: one of the processes of `up --workers N`; started by `up`, of no use by hand."""

from __future__ import annotations

import sys

import click


@click.command("worker")
def command() -> None:
    """Answer requests for the `up` that started it: settings and orders on stdin, reports on stdout."""
    from flexinfer.cli.workerprocess import serve

    if sys.stdin.isatty():
        raise click.UsageError("`up --workers N` starts workers; by hand there is nothing to do with one")
    sys.exit(serve())
