"""`flexinfer migrate`: ModelDeployments in, Models out; nothing has to run."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from flexinfer.api.kinds import Kept
    from flexinfer.errors import InvalidField


@click.command("migrate")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
def command(files: tuple[str, ...]) -> None:
    """Print the Models (ai.flexinfer/v1alpha2) that the ModelDeployments of FILE (`-` is the standard input) become.

    A Model among them is printed as it is. What a Model has no place for is told on the standard error, as comments.
    Exit code 2, and nothing is printed, if an object would be refused or no Model can be made of it.

    In a cluster delete the ModelDeployment before you apply its Model: the one that it made goes with it.
    """
    from flexinfer.api import codec
    from flexinfer.cli import validate
    from flexinfer.errors import InvalidField, InvalidManifest

    texts, unreadable = validate.read(files)
    errors: list[InvalidField] = list(unreadable)
    made: list[tuple[str, list[str]]] = []
    try:
        for file, kept in codec.decode_located(texts):
            made.append(_migrated(kept, file, errors))
    except InvalidManifest as refused:
        errors += refused.errors
    if not errors and not made:
        errors.append(InvalidField("(file)", "", "at least one ModelDeployment", files[0]))
    for error in errors:
        click.echo(f"{error.place}{error}", err=True)
    if errors:
        sys.exit(2)
    for _, lost in made:
        for line in lost:
            click.echo(f"# {line}", err=True)
    click.echo("---\n".join(text for text, _ in made), nl=False)


def _migrated(kept: Kept, file: str, errors: list[InvalidField]) -> tuple[str, list[str]]:
    """The manifest of the Model, and what got lost on the way."""
    from flexinfer.api import codec, schema
    from flexinfer.api.v1alpha1.conversion import convert
    from flexinfer.api.v1alpha2.model import Model
    from flexinfer.errors import InvalidField

    if isinstance(kept, Model):
        return schema.to_yaml(codec.to_object(kept)), []
    found = convert(kept)
    errors += (InvalidField(wrong.path, wrong.value, f"{wrong.expected} ({kept.key})", file) for wrong in found.wrong)
    lost = [f"{kept.key}: {path} is left out: it names an object that does not act yet" for path in found.not_yet]
    lost += [f"{kept.key}: {path} is left out: {why}" for path, why in found.ignored.items()]
    if kept.spec.backend is None:
        lost.append(f"{kept.key}: no backend was named: spec.image is left out, an installation may have set one")
    return schema.to_yaml(codec.to_object(found.model)), lost
