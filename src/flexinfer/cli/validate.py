"""`flexinfer validate`: check manifests; nothing has to run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from flexinfer.cli import session

if TYPE_CHECKING:
    from flexinfer.api.kinds import Kept
    from flexinfer.api.v1alpha2.model import Model
    from flexinfer.errors import InvalidField


@click.command("validate")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@session.output_option
def command(files: tuple[str, ...], output: str) -> None:
    """Check manifests (YAML or JSON, several documents each; `-` is the standard input).

    Every error is told at once. Exit code 2 if anything would be refused. A problem is what would be taken and not
    work: a setting that the backend does not know, a name that another Model has, or a ModelDeployment of which no
    Model can be made.
    """
    from flexinfer.api import codec
    from flexinfer.errors import InvalidManifest

    kept: list[Kept] = []
    errors: tuple[InvalidField, ...] = ()
    texts, unreadable = read(files)
    try:
        kept = codec.decode_files(texts)
    except InvalidManifest as error:
        errors = error.errors
    errors = (*unreadable, *errors)
    if not errors and not kept:
        errors = (_nothing(files),)
    judged = [_judged(one) for one in kept]
    if output == "json":
        click.echo(_json(judged, errors))
    else:
        _print(judged, errors)
    if errors:
        sys.exit(2)


def read(files: tuple[str, ...]) -> tuple[dict[str, bytes], list[InvalidField]]:
    """The texts of files by name (`-` is the standard input), and those that cannot be read."""
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


class _Judged(NamedTuple):
    kind: str
    model: Model
    wrong: tuple[str, ...] = ()
    without_effect: tuple[str, ...] = ()


def _judged(kept: Kept) -> _Judged:
    """The Model that an object is, or makes."""
    from flexinfer.api import defaults
    from flexinfer.api.v1alpha1 import conversion
    from flexinfer.api.v1alpha2.model import Model

    if isinstance(kept, Model):
        return _Judged(kept.kind, kept, (), defaults.not_yet_effective(kept.spec))
    made = conversion.convert(kept)
    lost = (*made.not_yet, *made.ignored)
    return _Judged(
        kept.kind, made.model, tuple(map(str, made.wrong)), (*lost, *defaults.not_yet_effective(made.model.spec))
    )


def _print(judged: list[_Judged], errors: tuple[InvalidField, ...]) -> None:
    for error in errors:
        click.echo(f"{error.place}{error}", err=True)
    for one, found in () if errors else _problems(judged):
        click.echo(f"{one.model.key}: ok")
        for problem in found:
            click.echo(f"  problem: {problem}")
        if one.without_effect:
            click.echo(f"  no effect yet: {', '.join(one.without_effect)}")


def _problems(judged: list[_Judged]) -> list[tuple[_Judged, list[str]]]:
    """What the conditions would say."""
    from flexinfer import backends
    from flexinfer.lifecycle.modelnames import NameTable, conflict_message, further_names

    tables: dict[str, NameTable] = {}
    for one in judged:
        tables.setdefault(one.model.key.namespace, NameTable()).put(one.model.key.name, further_names(one.model))
    told = []
    for one in judged:
        found = [*one.wrong, *map(str, backends.check_config(one.model))]
        conflicts = tables[one.model.key.namespace].conflicts(one.model.key.name)
        found += [conflict_message(conflicts)] if conflicts else []
        told.append((one, found))
    return told


def _json(judged: list[_Judged], errors: tuple[InvalidField, ...]) -> str:
    import msgspec

    found: dict[str, Any] = {
        "valid": not errors,
        "models": [str(one.model.key) for one in judged if one.kind == "Model"],
        "modelDeployments": [str(one.model.key) for one in judged if one.kind == "ModelDeployment"],
        "errors": [
            {"file": error.file, "path": error.path, "value": error.value, "expected": error.expected}
            | ({} if error.line is None else {"line": error.line})
            for error in errors
        ],
        "problems": [
            {"model": str(one.model.key), "problem": problem} for one, found in _problems(judged) for problem in found
        ],
        "withoutEffect": [{"model": str(one.model.key), "path": path} for one in judged for path in one.without_effect],
    }
    return msgspec.json.encode(found, enc_hook=repr).decode()
