"""Manifests as files: read what the user names, keep what `apply` and `run` add."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from flexinfer import logs
from flexinfer.api import codec, documents
from flexinfer.api.kinds import Kept
from flexinfer.api.meta import ObjectKey
from flexinfer.api.v1alpha1.conversion import convert
from flexinfer.api.v1alpha2.model import Model
from flexinfer.api.wellknown import ANNOTATION_MANIFEST_FILE
from flexinfer.cli.session import NAMESPACE
from flexinfer.errors import FlexInferError, InvalidField, InvalidManifest, NotFound
from flexinfer.kube.store import MODELS, ObjectStore
from flexinfer.local.state import State

log = logs.get("manifests")

GOING_S = 60.0


def read(files: Sequence[Path], given: bytes | None = None) -> list[Model]:
    """The Models of all files. Raises InvalidManifest with every error at once.

    `-` is standard input, or `given` where that has been read already.
    """
    return [model for _, model in _located(files, given)]


def objects(files: Sequence[Path], given: bytes | None = None, *, marked: bool = True) -> list[dict[str, Any]]:
    """The same as local mode stores them, each marked with the file it comes from (standard input is none)."""
    found = []
    for file, model in _located(files, given):
        obj = namespaced(codec.to_object(model))
        if marked and file != "-":
            annotations = {
                **obj["metadata"].get("annotations", {}),
                ANNOTATION_MANIFEST_FILE: str(Path(file).absolute()),
            }
            obj["metadata"]["annotations"] = annotations
        found.append(obj)
    return found


def check_free(obj: dict[str, Any] | None) -> None:
    """Raises FlexInferError for a stored Model that only its file may change."""
    annotations = obj["metadata"].get("annotations", {}) if obj is not None else {}
    file = annotations.get(ANNOTATION_MANIFEST_FILE)
    if file and obj is not None:
        raise FlexInferError(f"model/{obj['metadata']['name']} comes from {file}: change it there")


def _located(files: Sequence[Path], given: bytes | None) -> list[tuple[str, Model]]:
    texts: dict[str, str | bytes] = {}
    errors: list[InvalidField] = []
    for file in files:
        try:
            if str(file) == "-":
                texts["-"] = sys.stdin.read() if given is None else given
            else:
                with file.open("rb") as opened:
                    # A model by mistake is larger than memory; one byte too many is enough to be told so.
                    texts[str(file)] = opened.read(documents.MAX_BYTES + 1)
        except OSError as error:
            errors.append(InvalidField("file", str(file), f"a file that can be read ({error.strerror})", str(file)))
    try:
        models = [(file, _model(kept, file, errors)) for file, kept in codec.decode_located(texts)]
    except InvalidManifest as manifest:
        raise InvalidManifest((*errors, *manifest.errors)) from None
    if files and not models and not errors:
        errors.append(InvalidField("(file)", "", "at least one Model", str(files[0])))
    if errors:
        raise InvalidManifest(tuple(errors))
    return models


def _model(kept: Kept, file: str, errors: list[InvalidField]) -> Model:
    """The Model; that of a ModelDeployment as the operator would make it. What it cannot be is added to `errors`."""
    if isinstance(kept, Model):
        return kept
    made = convert(kept)
    errors += (InvalidField(wrong.path, wrong.value, wrong.expected, file) for wrong in made.wrong)
    if lost := (*made.not_yet, *made.ignored):
        log.warning("fields of a ModelDeployment without effect", model=str(kept.key), fields=", ".join(lost))
    return made.model


def namespaced(obj: dict[str, Any]) -> dict[str, Any]:
    """The object as local mode stores it: in the one namespace, without a status."""
    metadata = {**obj["metadata"], "namespace": NAMESPACE}
    return {"apiVersion": obj["apiVersion"], "kind": obj["kind"], "metadata": metadata, "spec": obj["spec"]}


async def find(store: ObjectStore, key: ObjectKey) -> dict[str, Any] | None:
    """The Model as it is stored."""
    try:
        return await store.get(MODELS, key)
    except NotFound:
        return None


async def find_alive(store: ObjectStore, key: ObjectKey) -> dict[str, Any] | None:
    """The same once one that is being deleted has gone: what is written to that one goes with it."""
    try:
        async with asyncio.timeout(GOING_S):
            while (found := await find(store, key)) is not None and "deletionTimestamp" in found["metadata"]:
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise FlexInferError(f"model/{key.name} is still being deleted: its open requests have their grace") from None
    return found


def kept(state: State) -> tuple[Path, ...]:
    """What earlier calls of `apply` and `run` have kept."""
    return tuple(sorted(state.manifests_dir.glob("*.yaml"))) if state.manifests_dir.is_dir() else ()


def keep(state: State, obj: dict[str, Any]) -> Path:
    """Write a manifest to `<state-dir>/manifests`, whole or not at all."""
    path = state.manifest(obj["metadata"]["name"])
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(yaml.safe_dump(obj, sort_keys=False, allow_unicode=True), "utf-8")
    temporary.replace(path)
    return path


def forget(state: State, name: str) -> None:
    state.manifest(name).unlink(missing_ok=True)
