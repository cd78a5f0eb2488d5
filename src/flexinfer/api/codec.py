"""Documents <-> typed kinds.

`decode` and `decode_files` judge what a person wrote: every error at once, unknown fields included.
`from_object`, and its like for the other kinds, read what a store holds, fast, and pass over fields that a
newer version wrote.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec

from flexinfer.api import admission, documents, kinds
from flexinfer.api.documents import Document
from flexinfer.api.kinds import Kept
from flexinfer.api.meta import ObjectKey
from flexinfer.api.quantity import Duration, Quantity
from flexinfer.api.v1alpha1.modeldeployment import ModelDeployment
from flexinfer.api.v1alpha2.model import Model
from flexinfer.errors import InvalidField, InvalidManifest

T = TypeVar("T")

_EXACT_TIMES = frozenset({"lastActiveTime"})
"""Written with microseconds: two requests within a second are told apart."""

_GROUPS = (
    ("spec", "serverless"),
    ("spec", "benchmark"),
    ("spec", "cache", "compilationCache"),
    ("spec", "cache", "flashLoader"),
    ("spec", "cache"),
    ("spec", "resources"),
    ("spec", "kvCache"),
    ("spec", "capabilities"),
    ("metadata",),
    ("status",),
)
"""Objects that mean the same when they are empty and when they are absent; `gpu: {}` and `litellm: {}` do not."""


def decode(obj: Mapping[str, Any], *, file: str | None = None) -> Kept:
    """The object that a person wrote, of any kind. A `status` in it is dropped, as an API server does.

    Raises InvalidManifest with everything that is wrong, in the order of the fields.
    """
    written = {name: value for name, value in obj.items() if name != "status"}
    errors = admission.admit(written)
    if errors:
        raise InvalidManifest(tuple(_at(error, file) for error in errors))
    pruned = admission.prune(written)
    return deployment_from_object(pruned) if kinds.of(obj) is kinds.MODEL_DEPLOYMENT else from_object(pruned)


def decode_files(texts: Mapping[str, str | bytes]) -> list[Kept]:
    """The objects of several files, YAML or JSON, by file name.

    Raises InvalidManifest with all errors of all documents; one name used twice is an error too.
    """
    return [found for _, found in decode_located(texts)]


def decode_located(texts: Mapping[str, str | bytes]) -> list[tuple[str, Kept]]:
    """`decode_files`, each with the name of its file."""
    decoded: list[tuple[str, Kept]] = []
    errors: list[InvalidField] = []
    first: dict[ObjectKey, Document] = {}
    for file, text in texts.items():
        try:
            found = documents.parse(text, file)
        except InvalidManifest as error:
            errors += error.errors
            continue
        for document in found:
            wrong = _twice(document, first)
            try:
                decoded.append((file, decode(document.object, file=file)))
            except InvalidManifest as error:
                wrong += error.errors
            line = document.line if len(found) > 1 else None
            errors += (_at(field, file, line) for field in wrong)
    if errors:
        raise InvalidManifest(tuple(errors))
    return decoded


def _twice(document: Document, first: dict[ObjectKey, Document]) -> list[InvalidField]:
    """One name for two objects; of whatever kind, since a ModelDeployment makes a Model of its name."""
    metadata = document.object.get("metadata")
    name = metadata.get("name") if isinstance(metadata, Mapping) else None
    if not isinstance(metadata, Mapping) or not isinstance(name, str) or not name:
        return []
    key = ObjectKey(str(metadata.get("namespace") or "default"), name)
    before = first.setdefault(key, document)
    if before is document:
        return []
    where = f"{before.file} line {before.line}" if before.file else f"line {before.line}"
    expected = f"a name that no other Model has: it is also in {where}"
    return [InvalidField("metadata.name", name, expected)]


def _at(error: InvalidField, file: str | None, line: int | None = None) -> InvalidField:
    return InvalidField(error.path, error.value, error.expected, file or None, line)


def from_object(obj: Mapping[str, Any]) -> Model:
    """A Model out of a store. Unknown fields are passed over. Raises InvalidField where it is no Model at all."""
    return _converted(obj, Model)


def deployment_from_object(obj: Mapping[str, Any]) -> ModelDeployment:
    """`from_object` for a ModelDeployment."""
    return _converted(obj, ModelDeployment)


def _converted(obj: Mapping[str, Any], kind: type[T]) -> T:
    try:
        return msgspec.convert(obj, kind, dec_hook=_from_builtin)
    except msgspec.ValidationError as error:
        raise _invalid(error) from error


def to_object(kept: Kept) -> dict[str, Any]:
    """The object as an API server keeps it: what equals its default is left out."""
    written = _encode(kept)
    for path in _GROUPS:
        _drop_empty(written, path)
    head: dict[str, Any] = {"apiVersion": kept.api_version, "kind": kept.kind}
    return head | {name: written[name] for name in ("metadata", "spec", "status") if name in written}


def _drop_empty(written: dict[str, Any], path: tuple[str, ...]) -> None:
    *parents, last = path
    node = written
    for name in parents:
        node = node.get(name, {})
    if node.get(last) == {}:
        del node[last]


def encode_status(status: msgspec.Struct) -> dict[str, Any]:
    """The status as JSON: times in UTC, whole seconds but for `lastActiveTime`."""
    return _encode(status)


def _encode(value: msgspec.Struct) -> dict[str, Any]:
    built = _times(msgspec.to_builtins(value, enc_hook=str, builtin_types=(datetime,)), "")
    assert isinstance(built, dict)
    return built


def _times(value: Any, name: str) -> Any:
    if isinstance(value, dict):
        return {key: _times(item, key) for key, item in value.items()}
    if isinstance(value, list):
        return [_times(item, name) for item in value]
    if isinstance(value, datetime):
        return format_time(value, exact=name in _EXACT_TIMES)
    return value


def format_time(at: datetime, *, exact: bool = False) -> str:
    """RFC 3339 with `Z`: `2026-01-31T12:00:00Z`; microseconds only where `exact` and not zero."""
    utc = at.astimezone(UTC).replace(tzinfo=None)
    return utc.isoformat(timespec="auto" if exact else "seconds") + "Z"


def _from_builtin(wanted: type, value: Any) -> Any:
    if wanted is Quantity:
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise ValueError("a quantity such as 500m, 8Gi or 2")
        return Quantity(str(value))
    if wanted is Duration:
        if not isinstance(value, str):
            raise ValueError("a duration with its unit, such as 90s, 5m or 1h30m")
        return Duration(value)
    raise NotImplementedError(wanted)


def _invalid(error: msgspec.ValidationError) -> InvalidField:
    """msgspec tells the place as ` - at `$.spec.gpu``."""
    message, _, place = str(error).partition(" - at `$")
    return InvalidField(place.rstrip("`").lstrip(".") or "(object)", None, message)
