"""ModelFacts: what the cold-start queue must know of a Model, and what a waiting client is told about it.

The status code table of the answers is in docs/errors.md; `Retry-After` is a whole number of seconds, 1 to 60.
"""

from __future__ import annotations

import math
from datetime import datetime

import msgspec

from flexinfer.api import defaults
from flexinfer.api.v1alpha2.model import Model
from flexinfer.errors import RequestError
from flexinfer.lifecycle.phases import DOWNLOADING, FAILED_RETRY_S
from flexinfer.lifecycle.scaling import idle_timeout_s, stopped

UNKNOWN_LOAD_S = 10.0
"""Suggested wait where neither progress nor an earlier load tells how long this one takes."""


class LoadFailure(msgspec.Struct, frozen=True, kw_only=True):
    """Why the model is Failed. Two failures are the same when their times are."""

    reason: str
    message: str
    at: datetime | None


class ModelFacts(msgspec.Struct, frozen=True, kw_only=True):
    phase: str = "Idle"
    slots: int = 1
    """Requests that one replica computes at once."""
    cold_start_timeout_s: float = 60.0
    idle_timeout_s: float = 300.0
    holding: bool = False
    """The replicas are about to go (ScalingDown): nothing new may be sent to them."""
    stopped: bool = False
    """Stopped by hand: what is still open does not count as use."""
    failure: LoadFailure | None = None
    failure_age_s: float = 0.0
    """How long ago that happened; it counts when the failure is new to who reads this."""
    reported_age_s: float = math.inf
    """How long ago its last use was, of those that are reported, by whichever proxy."""
    substage: str = ""
    progress: float | None = None
    progress_at: datetime | None = None
    left_s: float | None = None
    """Until its bytes are here, as the download reckons."""
    last_load_s: float | None = None
    """How long the last load took, if one is known."""
    message: str = ""

    @property
    def loading(self) -> bool:
        return self.phase in ("Pending", "Loading")


def of(model: Model, slots: int, now: datetime) -> ModelFacts:
    status = model.status
    failure = _failure(model)
    spec = defaults.resolve(model.spec)
    return ModelFacts(
        phase=status.phase or "Idle",
        slots=max(1, slots),
        cold_start_timeout_s=spec.serverless.cold_start_timeout.seconds,
        idle_timeout_s=idle_timeout_s(spec),
        holding=holding(model),
        stopped=stopped(model),
        failure=failure,
        failure_age_s=_age_s(failure.at if failure else None, now, unknown=0.0),
        reported_age_s=_age_s(status.last_active_time, now, unknown=math.inf),
        substage=status.loading_substage,
        progress=status.loading_progress,
        progress_at=status.loading_progress_at,
        left_s=status.loading_seconds_left,
        last_load_s=_last_load_s(model),
        message=status.message,
    )


def holding(model: Model) -> bool:
    """Its replicas are about to go, though they still answer."""
    ready = model.condition("Ready")
    return ready is not None and ready.status == "False" and ready.reason == "ScalingDown"


def _failure(model: Model) -> LoadFailure | None:
    """None also for a failure of an older generation: the Model has changed since."""
    if model.status.phase != "Failed":
        return None
    loaded = model.condition("Loaded")
    if loaded is None:
        return LoadFailure(reason="Failed", message=model.status.message, at=None)
    if 0 < loaded.observed_generation < model.metadata.generation:
        return None
    return LoadFailure(reason=loaded.reason, message=loaded.message, at=loaded.last_transition_time)


def _age_s(at: datetime | None, now: datetime, *, unknown: float) -> float:
    """Clocks differ: what is yet to come has just been."""
    return unknown if at is None else max(0.0, (now - at).total_seconds())


def _last_load_s(model: Model) -> float | None:
    text = model.status.metrics.load_time_seconds if model.status.metrics else ""
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds > 0 else None


def retry_after_s(estimate_s: float | None) -> float:
    """What a client is told to wait: whole seconds, 1 to 60, as OpenAI's client ignores longer waits."""
    return float(min(60, max(1, math.ceil(UNKNOWN_LOAD_S if estimate_s is None else estimate_s))))


def estimate_s(facts: ModelFacts, elapsed_s: float | None) -> float | None:
    """Seconds until Ready, from the progress of `elapsed_s` of loading or from the last load; None: unknown."""
    elapsed = elapsed_s or 0.0
    if facts.left_s is not None:
        return facts.left_s + (facts.last_load_s or 0.0)
    if facts.substage == DOWNLOADING:
        # One that goes on where another ended has done a share that took it no time.
        return None
    if facts.loading and facts.progress is not None and 0.0 < facts.progress < 1.0 and elapsed > 0.0:
        return elapsed * (1.0 - facts.progress) / facts.progress
    if facts.last_load_s is not None:
        return max(1.0, facts.last_load_s - elapsed)
    return None


def not_found(name: str) -> RequestError:
    return RequestError(
        404, "model_not_found", f"The model '{name}' was deleted while the request waited.", param="model"
    )


def shutting_down() -> RequestError:
    return RequestError(503, "shutting_down", "This proxy is shutting down; ask again.", retry_after_s=1.0)


def queue_full(name: str, waiting: int, wait_s: float | None) -> RequestError:
    message = f"{waiting} requests already wait for the model '{name}', and its queue holds no more."
    return RequestError(503, "queue_full", message, retry_after_s=retry_after_s(wait_s))


def activation_failed(name: str, why: str) -> RequestError:
    message = f"The model '{name}' could not be woken: {why}"
    return RequestError(503, "activation_failed", message, retry_after_s=5.0)


def model_failed(name: str, failure: LoadFailure) -> RequestError:
    detail = f": {failure.message}" if failure.message else ""
    message = f"The model '{name}' failed to load ({failure.reason}){detail}"
    return RequestError(503, "model_failed", message, retry_after_s=FAILED_RETRY_S)


def model_loading(name: str, facts: ModelFacts, waited_s: float, left_s: float | None) -> RequestError:
    about = f"ready in about {math.ceil(left_s)} s" if left_s is not None else "no estimate yet"
    message = f"The model '{name}' is not ready after {waited_s:.0f} s: {_stage(facts)}; {about}."
    return RequestError(503, "model_loading", message, retry_after_s=retry_after_s(left_s))


def load_stalled(name: str, facts: ModelFacts, still_s: float) -> RequestError:
    message = f"The model '{name}' makes no progress: {_stage(facts)}, the same for {still_s:.0f} s."
    return RequestError(503, "model_loading", message, retry_after_s=30.0)


def no_slot(name: str, waited_s: float) -> RequestError:
    message = f"The model '{name}' is ready, but every slot of it stayed busy for {waited_s:.0f} s."
    return RequestError(504, "timeout", message)


def _stage(facts: ModelFacts) -> str:
    parts = [f"phase {facts.phase}"]
    if facts.substage:
        parts.append(facts.substage)
    if facts.progress is not None:
        parts.append(f"{facts.progress:.0%} done")
    if facts.message and facts.message != facts.substage:
        parts.append(facts.message)
    return ", ".join(parts)
