"""How server-side apply looks at the maps and lists of a kind.

Maps are merged field by field, lists are replaced whole, unless the kind says otherwise: a list may be
keyed (items told apart by some of their fields) or a set, a map may be atomic (owned whole). Our own
kinds say it in their schema (`from_schema`); of the built-in kinds that we create, this file has the
entries of Kubernetes' own schema that matter for the fields we set.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """One level of an object. The items of a keyed list have their fields in `fields` too."""

    fields: Mapping[str, Shape] = {}
    rest: Shape | None = None
    """Of every field that `fields` does not name: the values of a map with free keys."""
    atomic: bool = False
    keys: tuple[str, ...] = ()
    key_defaults: Mapping[str, Any] = {}
    unique: bool = False
    """A list of distinct scalars."""

    def child(self, name: str) -> Shape:
        return self.fields.get(name) or self.rest or PLAIN


PLAIN: Final = Shape()
ATOMIC: Final = Shape(atomic=True)
SET: Final = Shape(unique=True)
TCP: Final = {"protocol": "TCP"}


def keyed(*keys: str, defaults: Mapping[str, Any] | None = None, **fields: Shape) -> Shape:
    return Shape(keys=keys, key_defaults=defaults or {}, fields=fields)


METADATA: Final = Shape(fields={"finalizers": SET, "ownerReferences": keyed("uid")})


def kind(**fields: Shape) -> Shape:
    """The shape of a whole object."""
    return Shape(fields={"metadata": METADATA, **fields})


def from_schema(schema: Mapping[str, Any]) -> Shape:
    """The shape of a custom resource, from its structural OpenAPI v3 schema."""
    shape = _from_schema(schema)
    return kind(**{name: field for name, field in shape.fields.items() if name != "metadata"})


def _from_schema(schema: Mapping[str, Any]) -> Shape:
    if schema.get("x-kubernetes-map-type") == "atomic":
        return ATOMIC
    item = schema.get("items", {})
    level = item if schema.get("type") == "array" else schema
    fields = {name: _from_schema(field) for name, field in level.get("properties", {}).items()}
    rest = level.get("additionalProperties")
    list_type = schema.get("x-kubernetes-list-type", "atomic")
    keys = tuple(schema.get("x-kubernetes-list-map-keys", ())) if list_type == "map" else ()
    return Shape(
        fields={name: field for name, field in fields.items() if field != PLAIN},
        rest=_from_schema(rest) if isinstance(rest, dict) else None,
        keys=keys,
        key_defaults={
            name: level["properties"][name]["default"]
            for name in keys
            if "default" in level.get("properties", {}).get(name, {})
        },
        unique=list_type == "set",
    )


_ENV: Final = keyed(
    "name",
    valueFrom=Shape(
        fields={
            "configMapKeyRef": ATOMIC,
            "fieldRef": ATOMIC,
            "resourceFieldRef": ATOMIC,
            "secretKeyRef": ATOMIC,
        }
    ),
)
_CONTAINERS: Final = keyed(
    "name",
    env=_ENV,
    ports=keyed("containerPort", "protocol", defaults=TCP),
    volumeDevices=keyed("devicePath"),
    volumeMounts=keyed("mountPath"),
)
_CONDITIONS: Final = Shape(fields={"conditions": keyed("type")})
_POD_SPEC: Final = Shape(
    fields={
        "containers": _CONTAINERS,
        "hostAliases": keyed("ip"),
        "imagePullSecrets": keyed("name"),
        "initContainers": _CONTAINERS,
        "nodeSelector": ATOMIC,
        "topologySpreadConstraints": keyed("topologyKey", "whenUnsatisfiable"),
        "volumes": keyed("name"),
    }
)
_TEMPLATE: Final = Shape(fields={"metadata": METADATA, "spec": _POD_SPEC})
_WORKLOAD: Final = kind(spec=Shape(fields={"selector": ATOMIC, "template": _TEMPLATE}), status=_CONDITIONS)

BUILTIN: Final[Mapping[str, Shape]] = {
    "DaemonSet": _WORKLOAD,
    "Deployment": _WORKLOAD,
    "Job": _WORKLOAD,
    "StatefulSet": _WORKLOAD,
    "Pod": kind(spec=_POD_SPEC, status=_CONDITIONS),
    "Service": kind(
        spec=Shape(fields={"ports": keyed("port", "protocol", defaults=TCP), "selector": ATOMIC}), status=_CONDITIONS
    ),
    "ServiceAccount": kind(imagePullSecrets=ATOMIC, secrets=keyed("name")),
    "PersistentVolumeClaim": kind(spec=Shape(fields={"dataSource": ATOMIC, "selector": ATOMIC}), status=_CONDITIONS),
    "Node": kind(status=_CONDITIONS),
}


def builtin(kind_name: str) -> Shape:
    """The shape of a kind that came without a schema: its table entry, or metadata only."""
    return BUILTIN.get(kind_name) or kind()
