"""decide(model, observed, now): how many replicas, whether they are offered to clients, and what the status says.

Scale-down has two steps. First the endpoints are withdrawn and Ready turns False with reason
`ScalingDown`, so that proxies hold new requests; after `SETTLE_S`, if no request came meanwhile,
the replicas go. A request that arrives in between brings the endpoints back.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

import msgspec

from flexinfer import backends
from flexinfer.api import defaults
from flexinfer.api.meta import Condition
from flexinfer.api.v1alpha2.model import Model, ModelSpec, Phase, Tier
from flexinfer.lifecycle import scaling
from flexinfer.lifecycle.observed import Blocked, Failure, Observed, Replica
from flexinfer.lifecycle.phases import FAILED_RETRY_S

SETTLE_S = 0.5
DRAIN_S = 30.0
"""What requests that are open when a model is stopped by hand get."""
MIN_LOAD_LIMIT_S = 120.0
LOAD_LIMIT_BUDGETS = 10
BLOCKED_LOOK_S = 0.5
"""A model that waits for room looks again so often: whoever is in the way may have become idle."""
UNSCHEDULABLE = frozenset({"NoMatchingNodes", "BackendUnsupported", "VRAMInsufficient", "MemoryInsufficient"})
"""Failures that say that this place cannot run the model."""


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    replicas: int
    """Replicas to run."""
    serving: bool
    """Whether the ready ones are offered to clients."""
    phase: Phase
    tier: Tier
    message: str
    conditions: tuple[Condition, ...]
    failure: Failure | None = None
    """Why the model is Failed; the place forgets its own failure when this is None."""
    replace: tuple[str, ...] = ()
    """Replicas to end and start anew, by name: they hang."""
    requeue_after_s: float | None = None


def decide(model: Model, observed: Observed, now: datetime) -> Decision:
    """`model` as it is stored, without resolved defaults."""
    decision = _decide(msgspec.structs.replace(model, spec=defaults.resolve(model.spec)), observed, now)
    ignored = tuple(f"{name}." for name in observed.ignored_fields)
    dormant = [
        name
        for name in defaults.not_yet_effective(model.spec)
        if name not in observed.acting_fields and not f"{name}.".startswith(ignored)
    ]
    if not dormant:
        return decision
    message = f"these fields do not act yet: {', '.join(dormant)}"
    warning = _condition("NotYetEffective", True, "NotYetEffective", message)
    return msgspec.structs.replace(decision, conditions=(*decision.conditions, warning))


def _decide(resolved: Model, observed: Observed, now: datetime) -> Decision:
    wanted = scaling.wanted(resolved, observed, now)
    failure = _standing_failure(resolved, observed, wanted.replicas, now)
    if failure is not None:
        return _failed(resolved, observed, failure, wanted, now)
    if not observed.artifact.ready:
        return _waiting_for_artifact(resolved, observed, wanted)
    ready = [replica for replica in observed.replicas if replica.state == "ready"]
    if wanted.replicas == 0 and ready and not _settled(resolved, observed, now):
        return _scaling_down(resolved, observed, wanted)
    phase = _phase(wanted.replicas, observed.replicas)
    message = _message(phase, wanted, observed)
    return Decision(
        replicas=wanted.replicas,
        serving=wanted.replicas > 0,
        phase=phase,
        tier="hot" if phase == "Ready" else "cached",
        message=message,
        conditions=(*_conditions(resolved, observed, phase, message), *_limited(wanted)),
        replace=tuple(replica.name for replica in ready if replica.hangs),
        requeue_after_s=_again(resolved, observed, wanted, now),
    )


def _limited(wanted: scaling.Wanted) -> Iterator[Condition]:
    if wanted.limited:
        yield _condition("ScalingLimited", True, "TooManyReplicas", wanted.limited)


def load_limit_s(spec: ModelSpec) -> float:
    """A load without progress for this long has failed."""
    return max(MIN_LOAD_LIMIT_S, LOAD_LIMIT_BUDGETS * spec.serverless.cold_start_timeout.seconds)


def _standing_failure(model: Model, observed: Observed, wanted: int, now: datetime) -> Failure | None:
    """The failure that still counts: one of this generation that nothing has asked to try again."""
    stalled = _stalled(model.spec, observed.replicas, now)
    if stalled is not None:
        return stalled
    failure = observed.failure
    if failure is None or observed.failed_generation != model.metadata.generation:
        return None
    if failure.live:
        return failure
    if asks_again(model, failure) or (scaling.pinned(model.spec) and wanted > 0 and _retry_in_s(failure, now) == 0):
        return None
    return failure


def asks_again(model: Model, failure: Failure) -> bool:
    """Whether a request came after the pause that follows a failure."""
    # The proxy knows the failure by a condition, and those carry whole seconds.
    retry_at = failure.at.replace(microsecond=0) + timedelta(seconds=FAILED_RETRY_S)
    return model.status.last_active_time is not None and model.status.last_active_time >= retry_at


def _retry_in_s(failure: Failure, now: datetime) -> float:
    return max(0.0, FAILED_RETRY_S - (now - failure.at.replace(microsecond=0)).total_seconds())


def _stalled(spec: ModelSpec, replicas: tuple[Replica, ...], now: datetime) -> Failure | None:
    limit_s = load_limit_s(spec)
    for replica in replicas:
        if replica.state not in ("starting", "loading"):
            continue
        moved = max(replica.started_at, replica.progress_at or replica.started_at)
        if (now - moved).total_seconds() >= limit_s:
            doing = f" (last seen: {replica.substage})" if replica.substage else ""
            return Failure(
                reason="LoadTimeout", message=f"the engine made no progress for {limit_s:.0f} s{doing}", at=now
            )
    return None


def _settled(model: Model, observed: Observed, now: datetime) -> bool:
    """Whether the endpoints have been withdrawn for long enough, and what was open then has ended."""
    ready = model.condition("Ready")
    if ready is None or ready.reason != "ScalingDown" or ready.last_transition_time is None:
        return False
    # Conditions carry whole seconds, so a fresh one looks up to a second older than it is.
    withdrawn_s = (now - ready.last_transition_time).total_seconds()
    return withdrawn_s >= (DRAIN_S if observed.open_requests else SETTLE_S + 1.0)


def _phase(wanted: int, replicas: tuple[Replica, ...]) -> Phase:
    if wanted == 0:
        return "Idle"
    if any(replica.state == "ready" for replica in replicas):
        return "Ready"
    return "Loading" if replicas else "Pending"


def _message(phase: Phase, wanted: scaling.Wanted, observed: Observed) -> str:
    if phase == "Pending" and observed.blocked is not None:
        return observed.blocked.message
    if phase == "Loading":
        replica = observed.replicas[0]
        if replica.trouble is not None:
            return replica.trouble.message
        if replica.state == "backoff":
            return f"the engine ended by itself and is started again (restart {replica.restarts})"
        return replica.substage or "StartingEngine"
    return f"{'awake' if wanted.replicas else 'asleep'}: {wanted.because}"


def _again(model: Model, observed: Observed, wanted: scaling.Wanted, now: datetime) -> float | None:
    due = [wanted.again_in_s] if wanted.again_in_s is not None else []
    blocked = observed.blocked
    due += [BLOCKED_LOOK_S] if wanted.replicas > 0 and blocked is not None and not blocked.watched else []
    due += [
        load_limit_s(model.spec) - (now - (replica.progress_at or replica.started_at)).total_seconds()
        for replica in observed.replicas
        if replica.state in ("starting", "loading")
    ]
    return max(0.0, min(due)) if due else None


def _failed(model: Model, observed: Observed, failure: Failure, wanted: scaling.Wanted, now: datetime) -> Decision:
    # Where the place itself tries again, a pinned model is left to it.
    kept = failure.live and scaling.pinned(model.spec)
    return Decision(
        replicas=wanted.replicas if kept else 0,
        serving=False,
        phase="Failed",
        tier="cached" if observed.artifact.ready else "cold",
        message=failure.message,
        conditions=tuple(_conditions(model, observed, "Failed", failure.message, failure)),
        failure=failure,
        # A pause that is over brings nothing new by itself: the model is not wanted.
        requeue_after_s=(_retry_in_s(failure, now) or None) if scaling.pinned(model.spec) and not kept else None,
    )


def _waiting_for_artifact(model: Model, observed: Observed, wanted: scaling.Wanted) -> Decision:
    # Bytes are fetched before anybody asks, and that is no sleep that a request ends.
    phase: Phase = "Pending" if wanted.replicas > 0 or observed.artifact.substage else "Idle"
    message = observed.artifact.message
    return Decision(
        replicas=0,
        serving=False,
        phase=phase,
        tier="cold",
        message=message,
        conditions=tuple(_conditions(model, observed, phase, message)),
        requeue_after_s=wanted.again_in_s,
    )


def _scaling_down(model: Model, observed: Observed, wanted: scaling.Wanted) -> Decision:
    message = f"scaling down: {wanted.because}"
    return Decision(
        replicas=observed.running,
        serving=False,
        phase="Ready",
        tier="hot",
        message=message,
        conditions=tuple(_conditions(model, observed, "Ready", message, scaling_down=True)),
        requeue_after_s=SETTLE_S,
    )


def _conditions(
    model: Model,
    observed: Observed,
    phase: Phase,
    message: str,
    failure: Failure | None = None,
    *,
    scaling_down: bool = False,
) -> Iterator[Condition]:
    artifact = observed.artifact
    yield _condition("Cached", artifact.ready, artifact.reason or "Succeeded", artifact.message)
    blocked = observed.blocked if phase == "Pending" and artifact.ready else None
    # That no node can run it is known before its bytes are there, and worth knowing then.
    nowhere = observed.blocked is not None and observed.blocked.reason == "NoMatchingNodes"
    yield _schedulable(observed.blocked if phase == "Pending" and nowhere else blocked, failure)
    pending = blocked.reason if blocked is not None else "StartingBackend" if artifact.ready else "CacheNotReady"
    trouble = observed.replicas[0].trouble if observed.replicas else None
    loading = trouble.reason if trouble is not None else "StartingBackend"
    waiting = {"Idle": "WaitingForActivation", "Pending": pending, "Loading": loading}
    reason = failure.reason if failure else waiting.get(phase, "BackendReady")
    if phase == "Ready":
        yield _condition("Loaded", True, "BackendReady")
        yield _condition("Ready", not scaling_down, "ScalingDown" if scaling_down else "BackendReady")
    else:
        loaded = _condition("Loaded", False, reason, message)
        if failure is not None:
            # A retry that fails in the same way is news to those who wait for it.
            loaded.last_transition_time = failure.at.replace(microsecond=0)
        yield loaded
        yield _condition("Ready", False, reason, message)
    yield _config_valid(model, observed)
    yield from observed.conditions
    if observed.ignored_fields:
        names = ", ".join(observed.ignored_fields)
        yield _condition("IgnoredLocally", True, "IgnoredLocally", f"these fields mean nothing on one machine: {names}")
    no_gpu = message if failure is not None and failure.reason == "EngineHasNoGPU" else observed.engine_on_cpu
    if no_gpu:
        yield _condition("EngineHasNoGPU", True, "EngineHasNoGPU", no_gpu)


def _config_valid(model: Model, observed: Observed) -> Condition:
    wrong = "; ".join(map(str, backends.check_config(model)))
    said = "; ".join(filter(None, (wrong, observed.alias_conflict)))
    return _condition(
        "ConfigValid", not said, "ConfigInvalid" if wrong else "AliasConflict" if said else "ConfigValid", said
    )


def _schedulable(blocked: Blocked | None, failure: Failure | None) -> Condition:
    if blocked is not None:
        return _condition("Schedulable", False, blocked.reason, blocked.message)
    if failure is not None and failure.reason in UNSCHEDULABLE:
        return _condition("Schedulable", False, failure.reason, failure.message)
    return _condition("Schedulable", True, "Schedulable")


def _condition(kind: str, holds: bool, reason: str, message: str = "") -> Condition:
    return Condition(type=kind, status="True" if holds else "False", reason=reason, message=message)
