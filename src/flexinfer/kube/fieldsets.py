"""Sets of field paths in the form that `managedFields` has, and the merge that apply does with them.

A set is a tree: `f:NAME` is a field, `k:{"name":"x"}` the item of a keyed list, `v:"x"` a member of a
list that is a set; `{}` marks a path as a member, `.` marks one that has members below it too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, NamedTuple

from flexinfer.errors import Invalid
from flexinfer.kube.merge import copy_json
from flexinfer.kube.shapes import Shape

FieldSet = dict[str, Any]
SELF = "."


class _Child(NamedTuple):
    value: Any
    shape: Shape
    item: bool
    """An item of a list: a member by itself, besides its fields."""


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _children(value: Any, shape: Shape) -> dict[str, _Child] | None:
    """Path element -> what lies there; None where `value` is owned whole."""
    if isinstance(value, dict) and not shape.atomic:
        return {f"f:{name}": _Child(field, shape.child(name), False) for name, field in value.items()}
    if isinstance(value, list) and shape.keys:
        return {_item_key(item, shape): _Child(item, Shape(fields=shape.fields), True) for item in value}
    if isinstance(value, list) and shape.unique:
        return {f"v:{_canonical(item)}": _Child(item, Shape(), True) for item in value}
    return None


def _item_key(item: Any, shape: Shape) -> str:
    if not isinstance(item, dict):
        raise Invalid(f"items of a list keyed by {', '.join(shape.keys)} must be objects, not {item!r}")
    found = {**{name: shape.key_defaults[name] for name in shape.keys if name in shape.key_defaults}, **item}
    missing = [name for name in shape.keys if name not in found]
    if missing:
        raise Invalid(f"an item of a list keyed by {', '.join(shape.keys)} lacks {', '.join(missing)}")
    return f"k:{_canonical({name: found[name] for name in shape.keys})}"


def field_set(value: Any, shape: Shape) -> FieldSet:
    """Every path that `value` sets."""
    fields: FieldSet = {}
    for element, child in (_children(value, shape) or {}).items():
        below = field_set(child.value, child.shape)
        fields[element] = {SELF: {}, **below} if child.item and below else below
    return fields


def changed(old: Any, new: Any, shape: Shape) -> FieldSet | None:
    """The paths of `new` whose value is not the one in `old`; None where nothing differs."""
    if old == new:
        return None
    before, after = _children(old, shape), _children(new, shape)
    if after is None or before is None:
        return {SELF: {}, **below} if (below := field_set(new, shape)) else {}
    if not after:
        return {}
    fields: FieldSet = {}
    for element, child in after.items():
        if element in before:
            below_changed = changed(before[element].value, child.value, child.shape)
            if below_changed is not None:
                fields[element] = below_changed
        else:
            below = field_set(child.value, child.shape)
            fields[element] = {SELF: {}, **below} if child.item and below else below
    return fields or None


def union(sets: Iterable[FieldSet]) -> FieldSet:
    fields: FieldSet = {}
    for one in sets:
        fields = _join(fields, one)
    return fields


def _join(left: FieldSet, right: FieldSet) -> FieldSet:
    joined = dict(left)
    for element, below in right.items():
        if element not in joined:
            joined[element] = below
        elif joined[element] and below:
            joined[element] = _join(joined[element], below)
        elif joined[element] or below:
            joined[element] = {SELF: {}, **(joined[element] or below)}
    return joined


def overlap(mine: FieldSet, theirs: FieldSet) -> FieldSet:
    """The paths of `mine` that lie in `theirs`; one that replaces a whole subtree of theirs counts."""
    fields: FieldSet = {}
    for element in mine.keys() & theirs.keys():
        below, other = mine[element], theirs[element]
        if not below or (not other and SELF in below):
            fields[element] = {}
        elif other and (common := overlap(below, other)):
            fields[element] = common
    return fields


def subtract(fields: FieldSet, removed: FieldSet) -> FieldSet:
    left: FieldSet = {}
    for element, below in fields.items():
        if element not in removed:
            left[element] = below
        elif element != SELF and below and removed[element]:
            if rest := subtract(below, removed[element]):
                left[element] = rest
        elif not below and removed[element] and SELF not in removed[element]:
            left[element] = below
    return left


def existing(fields: FieldSet, value: Any, shape: Shape) -> FieldSet:
    """The paths of the set that `value` still has."""
    children = _children(value, shape) or {}
    kept: FieldSet = {}
    for element, below in fields.items():
        if element == SELF or (element in children and not below):
            kept[element] = below
        elif element in children:
            child = children[element]
            if rest := existing(below, child.value, child.shape):
                kept[element] = rest
    return kept


def merge(live: Any, applied: Any, shape: Shape) -> Any:
    """`live` with every field of `applied` set; what only `live` has stays."""
    if isinstance(live, dict) and isinstance(applied, dict) and not shape.atomic:
        merged = dict(live)
        for name, value in applied.items():
            merged[name] = merge(live[name], value, shape.child(name)) if name in live else copy_json(value)
        return merged
    old, new = _children(live, shape), _children(applied, shape)
    if not isinstance(live, list) or old is None or new is None:
        return copy_json(applied)
    items = [
        merge(child.value, new[element].value, child.shape) if element in new else child.value
        for element, child in old.items()
    ]
    return items + [copy_json(child.value) for element, child in new.items() if element not in old]


def prune(value: Any, given_up: FieldSet, owned: FieldSet, shape: Shape) -> Any:
    """`value` without the paths of `given_up` that nobody owns and below which nobody owns anything."""
    children = _children(value, shape)
    if children is None:
        return value
    # An item that stays keeps what tells it apart, whoever gave that up.
    identity: FieldSet = {f"f:{name}": {} for name in shape.keys}
    left: dict[str, Any] = {}
    for element, child in children.items():
        if element not in given_up:
            left[element] = child.value
        elif element in owned:
            left[element] = prune(child.value, given_up[element], {**identity, **owned[element]}, child.shape)
    if isinstance(value, dict):
        return {element.removeprefix("f:"): item for element, item in left.items()}
    return list(left.values())


def paths(fields: FieldSet, prefix: str = "") -> list[str]:
    """The members of the set as people write them: `.spec.containers[name="x"].image`."""
    found: list[str] = []
    for element, below in fields.items():
        if element == SELF:
            found.append(prefix)
            continue
        if element.startswith("f:"):
            path = f"{prefix}.{element.removeprefix('f:')}"
        elif element.startswith("k:"):
            keys = json.loads(element.removeprefix("k:"))
            path = prefix + "".join(f"[{name}={_canonical(value)}]" for name, value in keys.items())
        else:
            path = f"{prefix}[{element.removeprefix('v:')}]"
        found += paths(below, path) if below else [path]
    return sorted(found)


def duplicates(value: Any, shape: Shape, prefix: str = "") -> list[str]:
    """Paths of list items that have the same key as an earlier one."""
    children = _children(value, shape)
    if children is None:
        return []
    found = [prefix or "."] if isinstance(value, list) and len(children) != len(value) else []
    for element, child in children.items():
        found += duplicates(child.value, child.shape, f"{prefix}.{element.removeprefix('f:')}")
    return found
