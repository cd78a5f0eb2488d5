"""The kinds that there are, in one table: type, names, printed columns. What reads or writes "any kind" goes by it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from flexinfer.api.v1alpha1.modeldeployment import ModelDeployment
from flexinfer.api.v1alpha2.model import Model
from flexinfer.api.wellknown import GROUP

Kept = Model | ModelDeployment
"""An object of any of our kinds."""


class Column(NamedTuple):
    """What `kubectl get` prints; a `priority` above 0 only with `-o wide`."""

    name: str
    type: str
    path: str
    priority: int = 0


class Kind(NamedTuple):
    type: type[Model | ModelDeployment]
    version: str
    plural: str
    columns: tuple[Column, ...]
    short_names: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.type.__name__

    @property
    def api_version(self) -> str:
        return f"{GROUP}/{self.version}"


_AGE = Column("Age", "date", ".metadata.creationTimestamp")
_BACKEND = Column("Backend", "string", ".spec.backend")

MODEL: Final = Kind(
    Model,
    "v1alpha2",
    "models",
    (
        _BACKEND,
        Column("Phase", "string", ".status.phase"),
        Column("Shared", "string", ".spec.gpu.shared", 1),
        Column("Priority", "integer", ".spec.gpu.priority", 1),
        Column("TPS", "string", ".status.metrics.tokensPerSecond"),
        _AGE,
    ),
    ("mdl",),
)
MODEL_DEPLOYMENT: Final = Kind(
    ModelDeployment,
    "v1alpha1",
    "modeldeployments",
    (
        _BACKEND,
        Column("Model", "string", ".spec.model"),
        Column("Replicas", "integer", ".spec.replicas"),
        Column("TPS", "string", ".status.tokensPerSecond"),
    ),
)
KINDS: Final = (MODEL, MODEL_DEPLOYMENT)
"""All have a status and a scale subresource, and live in a namespace."""

_BY_NAME: Final[Mapping[str, Kind]] = {kind.name: kind for kind in KINDS}


def of(obj: Mapping[str, Any]) -> Kind | None:
    """The kind that an object says it is, whatever version it names."""
    name = obj.get("kind")
    return _BY_NAME.get(name) if isinstance(name, str) else None
