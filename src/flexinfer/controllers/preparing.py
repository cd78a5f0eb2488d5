"""From a Model and what is known of the cluster to what its pods would be; or why there can be none. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from flexinfer import backends
from flexinfer.api.quantity import Quantity
from flexinfer.api.v1alpha2.model import Model
from flexinfer.backends import images
from flexinfer.backends.base import Artifact, Site
from flexinfer.errors import FlexInferError, InvalidField
from flexinfer.lifecycle.observed import ArtifactState, Trouble
from flexinfer.placement import cluster
from flexinfer.placement.cluster import Place
from flexinfer.placement.clusternodes import ClusterNode
from flexinfer.resources.installation import Installation
from flexinfer.resources.model import cache, pod
from flexinfer.resources.model.cache import CachePlan
from flexinfer.resources.model.cachefacts import CacheFacts
from flexinfer.resources.model.pod import Engine

OPEN_STREAMS_S = 20.0
"""What an engine that can is given after SIGTERM to finish its streams."""
DEFAULT_CORES = 4
"""Threads of an engine on the CPU whose pod says nothing of CPUs."""
NOT_HERE = "/not-downloaded"


class Surroundings(NamedTuple):
    """What a plan is made from beside the Model."""

    nodes: Sequence[ClusterNode]
    runtime_classes: frozenset[str]
    bytes: CacheFacts
    installation: Installation
    standing: Place | None = None
    """The choice that running pods were made for."""


class Prepared(NamedTuple):
    place: Place
    data: CachePlan
    engine: Engine | None = None
    """None where there can be no pods, or not yet."""
    fault: Trouble | None = None
    """Why it cannot run as it is written."""


_NOTHING = CachePlan(state=ArtifactState(ready=True))


def prepare(model: Model, around: Surroundings) -> Prepared:
    """`model.spec` has its defaults resolved."""
    try:
        place = cluster.choose(model, around.nodes, prefix=around.installation.label_prefix, standing=around.standing)
    except FlexInferError as error:
        return Prepared(Place(), _NOTHING, fault=Trouble(reason="BackendUnsupported", message=str(error)))
    data = _NOTHING
    try:
        data = cache.plan(model, msgspec.structs.replace(around.bytes, placement=pod.placement(model, place)))
        if place.refused:
            return Prepared(place, data, fault=Trouble(reason=place.reason, message=place.message))
        engine = _engine(model, place, data, around)
    except InvalidField as error:
        return Prepared(place, data, fault=Trouble(reason="ConfigInvalid", message=str(error)))
    return Prepared(place, data, engine if data.state.ready else None, data.failure)


def _engine(model: Model, place: Place, data: CachePlan, around: Surroundings) -> Engine:
    backend = backends.get(model.spec.backend)
    # Settings that the engine would refuse are told before anything is fetched.
    artifact = data.artifact if data.state.ready else Artifact(path=NOT_HERE, model_id=data.artifact.model_id)
    site = Site(
        host="0.0.0.0",
        port=backend.port,
        artifact=artifact,
        devices=place.devices,
        cores=_cores(model),
        state_dir=pod.STATE,
        drain_s=OPEN_STREAMS_S,
    )
    plan = backend.plan(model, site)
    installation = around.installation
    known = {**installation.images, images.OWN_IMAGE: installation.image}
    return Engine(
        plan=plan,
        place=place,
        image=images.resolve(model, backend.name, place.vendor, place.arch, known),
        own_image=backend.name == "simulator",
        runtime_classes=around.runtime_classes,
    )


def _cores(model: Model) -> int:
    asked: dict[str, Any] = {**model.spec.resources.requests, **model.spec.resources.limits}
    cpu: Quantity | None = asked.get("cpu")
    return max(1, int(cpu.value)) if cpu is not None else DEFAULT_CORES
