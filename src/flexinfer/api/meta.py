"""What every Kubernetes object carries: metadata, owner references, conditions, keys."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, NamedTuple

import msgspec

from flexinfer.api import bounds


class Struct(msgspec.Struct, rename="camel", omit_defaults=True, kw_only=True):
    """Base of every API type: camelCase on the wire, snake_case here, defaults left out."""


class ObjectKey(NamedTuple):
    """Which object of a kind: `namespace` is empty for cluster-scoped kinds."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


class OwnerReference(Struct, kw_only=True):
    api_version: str
    kind: str
    name: str
    uid: str
    controller: bool = False
    block_owner_deletion: bool = False


class ObjectMeta(Struct, kw_only=True):
    name: str = ""
    namespace: str = ""
    generate_name: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    finalizers: list[str] = []
    owner_references: list[OwnerReference] = []


class Condition(Struct, kw_only=True):
    """`status` is `True`, `False` or `Unknown`; `reason` is CamelCase; `message` is for people."""

    type: Annotated[str, bounds.text(longest=bounds.MAX_QUALIFIED_NAME)]
    status: Annotated[str, bounds.choice(("True", "False", "Unknown"))]
    reason: str
    message: Annotated[str, bounds.text(longest=bounds.MAX_MESSAGE)] = ""
    observed_generation: int = 0
    last_transition_time: datetime | None = None
