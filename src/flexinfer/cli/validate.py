"""`flexinfer validate`: check manifests; nothing has to run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flexinfer.cli import session

if TYPE_CHECKING:
    from flexinfer.api.v1alpha2.model import Model
    from flexinfer.errors import InvalidField


@click.command("validate")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@session.output_option
def command(files: tuple[str, ...], output: str) -> None:
    """Check manifests (YAML or JSON, several documents each; `-` is the standard input).

    Every error is told at once. Exit code 2 if anything would be refused. A problem is what would be taken and not
    work: a setting that the backend does not know, or a name that another Model has.
    """
    from flexinfer.api import codec
    from flexinfer.errors import InvalidManifest

    models: list[Model] = []
    errors: tuple[InvalidField, ...] = ()
    texts, unreadable = _read(files)
    try:
        models = codec.decode_files(texts)
    except InvalidManifest as error:
        errors = error.errors
    errors = (*unreadable, *errors)
    if not errors and not models:
        errors = (_nothing(files),)
    if output == "json":
        click.echo(_json(models, errors))
    else:
        _print(models, errors)
    if errors:
        sys.exit(2)


def _read(files: tuple[str, ...]) -> tuple[dict[str, bytes], list[InvalidField]]:
    from flexinfer.api import documents
    from flexinfer.errors import InvalidField

    texts: dict[str, bytes] = {}
    errors: list[InvalidField] = []
    for file in files:
        try:
            with click.open_file(file, "rb") if file == "-" else Path(file).open("rb") as stream:
                # One byte more than is allowed is enough to be told so.
                texts[file] = stream.read(documents.MAX_BYTES + 1)
        except OSError as error:
            errors.append(InvalidField("(file)", error.strerror or "", "a file that can be read", file))
    return texts, errors


def _nothing(files: tuple[str, ...]) -> InvalidField:
    from flexinfer.errors import InvalidField

    return InvalidField("(file)", "", "at least one Model", files[0])


def _print(models: list[Model], errors: tuple[InvalidField, ...]) -> None:
    for error in errors:
        click.echo(f"{error.place}{error}", err=True)
    for model, found in () if errors else _problems(models):
        click.echo(f"{model.key}: ok")
        for problem in found:
            click.echo(f"  problem: {problem}")
        if dormant := _without_effect(model):
            click.echo(f"  no effect yet: {', '.join(dormant)}")


def _problems(models: list[Model]) -> list[tuple[Model, list[str]]]:
    """What each Model's conditions would say."""
    from flexinfer import backends
    from flexinfer.lifecycle.modelnames import NameTable, conflict_message, further_names

    tables: dict[str, NameTable] = {}
    for model in models:
        tables.setdefault(model.key.namespace, NameTable()).put(model.key.name, further_names(model))
    told = []
    for model in models:
        found = [str(error) for error in backends.check_config(model)]
        conflicts = tables[model.key.namespace].conflicts(model.key.name)
        found += [conflict_message(conflicts)] if conflicts else []
        told.append((model, found))
    return told


def _without_effect(model: Model) -> tuple[str, ...]:
    from flexinfer.api import defaults

    return defaults.not_yet_effective(model.spec)


def _json(models: list[Model], errors: tuple[InvalidField, ...]) -> str:
    import msgspec

    found: dict[str, Any] = {
        "valid": not errors,
        "models": [str(model.key) for model in models],
        "errors": [
            {"file": error.file, "path": error.path, "value": error.value, "expected": error.expected}
            | ({} if error.line is None else {"line": error.line})
            for error in errors
        ],
        "problems": [
            {"model": str(model.key), "problem": problem} for model, found in _problems(models) for problem in found
        ],
        "withoutEffect": [
            {"model": str(model.key), "path": path} for model in models for path in _without_effect(model)
        ],
    }
    return msgspec.json.encode(found, enc_hook=repr).decode()
