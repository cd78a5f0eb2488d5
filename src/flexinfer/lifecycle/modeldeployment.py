"""What the status of a ModelDeployment says: its Model's state in the words of the first generation.

Running is a Model that serves, or sleeps and is woken by a request; Pending one on its way there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime

import msgspec

from flexinfer.api.meta import Condition
from flexinfer.api.v1alpha1.conversion import Conversion
from flexinfer.api.v1alpha1.modeldeployment import (
    AllocatedGPU,
    Endpoints,
    Metrics,
    ModelDeployment,
    ModelDeploymentStatus,
    Phase,
)
from flexinfer.api.v1alpha2.model import Model, ModelStatus
from flexinfer.lifecycle.status import merge_conditions

_PHASES: Mapping[str | None, Phase] = {"Ready": "Running", "Idle": "Running", "Failed": "Failed"}


def status_of(
    deployment: ModelDeployment, conversion: Conversion, model: Model | None, foreign: str, now: datetime
) -> ModelDeploymentStatus:
    """`model` is its own one; `foreign` says whose a Model of that name is, where it is not its own."""
    if foreign:
        message = f"the Model {deployment.key.name} {foreign}: it stays untouched; delete or rename one of the two"
        return _refused(deployment, "NameTaken", message, now)
    if conversion.wrong:
        return _refused(deployment, "ValidationFailed", "; ".join(map(str, conversion.wrong)), now, model)
    conditions = [*_conditions(model), *_without_effect(conversion, model)]
    return _reported(deployment, model, _PHASES.get(model.status.phase if model else None, "Pending"), conditions, now)


def terminating(deployment: ModelDeployment, now: datetime) -> ModelDeploymentStatus:
    """While its Model ends."""
    ready = _condition("Ready", False, "Terminating", "its Model is ending")
    conditions = merge_conditions(deployment.status.conditions, [ready], deployment.metadata.generation, now)
    return msgspec.structs.replace(deployment.status, phase="Terminating", conditions=conditions)


def _refused(
    deployment: ModelDeployment, reason: str, message: str, now: datetime, model: Model | None = None
) -> ModelDeploymentStatus:
    """A Model that an earlier spec made goes on as it is."""
    conditions = [_condition("Ready", False, reason, message), _condition("Progressing", False, reason, message)]
    return _reported(deployment, model, "Failed", conditions, now)


def _reported(
    deployment: ModelDeployment, model: Model | None, phase: Phase, conditions: list[Condition], now: datetime
) -> ModelDeploymentStatus:
    found = model.status if model is not None else ModelStatus()
    return ModelDeploymentStatus(
        phase=phase,
        conditions=merge_conditions(deployment.status.conditions, conditions, deployment.metadata.generation, now),
        observed_generation=deployment.metadata.generation,
        replicas=found.replicas,
        selector=found.selector,
        allocated_gpu=_gpu(found),
        endpoints=Endpoints(internal=found.endpoint) if found.endpoint else None,
        last_access_time=found.last_active_time,
        metrics=_metrics(found),
        tokens_per_second=found.metrics.tokens_per_second if found.metrics else "",
    )


def _gpu(found: ModelStatus) -> AllocatedGPU | None:
    gpu = found.gpu
    if gpu is None or gpu.vendor == "cpu":
        return None
    return AllocatedGPU(node=gpu.node, device=gpu.device, type=gpu.architecture or gpu.vendor, memory_mb=gpu.memory_mb)


def _metrics(found: ModelStatus) -> Metrics | None:
    if found.metrics is None:
        return None
    return Metrics(
        tokens_per_second=found.metrics.tokens_per_second,
        avg_model_load_time=found.metrics.load_time_seconds,
        avg_latency_ms=found.metrics.avg_latency_ms,
    )


def _conditions(model: Model | None) -> Iterator[Condition]:
    if model is None:
        yield _condition("Ready", False, "Reconciling", "its Model is being made")
        yield _condition("Progressing", True, "Reconciling")
        return
    failed = model.status.phase == "Failed"
    ready, loaded, schedulable = (model.condition(kind) for kind in ("Ready", "Loaded", "Schedulable"))
    yield _mirrored("Ready", ready, "DeploymentReady", failed=failed)
    yield _mirrored("ModelLoaded", loaded, "DeploymentReady", failed=failed)
    if _gpu(model.status) is not None:
        yield _condition("GPUAllocated", True, "GPUAllocated")
    elif schedulable is not None and schedulable.status == "False":
        yield _condition("GPUAllocated", False, "GPUAllocationFailed", schedulable.message)
    if model.status.endpoint:
        yield _condition("EndpointReady", True, "ServiceReady")
    moving = model.status.phase in (None, "Pending", "Loading")
    reason = "Reconciling" if moving else "ModelLoadFailed" if failed else "DeploymentReady"
    yield _condition("Progressing", moving, reason, model.status.message if moving or failed else "")


def _mirrored(kind: str, found: Condition | None, reason: str, *, failed: bool) -> Condition:
    """A condition of the Model in the reasons of the first generation; its own reason goes into the message."""
    if found is None:
        return _condition(kind, False, "Reconciling")
    if found.status == "True":
        return _condition(kind, True, reason)
    message = f"{found.reason}: {found.message}" if found.message else found.reason
    return _condition(kind, False, "ModelLoadFailed" if failed else "Reconciling", message)


def _without_effect(conversion: Conversion, model: Model | None) -> Iterator[Condition]:
    dormant = model.condition("NotYetEffective") if model is not None else None
    said = [f"these fields do not act yet: {', '.join(conversion.not_yet)}"] if conversion.not_yet else []
    said += [f"in its Model {dormant.message}"] if dormant is not None else []
    if said:
        yield _condition("NotYetEffective", True, "NotYetEffective", "; ".join(said))
    if conversion.ignored:
        why = "; ".join(f"{path}: {reason}" for path, reason in conversion.ignored.items())
        yield _condition("FieldsIgnored", True, "FieldsIgnored", why)


def _condition(kind: str, holds: bool, reason: str, message: str = "") -> Condition:
    return Condition(type=kind, status="True" if holds else "False", reason=reason, message=message)
