"""Which revision of a Model its pods are made of, and when a rollout goes back. Pure.

A revision is the part of the spec that pods are made of (`revision_of`). What is in the pods is written beside
their template, in one annotation of the Deployment, so that both change in one write:

- A changed spec is rendered once it can be: until then, and until a pod of it is ready, the old one serves.
- The new pod comes beside the old one. Where no device is free for it, the old one is drained and makes room.
- A revision that fails before it has served is taken back: the template of the one that served comes again, as
  it was recorded. The failed one is not tried again until the spec changes.
- What a new version of the manager renders differently is taken over when no pod serves, never before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple

import msgspec

from flexinfer.api import codec
from flexinfer.api.meta import Condition
from flexinfer.api.v1alpha2.model import Model
from flexinfer.lifecycle.observed import Trouble

PATIENCE_S: Final = 3.0
"""How long a new pod waits for a free device before the old one makes room."""
KEPT: Final = 10
"""Revisions that are remembered."""
_NOT_IN_PODS: Final = frozenset({"replicas", "serverless", "slo", "benchmark", "litellm", "serviceLabels"})

State = Literal["Serving", "RollingOut", "WentBack", "Waiting"]
Strategy = Literal["surge", "swap"]


def revision_of(model: Model) -> str:
    """Ten hexadecimal digits. Fields at their default do not count, so that new fields change nothing."""
    spec: dict[str, Any] = codec.to_object(model)["spec"]
    parts = {name: value for name, value in spec.items() if name not in _NOT_IN_PODS}
    return hashlib.sha256(msgspec.json.encode(parts, order="sorted")).hexdigest()[:10]


class Failed(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    revision: str
    reason: str
    message: str = ""


class Written(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the Deployment says of its own template."""

    revision: str
    template: str
    """Digest of the pod template."""
    back: str = ""
    """The revision that served before it."""
    failed: Failed | None = None
    """The last one that was taken back."""


class Pod(NamedTuple):
    template: str
    ready: bool
    placed: bool
    since: datetime
    """When it last got further: made, started, or said so."""
    failure: Trouble | None = None
    """Why its attempt has failed, though it is tried on."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    wanted: str
    """Revision of the spec."""
    template: str = ""
    """Digest of what would be rendered from it now; empty: it cannot be yet."""
    hindrance: Trouble | None = None
    """Why it cannot."""
    written: Written | None = None
    """None: there is no Deployment."""
    served: str = ""
    """The revision that served last."""
    recorded: Mapping[str, str] = {}
    """Revision -> digest of its template, of those that are remembered."""
    pods: Sequence[Pod] = ()
    """Those that are not going."""
    freed_at: datetime | None = None
    """When a pod of it that was going was last there: until then it held its device."""
    refused: str = ""
    """Why the API server takes no more pods, a quota for one."""
    fits: bool = True
    """Whether some node could hold a pod if it were empty."""
    budget_s: float
    """A pod that gets no further for so long has failed."""


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    written: Written | None = None
    """What the Deployment is to be; None: it cannot be made yet."""
    recorded: bool = False
    """The template comes from the record of its revision, and is not rendered."""
    strategy: Strategy = "surge"
    state: State = "Serving"
    message: str = ""
    serving: str = ""
    again_in_s: float | None = None


def choose(facts: Facts, now: datetime) -> Choice:
    return _finished(_chosen(facts, now), facts, now)


def _chosen(facts: Facts, now: datetime) -> Choice:
    there = facts.written
    if there is None:
        back = facts.served if facts.served != facts.wanted and facts.served in facts.recorded else ""
        return _rendered(facts, back)
    if there.revision == facts.wanted:
        return _attempt(facts, there, now)
    serves = any(pod.ready for pod in facts.pods if pod.template == there.template)
    known = facts.recorded.get(there.revision) == there.template
    if there.failed is not None and there.failed.revision == facts.wanted and known:
        return Choice(written=there, recorded=True, state="WentBack")
    if not facts.template and serves and known:
        return Choice(written=there, recorded=True, state="Waiting")
    good = known and (serves or there.revision == facts.served)
    return _rendered(facts, there.revision if good else _back(facts, there))


def _attempt(facts: Facts, there: Written, now: datetime) -> Choice:
    """The revision of the spec is in the Deployment."""
    back = _back(facts, there)
    trouble = _trouble(facts, there.template, now) if facts.served != facts.wanted else None
    if trouble is not None and back:
        failed = Failed(revision=there.revision, reason=trouble.reason, message=trouble.message)
        written = Written(revision=back, template=facts.recorded[back], failed=failed)
        return Choice(written=written, recorded=True, state="WentBack")
    known = facts.recorded.get(there.revision) == there.template
    if (
        facts.template != there.template
        and known
        and any(pod.ready for pod in facts.pods if pod.template == there.template)
    ):
        return Choice(written=there, recorded=True)
    return _rendered(facts, there.back)


def _rendered(facts: Facts, back: str) -> Choice:
    if not facts.template:
        return Choice()
    return Choice(written=Written(revision=facts.wanted, template=facts.template, back=back))


def _back(facts: Facts, there: Written) -> str:
    return there.back if there.back != facts.wanted and there.back in facts.recorded else ""


def _trouble(facts: Facts, template: str, now: datetime) -> Trouble | None:
    for pod in facts.pods:
        if pod.template != template or pod.ready:
            continue
        if pod.failure is not None:
            return pod.failure
        if (now - pod.since).total_seconds() >= facts.budget_s:
            if pod.placed:
                return Trouble(reason="LoadTimeout", message=f"it was not ready within {facts.budget_s:.0f} s")
            return Trouble(reason="Unschedulable", message=f"no node took it within {facts.budget_s:.0f} s")
    return None


def _finished(choice: Choice, facts: Facts, now: datetime) -> Choice:
    """With what follows from the choice: strategy, who serves, when time alone changes something."""
    there, to = facts.written, choice.written
    serving = facts.served
    if there is not None and _alone(facts, there.template):
        serving = there.revision
    if to is None:
        return msgspec.structs.replace(choice, serving=serving)
    state = choice.state
    if state == "Serving" and serving not in ("", to.revision):
        state = "RollingOut"
    strategy, waits_s = _strategy(facts, to.template, now)
    coming = [pod for pod in facts.pods if pod.template == to.template and not pod.ready]
    due = [facts.budget_s - (now - pod.since).total_seconds() for pod in coming]
    due += [waits_s] if waits_s is not None else []
    return msgspec.structs.replace(
        choice,
        strategy=strategy,
        state=state,
        serving=serving,
        message=_message(choice, facts),
        again_in_s=max(0.0, min(due)) if due else None,
    )


def _alone(facts: Facts, template: str) -> bool:
    """All pods are of one template, and serve."""
    return bool(facts.pods) and all(pod.ready and pod.template == template for pod in facts.pods)


def _strategy(facts: Facts, template: str, now: datetime) -> tuple[Strategy, float | None]:
    """How the Deployment brings a new template up, and when time alone changes that."""
    others = [pod for pod in facts.pods if pod.template != template]
    if not others:
        return "surge", None
    if not any(pod.ready for pod in others) or facts.refused:
        return "swap", None
    waiting = [pod for pod in facts.pods if pod.template == template and not pod.placed]
    if not waiting or not facts.fits:
        return "surge", None
    since = min(pod.since for pod in waiting)
    since = max(since, facts.freed_at) if facts.freed_at is not None else since
    left_s = PATIENCE_S - (now - since).total_seconds()
    return ("swap", None) if left_s <= 0 else ("surge", left_s)


def _message(choice: Choice, facts: Facts) -> str:
    to = choice.written
    if choice.state == "WentBack" and to is not None and to.failed is not None:
        return f"{to.failed.reason}: {to.failed.message}" if to.failed.message else to.failed.reason
    if choice.state == "Waiting" and facts.hindrance is not None:
        return f"{facts.hindrance.reason}: {facts.hindrance.message}"
    return facts.refused


def condition(choice: Choice, numbers: Mapping[str, int], wanted: str) -> Condition | None:
    """RolledOut: whether the spec's revision serves, and which does. None before anything has served."""
    to = choice.written
    if to is None or not choice.serving:
        return None
    new, serves = _named(wanted, numbers), f"revision {_named(choice.serving, numbers)} serves"
    because = f": {choice.message}" if choice.message else ""
    match choice.state:
        case "Serving":
            told = serves
        case "RollingOut":
            told = f"{serves}; revision {new} takes its place when it is ready{because}"
        case "Waiting":
            told = f"{serves}; revision {new} cannot be started yet{because}"
        case "WentBack":
            told = f"{serves}; revision {new} failed and is not tried again until the spec changes{because}"
    done = choice.state == "Serving"
    reason = "RolledOut" if done else choice.state
    return Condition(type="RolledOut", status="True" if done else "False", reason=reason, message=told)


def _named(revision: str, numbers: Mapping[str, int]) -> str:
    number = numbers.get(revision)
    return revision if number is None else f"{number} ({revision})"
