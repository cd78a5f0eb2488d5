"""Who set which field: `metadata.managedFields` through creates, updates and applies."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from flexinfer.errors import Conflict, Invalid
from flexinfer.kube import fieldsets
from flexinfer.kube.fieldsets import FieldSet
from flexinfer.kube.merge import without_nulls
from flexinfer.kube.shapes import Shape
from flexinfer.kube.store import Object

# The server sets these, or they say which object is meant: nobody manages them.
_UNMANAGED: Final[FieldSet] = {
    "f:apiVersion": {},
    "f:kind": {},
    "f:metadata": {
        f"f:{name}": {}
        for name in (
            "creationTimestamp",
            "deletionGracePeriodSeconds",
            "deletionTimestamp",
            "generation",
            "managedFields",
            "name",
            "namespace",
            "resourceVersion",
            "selfLink",
            "uid",
        )
    },
}


class Writer(NamedTuple):
    """One entry of managedFields. `api_version` and `time` describe the write, not who it is."""

    manager: str
    operation: str
    subresource: str = ""


class Write(NamedTuple):
    """What a write needs to know besides the objects."""

    writer: Writer
    api_version: str
    time: str
    shape: Shape
    has_status: bool
    """The kind has a status subresource, so that a write owns either the status or the rest."""

    def scope(self, fields: FieldSet) -> FieldSet:
        fields = fieldsets.subtract(fields, _UNMANAGED)
        if self.writer.subresource == "status":
            return {name: below for name, below in fields.items() if name == "f:status"}
        return fieldsets.subtract(fields, {"f:status": {}}) if self.has_status else fields


def updated(old: Object, new: Object, write: Write) -> list[Any]:
    """managedFields after `old` became `new` by a create, an update or a patch."""
    changed = write.scope(fieldsets.changed(old, new, write.shape) or {})
    sets = {writer: fieldsets.existing(fields, new, write.shape) for writer, fields in _sets(old).items()}
    mine = sets.pop(write.writer, {})
    sets = {writer: fieldsets.subtract(fields, changed) for writer, fields in sets.items()}
    sets[write.writer] = fieldsets.union((mine, changed))
    return _entries(old, sets, write)


def applied(live: Object, config: Object, write: Write, *, force: bool) -> Object:
    """`live` after `config` was applied, managedFields included.

    Raises Conflict when another manager owns a field that the apply would change, and not `force`;
    Invalid when a keyed list names an item twice.
    """
    config = without_nulls(config)
    if twice := fieldsets.duplicates(config, write.shape):
        raise Invalid(f"list items with the same key at {', '.join(twice)}")
    sets = _sets(live)
    mine = write.scope(fieldsets.field_set(config, write.shape))
    merged = fieldsets.merge(live, config, write.shape)
    changed = write.scope(fieldsets.changed(live, merged, write.shape) or {})
    conflicts: list[str] = []
    for writer, fields in sets.items():
        if writer == write.writer:
            continue
        if contested := fieldsets.overlap(changed, fields):
            conflicts += [f"{writer.manager} ({writer.operation}) owns {path}" for path in fieldsets.paths(contested)]
            sets[writer] = fieldsets.subtract(fields, contested)
    if conflicts and not force:
        raise Conflict(f"apply by {write.writer.manager} failed: {'; '.join(conflicts)}")
    last = sets.get(write.writer, {})
    sets[write.writer] = mine
    merged = fieldsets.prune(merged, last, fieldsets.union([_KEPT, *sets.values()]), write.shape)
    sets = {writer: fieldsets.existing(fields, merged, write.shape) for writer, fields in sets.items()}
    merged.setdefault("metadata", {})["managedFields"] = _entries(live, sets, write)
    return merged  # type: ignore[no-any-return]


def kept(entries: list[Any], obj: Object, shape: Shape) -> list[Any]:
    """The entries without what admission took out of `obj`; one that owns nothing then goes."""
    return [
        {**entry, "fieldsV1": fields}
        for entry in entries
        if (fields := fieldsets.existing(entry["fieldsV1"], obj, shape))
    ]


_KEPT: Final[FieldSet] = {"f:apiVersion": {}, "f:kind": {}, "f:metadata": {}}


def _identity(entry: Object) -> Writer:
    return Writer(entry.get("manager", ""), entry.get("operation", ""), entry.get("subresource", ""))


def _sets(obj: Object) -> dict[Writer, FieldSet]:
    entries = obj.get("metadata", {}).get("managedFields", [])
    return {_identity(entry): entry.get("fieldsV1", {}) for entry in entries}


def _entries(old: Object, sets: dict[Writer, FieldSet], write: Write) -> list[Any]:
    """Entries in their old order, the writer's own last if it is new; those that own nothing go."""
    before = {_identity(entry): entry for entry in old.get("metadata", {}).get("managedFields", [])}
    entries = []
    for writer, fields in sets.items():
        if not fields:
            continue
        entry = before.get(writer)
        if entry is not None and entry.get("fieldsV1") == fields:
            entries.append(entry)
            continue
        entry = {
            "manager": writer.manager,
            "operation": writer.operation,
            "apiVersion": write.api_version,
            "time": write.time,
            "fieldsType": "FieldsV1",
            "fieldsV1": fields,
        }
        if writer.subresource:
            entry["subresource"] = writer.subresource
        entries.append(entry)
    return entries
