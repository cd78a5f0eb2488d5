"""`flexinfer key [NAME]`: a new API key, and the line for the key file that knows only its hash."""

from __future__ import annotations

import click


@click.command("key", short_help="Make an API key, and the line of the key file for it.")
@click.argument("name", default="default")
def command(name: str) -> None:
    """Make an API key for NAME.

    The key goes to its user and is not kept; the line goes into the file of `flexinfer up --api-key-file`.
    """
    from flexinfer.api import apikeys
    from flexinfer.proxy import keys

    key = keys.new_key()
    line = apikeys.line(name, key)
    try:
        keys.parse(line)
    except keys.BadKeyFile:
        raise click.BadParameter(f"{name!r}: expected letters, digits and . _ @ -", param_hint="NAME") from None
    click.echo(f"key:  {key}")
    click.echo(f"line: {line}")
