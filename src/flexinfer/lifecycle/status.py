"""What the status of a Model says after a decision.

`lastActiveTime` is the proxy's field and is carried over untouched; conditions keep their
`lastTransitionTime` as long as they say the same, unless the decision gives a time.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import msgspec

from flexinfer import backends
from flexinfer.api import defaults
from flexinfer.api.meta import Condition
from flexinfer.api.v1alpha2.model import AllocatedGPU, CacheStatus, Metrics, Model, ModelStatus
from flexinfer.api.wellknown import LABEL_MODEL
from flexinfer.lifecycle.decide import Decision
from flexinfer.lifecycle.observed import Observed, Replica, Traffic


def status_of(
    model: Model, observed: Observed, decision: Decision, now: datetime, traffic: Traffic | None = None
) -> ModelStatus:
    """`traffic` None leaves the figures of an earlier report."""
    old = model.status
    loading = next((r for r in observed.replicas if r.state in ("starting", "loading")), None)
    if decision.phase != "Loading":
        loading = None
    coming = observed.artifact if decision.phase == "Pending" and not observed.artifact.ready else None
    return msgspec.structs.replace(
        old,
        phase=decision.phase,
        tier=decision.tier,
        conditions=merge_conditions(old.conditions, decision.conditions, model.metadata.generation, now),
        observed_generation=model.metadata.generation,
        replicas=len(observed.replicas),
        selector=observed.selector or f"{LABEL_MODEL}={model.metadata.name}",
        gpu=_gpu(observed.replicas),
        endpoint=observed.endpoint,
        rollout=observed.rollout or old.rollout,
        metrics=_metrics(old.metrics, observed.replicas, traffic),
        cache=_cache(model, observed),
        loading_substage=loading.substage if loading else coming.substage if coming else "",
        loading_progress=loading.progress if loading else coming.progress if coming else None,
        loading_progress_at=loading.progress_at if loading else coming.progress_at if coming else None,
        loading_started_at=loading.started_at if loading else coming.started_at if coming else None,
        loading_seconds_left=coming.left_s if coming else None,
        message=decision.message,
        backend=backends.get(model.spec.backend).name,
    )


def merge_conditions(
    old: Iterable[Condition], new: Iterable[Condition], generation: int, now: datetime
) -> list[Condition]:
    before = {condition.type: condition for condition in old}
    merged = []
    for condition in new:
        was = before.get(condition.type)
        same = was is not None and was.status == condition.status and was.reason == condition.reason
        known = was.last_transition_time if was is not None and same else now.replace(microsecond=0)
        since = condition.last_transition_time or known
        merged.append(msgspec.structs.replace(condition, last_transition_time=since, observed_generation=generation))
    return merged


def _gpu(replicas: tuple[Replica, ...]) -> AllocatedGPU | None:
    return next((replica.gpu for replica in replicas if replica.gpu is not None), None)


def _metrics(old: Metrics | None, replicas: tuple[Replica, ...], traffic: Traffic | None) -> Metrics | None:
    found: dict[str, str] = {}
    ready = [r for r in replicas if r.state == "ready" and r.ready_at is not None]
    if ready:
        first = min(ready, key=lambda replica: replica.started_at)
        assert first.ready_at is not None
        found["load_time_seconds"] = f"{(first.ready_at - first.started_at).total_seconds():.3f}"
    if traffic is not None:
        found["tokens_per_second"] = f"{traffic.tokens_per_second:.1f}"
        found["avg_latency_ms"] = f"{traffic.latency_avg_s * 1000:.0f}"
    return msgspec.structs.replace(old or Metrics(), **found) if found else old


def _cache(model: Model, observed: Observed) -> CacheStatus:
    if observed.cache is not None:
        return observed.cache
    strategy = defaults.resolve(model.spec).cache.strategy
    return CacheStatus(
        strategy=strategy or "",
        ready=observed.artifact.ready,
        message=observed.artifact.message,
        size_bytes=observed.artifact.size_bytes,
    )
