"""What is worth an Event between one status of a Model and the next: a phase that changes, a condition that falls.

A status that says the same again is worth none, so a Model at rest tells nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from flexinfer.api.meta import Condition
from flexinfer.api.v1alpha2.model import ModelStatus
from flexinfer.lifecycle import silence

_AWAKE = ("Pending", "Loading", "Ready")
_FAILED = {
    "BackendUnsupported": "BackendUnsupported",
    "VRAMInsufficient": "VRAMInsufficient",
    "ConfigInvalid": "ValidationFailed",
    "NameTaken": "ValidationFailed",
    "Rejected": "ValidationFailed",
}
"""Reason of a failure -> reason of its Event, where that is not LoadFailed."""


class Told(NamedTuple):
    reason: str
    note: str
    warning: bool = False


def told(old: ModelStatus, new: ModelStatus, notes: Sequence[tuple[str, str]] = ()) -> list[Told]:
    """`notes` are those of the place that was chosen: (reason, sentence)."""
    return [*_of_phase(old, new, notes), *_of_conditions(old, new), *_of_rollout(old, new)]


def _of_phase(old: ModelStatus, new: ModelStatus, notes: Sequence[tuple[str, str]]) -> Iterator[Told]:
    if old.phase == new.phase:
        return
    if new.phase in _AWAKE and old.phase not in _AWAKE:
        yield Told("ModelScaledUp", new.message)
        yield from (Told(reason, note, warning=True) for reason, note in notes)
    if new.phase == "Ready":
        took = new.metrics.load_time_seconds if new.metrics is not None else ""
        yield Told("Loaded", f"it answers, {took} s after its engine was started" if took else "it answers")
    if new.phase == "Idle" and old.phase in _AWAKE:
        yield Told("ModelScaledDown", new.message)
    if new.phase == "Failed":
        loaded = _condition(new, "Loaded")
        reason = _FAILED.get(loaded.reason, "LoadFailed") if loaded is not None else "LoadFailed"
        yield Told(reason, new.message, warning=True)


def _of_conditions(old: ModelStatus, new: ModelStatus) -> Iterator[Told]:
    for condition in new.conditions:
        before = _condition(old, condition.type)
        if condition.status != "False" or (before is not None and before.reason == condition.reason):
            continue
        if condition.type == "ConfigValid":
            reason = "AliasConflict" if condition.reason == "AliasConflict" else "ValidationFailed"
            yield Told(reason, condition.message, warning=True)
        elif condition.type == "Schedulable" and new.phase != "Failed":
            reason = "GPUDetectionFailed" if condition.reason == "NoMatchingNodes" else condition.reason
            yield Told(reason, condition.message, warning=True)
        elif condition.type == "Cached" and condition.reason.endswith("Failed"):
            yield Told("CacheFailed", condition.message, warning=True)
        elif condition.type == "Ready" and condition.reason == silence.REASON:
            yield Told(silence.REASON, condition.message, warning=True)


def _of_rollout(old: ModelStatus, new: ModelStatus) -> Iterator[Told]:
    """Of one after the first, which is no change."""
    before, now = _condition(old, "RolledOut"), _condition(new, "RolledOut")
    if before is not None and now is not None and before.reason != now.reason:
        yield Told(now.reason, now.message, warning=now.reason == "WentBack")


def _condition(status: ModelStatus, kind: str) -> Condition | None:
    return next((one for one in status.conditions if one.type == kind), None)
