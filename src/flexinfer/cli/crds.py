"""`flexinfer crds`: print the CustomResourceDefinitions."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("crds")
@click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write one file per kind into this folder instead.",
)
def command(folder: Path | None) -> None:
    """Print the CustomResourceDefinitions, ready for `kubectl apply -f -`."""
    from flexinfer.api import definitions

    files = definitions.crd_files()
    if folder is None:
        click.echo("---\n".join(files.values()), nl=False)
        return
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
