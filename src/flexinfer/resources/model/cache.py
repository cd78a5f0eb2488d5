"""CachePlan: where a Model's bytes come from in a cluster, which objects bring them, and whether they are there.

    plan(model, facts) -> CachePlan

Children are the claim and the Job that fetches onto it; the pod gets volumes, mounts and init containers. A
serving pod is only started once `state.ready`. `artifact` has the paths as the serving container will see them.
"""

from __future__ import annotations

import posixpath
from typing import Any, Literal, NamedTuple

import msgspec

from flexinfer import backends
from flexinfer.api.meta import Condition
from flexinfer.api.v1alpha2.model import Model
from flexinfer.artifacts import source
from flexinfer.backends.base import Artifact
from flexinfer.lifecycle.observed import ArtifactState
from flexinfer.resources.model.cachefacts import CacheFacts, TaskPhase

Object = dict[str, Any]
VOLUME = "models"


class Obsolete(NamedTuple):
    """An object that a plan of ours made and no Model needs any more."""

    kind: Literal["PersistentVolumeClaim", "Job"]
    name: str


class CachePlan(msgspec.Struct, frozen=True, kw_only=True):
    state: ArtifactState
    artifact: Artifact = Artifact()
    volumes: tuple[Object, ...] = ()
    mounts: tuple[Object, ...] = ()
    """Of the serving container."""
    init_containers: tuple[Object, ...] = ()
    memory_bytes: int = 0
    """What is staged into memory: it counts against the pod's limit."""
    children: tuple[Object, ...] = ()
    """To be applied. A Job that is there already is never among them: its template cannot change."""
    obsolete: tuple[Obsolete, ...] = ()
    """To be deleted; claims and Jobs that it does not name stay, whoever owns them."""
    conditions: tuple[Condition, ...] = ()
    """Beside Cached, which follows from `state`."""
    strategy: str = ""
    pvc_name: str = ""
    job_name: str = ""
    job_phase: Literal["", TaskPhase] = ""
    requeue_after_s: float | None = None


def plan(model: Model, facts: CacheFacts) -> CachePlan:
    """Raises InvalidField for settings of the download that contradict each other."""
    if backends.get(model.spec.backend).reads == "nothing":
        return CachePlan(state=ArtifactState(ready=True, reason="Succeeded"))
    parsed = source.parse(model.spec.source)
    match parsed:
        case source.Claim():
            return _claim(model, parsed, facts)
        case source.File():
            return CachePlan(state=_ready("CacheIgnored", "a path inside the image"), artifact=_at(model, parsed.path))
        case _:
            return CachePlan(state=ArtifactState(ready=False, reason="PrefetchPending"))


def _claim(model: Model, parsed: source.Claim, facts: CacheFacts) -> CachePlan:
    path = posixpath.join(facts.installation.cache_path, parsed.path)
    return CachePlan(
        state=_ready("CacheIgnored", f"claim {parsed.claim} is mounted as it is; spec.cache does not apply"),
        artifact=_at(model, path),
        volumes=({"name": VOLUME, "persistentVolumeClaim": {"claimName": parsed.claim, "readOnly": True}},),
        mounts=({"name": VOLUME, "mountPath": facts.installation.cache_path, "readOnly": True},),
        pvc_name=parsed.claim,
    )


def _at(model: Model, path: str) -> Artifact:
    return Artifact(path=path)


def _ready(reason: str, message: str = "") -> ArtifactState:
    return ArtifactState(ready=True, reason=reason, message=message)
