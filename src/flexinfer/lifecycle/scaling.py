"""How many replicas a Model wants: to zero when idle; in use its own count, or what its load asks for.

While it is awake that is the most of `spec.replicas`, `minReplicas` and the built-in scaler, which only a
`maxReplicas` above 1 turns on; `maxReplicas` bounds them all.

Use is `status.lastActiveTime`, which the proxy keeps fresh while a request waits or is open. A
model that was stopped by hand rests until it is used again, whatever its spec pins; so does one that
made room for another, and that is never a pinned one. Any other that is loading is never reaped, and
one that has just become ready has a whole idle window to be used in.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from flexinfer.api.v1alpha2.model import Model, ModelSpec
from flexinfer.api.wellknown import ANNOTATION_STOPPED_AT
from flexinfer.lifecycle.observed import Observed

MIN_IDLE_S = 1.0
"""An idle window shorter than this would reap an engine between two requests of one client."""


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    replicas: int
    because: str
    """One clause that completes "it is asleep because …" or "awake because …"."""
    limited: str = ""
    """Which wish is above `maxReplicas`."""
    again_in_s: float | None = None
    """When time alone can change the answer."""


def idle_timeout_s(spec: ModelSpec) -> float:
    assert spec.serverless.idle_timeout is not None, "resolve the defaults first"
    return max(MIN_IDLE_S, spec.serverless.idle_timeout.seconds)


def stopped_at(model: Model) -> datetime | None:
    """When somebody stopped it by hand; None also for a text that is no time."""
    text = model.metadata.annotations.get(ANNOTATION_STOPPED_AT, "")
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    return at if at.tzinfo is not None else None


def stopped(model: Model) -> bool:
    """Whether it was stopped by hand and has not been used since."""
    at, last_active = stopped_at(model), model.status.last_active_time
    return at is not None and (last_active is None or last_active <= at)


def pinned(spec: ModelSpec) -> bool:
    """Kept running without being asked."""
    return not spec.serverless.enabled or spec.serverless.min_replicas > 0


def wanted(model: Model, observed: Observed, now: datetime) -> Wanted:
    """`model.spec` has its defaults resolved."""
    spec = model.spec
    if spec.replicas == 0:
        return Wanted(replicas=0, because="spec.replicas is 0")
    if stopped(model):
        return Wanted(replicas=0, because="it was stopped by hand; a request wakes it")
    if observed.yields_to:
        return Wanted(replicas=0, because=f"it makes room for {observed.yields_to}; a request wakes it")
    awake, limited = _awake(spec, observed)
    if not spec.serverless.enabled:
        return Wanted(replicas=awake, because="spec.serverless.enabled is false", limited=limited)
    used = _by_use(model, observed, awake, now)
    if used.replicas:
        used = msgspec.structs.replace(used, limited=limited)
    if any(replica.state in ("starting", "loading") for replica in observed.replicas):
        return Wanted(replicas=max(used.replicas, observed.running), because="it is loading", limited=limited)
    return used


def _awake(spec: ModelSpec, observed: Observed) -> tuple[int, str]:
    """Replicas while it is awake, and which wish is above the bound."""
    most = spec.serverless.max_replicas
    wishes = {"spec.replicas is": spec.replicas, "spec.serverless.minReplicas is": spec.serverless.min_replicas}
    if most is not None and most > 1 and observed.asked_by_load is not None:
        wishes["the requests in flight ask for"] = observed.asked_by_load
    wish, count = max(wishes.items(), key=lambda one: one[1])
    if most is None or count <= most:
        return count, ""
    return most, f"{wish} {count}, spec.serverless.maxReplicas is {most}"


def _by_use(model: Model, observed: Observed, awake: int, now: datetime) -> Wanted:
    spec, last_active = model.spec, model.status.last_active_time
    resting = spec.serverless.min_replicas
    pinned = f"spec.serverless.minReplicas is {resting}" if resting else ""
    if last_active is None:
        return Wanted(replicas=resting, because=pinned or "no request has come yet")
    used = max([last_active, *(replica.ready_at for replica in observed.replicas if replica.ready_at is not None)])
    left_s = idle_timeout_s(spec) - (now - used).total_seconds()
    if left_s <= 0:
        return Wanted(replicas=resting, because=pinned or f"no request for {spec.serverless.idle_timeout}")
    return Wanted(replicas=awake, because="it was used lately", again_in_s=left_s)
