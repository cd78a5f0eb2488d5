"""Typed kind -> structural OpenAPI v3 schema.

Made from `msgspec.inspect` and the bounds beside the fields: everything inlined, every list, map and
text bounded, defaults written where they depend on nothing else. The tree that `structural` returns
also carries what `admission` says and runs (keys with `_`); `published` leaves that out.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import yaml
from msgspec import inspect

from flexinfer.api import bounds, quantity
from flexinfer.api.bounds import Bounds, Rule
from flexinfer.api.meta import ObjectMeta

Node = dict[str, Any]

MAX_INT = 2**53
"""What survives a passage through a float, as JSON readers do it."""
_LONGEST_DURATION = Rule(
    f"duration(self) <= duration('{quantity.MAX_DURATION_H}h')", f"a duration of at most {quantity.MAX_DURATION_H}h"
)


@functools.cache
def structural(kind: type[msgspec.Struct]) -> Node:
    """The schema of a kind. Shared: not to be changed."""
    return _struct(_info(kind))


def published(node: Mapping[str, Any]) -> Node:
    """A node as a CRD has it: rules as `x-kubernetes-validations`, nothing of our own."""
    out: Node = {key: _published_part(key, value) for key, value in node.items() if not key.startswith("_")}
    rules = node.get("_rules", ())
    if rules:
        out["x-kubernetes-validations"] = [{"rule": rule.rule, "message": f"expected {rule.message}"} for rule in rules]
    return out


def _published_part(key: str, value: Any) -> Any:
    if key == "properties":
        return {name: published(item) for name, item in value.items()}
    if key in ("items", "additionalProperties"):
        return published(value)
    return value


def rules(node: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Mapping[str, Any], Rule]]:
    """Every rule of a schema with the path and the node that it is attached to."""
    for rule in node.get("_rules", ()):
        yield path, node, rule
    for name, item in node.get("properties", {}).items():
        yield from rules(item, f"{path}.{name}" if path else name)
    if "items" in node:
        yield from rules(node["items"], f"{path}[]")
    if isinstance(node.get("additionalProperties"), dict):
        yield from rules(node["additionalProperties"], f"{path}{{}}")


def _info(kind: type[msgspec.Struct]) -> inspect.StructType:
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)
    return info


def _struct(info: inspect.StructType) -> Node:
    if info.cls is ObjectMeta:
        # The API server knows metadata by itself and lets no CRD describe it.
        return {"type": "object", "_metadata": True}
    properties = {field.encode_name: _field(field) for field in info.fields}
    node: Node = {"type": "object", "properties": properties}
    required = [field.encode_name for field in info.fields if field.required]
    if required:
        node["required"] = required
    rules = getattr(info.cls, "RULES", ())
    if rules:
        node["_rules"] = rules
    choices = getattr(info.cls, "CHOICES", ())
    if choices:
        node["_choices"] = choices
        node["allOf"] = [{"anyOf": list(choice.any_of)} for choice in choices]
    return node


def _field(field: inspect.Field) -> Node:
    node = _type(field.type)
    if field.default is not msgspec.NODEFAULT and field.default is not None and field.default != "":
        default = field.default
        node["default"] = str(default) if isinstance(default, quantity.Duration | quantity.Quantity) else default
    return node


def _type(info: inspect.Type) -> Node:
    description, limits = "", Bounds()
    while isinstance(info, inspect.Metadata | inspect.UnionType):
        if isinstance(info, inspect.Metadata):
            description = (info.extra_json_schema or {}).get("description", description)
            limits = bounds.of(info.extra) if info.extra else limits
            info = info.type
            continue
        present = [item for item in info.types if not isinstance(item, inspect.NoneType)]
        if len(present) > 1:
            return _described(_fraction(), description)
        info = present[0]
    return _described(_plain(info, limits), description)


def _described(node: Node, description: str) -> Node:
    return {"description": description} | node if description else node


def _plain(info: inspect.Type, limits: Bounds) -> Node:
    match info:
        case inspect.StructType():
            return _struct(info)
        case inspect.BoolType():
            return {"type": "boolean"}
        case inspect.IntType():
            return _number(info, {"type": "integer", "format": "int64", "maximum": MAX_INT})
        case inspect.FloatType():
            return _number(info, {"type": "number"})
        case inspect.StrType():
            return _text(limits)
        case inspect.LiteralType():
            return {"type": "string", "enum": list(info.values)}
        case inspect.DateTimeType():
            return {"type": "string", "format": "date-time", "maxLength": 64}
        case inspect.ListType():
            return _list(info, limits)
        case inspect.DictType():
            return _map(info, limits)
        case inspect.CustomType(cls=quantity.Duration):
            return _duration(limits)
        case inspect.CustomType(cls=quantity.Quantity):
            return _quantity()
    raise TypeError(f"no schema for {info}")


def _number(info: inspect.IntType | inspect.FloatType, node: Node) -> Node:
    lowest = info.ge if info.ge is not None else info.gt
    if lowest is not None:
        node["minimum"] = lowest
    if info.gt is not None:
        node["exclusiveMinimum"] = True
    if info.le is not None:
        node["maximum"] = info.le
    return node


def _text(limits: Bounds) -> Node:
    node: Node = {"type": "string"}
    if limits.enum:
        return node | {"enum": list(limits.enum), "_expected": limits.expected}
    node["maxLength"] = limits.max_length or bounds.MAX_TEXT
    if limits.pattern:
        node["pattern"] = limits.pattern
        node["_expected"] = limits.expected
    if limits.rules:
        node["_rules"] = limits.rules
    return node


def _duration(limits: Bounds) -> Node:
    return {
        "type": "string",
        "maxLength": quantity.DURATION_MAX_LENGTH,
        "pattern": quantity.DURATION_PATTERN,
        "_expected": "a duration with its unit, such as 90s, 5m or 1h30m",
        "_rules": (_LONGEST_DURATION, *limits.rules),
    }


def _quantity() -> Node:
    return {
        "anyOf": [{"type": "integer"}, {"type": "string"}],
        "x-kubernetes-int-or-string": True,
        "minimum": 0,
        "maximum": MAX_INT,
        "maxLength": quantity.QUANTITY_MAX_LENGTH,
        "pattern": quantity.QUANTITY_PATTERN,
        "_expected": 'a quantity, not negative: a whole number, or text such as 500m, "0.5" or 8Gi',
    }


def _fraction() -> Node:
    """A number or the same as text. No type says that, so each other type is given bounds that it cannot meet."""
    return {
        "x-kubernetes-preserve-unknown-fields": True,
        "minimum": 0,
        "maximum": 1,
        "maxLength": 16,
        "pattern": f"^({bounds.FRACTION})$",
        "minProperties": 1,
        "maxProperties": 0,
        "minItems": 1,
        "maxItems": 0,
        "not": {"enum": [True, False]},
        "_fraction": True,
        "_expected": 'a fraction from 0 to 1, such as 0.85 or "0.85"',
    }


def _list(info: inspect.ListType, limits: Bounds) -> Node:
    node: Node = {
        "type": "array",
        "items": _type(info.item_type),
        "maxItems": limits.max_items or bounds.MAX_ITEMS,
        "x-kubernetes-list-type": limits.list_type or "atomic",
    }
    if limits.list_map_keys:
        node["x-kubernetes-list-map-keys"] = list(limits.list_map_keys)
    return node


def _map(info: inspect.DictType, limits: Bounds) -> Node:
    node: Node = {"type": "object", "maxProperties": limits.max_properties or bounds.MAX_ITEMS}
    if isinstance(info.value_type, inspect.AnyType):
        node["x-kubernetes-preserve-unknown-fields"] = True
    else:
        node["additionalProperties"] = _type(info.value_type)
    if limits.rules:
        node["_rules"] = limits.rules
    return node


# YAML


def to_yaml(value: Node) -> str:
    """Keys in the order of the fields; long texts on one line, so that a change is one line too."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=2**20, default_flow_style=False)


class _Dumper(yaml.SafeDumper):
    """Never writes anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True
