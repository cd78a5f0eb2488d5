"""What the pods of a Model tell: replicas, what is in their way, and whether an attempt to run it has failed.

Kubernetes tries again by itself, for ever. So a failure is a judgement: an image that cannot be pulled, a
container that cannot be made, an engine that ended more often than `restarts` allows. The words are those of
the node, the scheduler or the engine itself, with what they are about in front.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

import msgspec

from flexinfer.api.v1alpha2.model import AllocatedGPU
from flexinfer.lifecycle import restarts
from flexinfer.lifecycle.observed import Blocked, Replica, ReplicaState, Trouble

OOM_EXIT_CODE = 137
_NO_IMAGE = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ImageInspectError", "ErrImageNeverPull"}
)
_CANNOT_BE_MADE = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
_FINAL = _CANNOT_BE_MADE | _NO_IMAGE - {"ErrImagePull"}
"""A first failed pull is often mended by the next; the others are told at once."""
_WORDS = 1500


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """How a run of a container ended."""

    exit_code: int = 0
    reason: str = ""
    message: str = ""
    """Its last lines, where it failed."""
    started_at: datetime | None = None
    finished_at: datetime | None = None

    @property
    def lasted_s(self) -> float:
        if self.started_at is None or self.finished_at is None:
            return 0.0
        return (self.finished_at - self.started_at).total_seconds()


class ContainerFacts(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    init: bool = False
    ready: bool = False
    started: bool = False
    """It has answered since it was started."""
    restarts: int = 0
    waiting: tuple[str, str] | None = None
    """Reason and message."""
    running_since: datetime | None = None
    ended: Ended | None = None
    last: Ended | None = None
    """The run before."""
    memory_limit: str = ""


class PodFacts(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    created_at: datetime
    node: str = ""
    phase: str = ""
    reason: str = ""
    message: str = ""
    deleting: bool = False
    unschedulable: str = ""
    """The scheduler's words."""
    ready: bool = False
    ready_changed_at: datetime | None = None
    lost: str = ""
    """Why its node is not heard of."""
    current: bool = True
    """Made from the template that is wanted now."""
    template: str = ""
    """Digest of the template that it was made from."""
    stage: str = ""
    """What its engine does, by its own words."""
    progress: float | None = None
    progress_at: datetime | None = None
    """When its load last went on."""
    gpu: AllocatedGPU | None = None
    containers: tuple[ContainerFacts, ...] = ()
    """Init containers first."""


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    replicas: tuple[Replica, ...] = ()
    blocked: Blocked | None = None
    failed: Trouble | None = None


def judge(pods: Iterable[PodFacts]) -> Seen:
    """Pods that are going do not count; those of an older template count, but not their failures."""
    there = sorted((pod for pod in pods if not pod.deleting), key=lambda pod: (not pod.ready, pod.created_at, pod.name))
    living = [pod for pod in there if pod.phase not in ("Failed", "Succeeded")]
    placed = [pod for pod in living if pod.node]
    replicas = tuple(replica(pod) for pod in placed)
    failed = next((trouble for pod in placed if pod.current and (trouble := failure(pod)) is not None), None)
    return Seen(replicas=replicas, blocked=_blocked(there, living), failed=failed)


def _blocked(there: Sequence[PodFacts], living: Sequence[PodFacts]) -> Blocked | None:
    for pod in living:
        if not pod.node and pod.unschedulable:
            return Blocked(reason="Unschedulable", message=_bounded(pod.unschedulable), watched=True)
    if living:
        return None
    dead = max((pod for pod in there if pod.phase == "Failed"), key=lambda pod: pod.created_at, default=None)
    if dead is None:
        return None
    said = ": ".join(filter(None, (f"pod {dead.name} was ended by its node", dead.reason, dead.message)))
    return Blocked(reason=dead.reason or "PodFailed", message=_bounded(said), watched=True)


def replica(pod: PodFacts) -> Replica:
    engine = next((one for one in pod.containers if not one.init), None)
    running_since = engine.running_since if engine is not None else None
    trouble = None if pod.ready else _trouble(pod)
    state = _state(pod, engine)
    fell_out = state == "loading" and engine is not None and engine.started
    return Replica(
        name=pod.name,
        state=state,
        started_at=running_since or pod.created_at,
        substage=_substage(pod, engine) if state in ("starting", "loading") else "",
        # What was ready and is not has until the load limit from then on.
        progress_at=pod.ready_changed_at if fell_out else _moved_at(pod, running_since),
        progress=pod.progress if state == "loading" else None,
        ready_at=pod.ready_changed_at if pod.ready else None,
        restarts=max((one.restarts for one in pod.containers), default=0),
        gpu=pod.gpu,
        trouble=trouble,
    )


def _moved_at(pod: PodFacts, running_since: datetime | None) -> datetime | None:
    """When its load last went on; None where nothing has been seen of it since it was started."""
    if running_since is None or pod.progress_at is None or pod.progress_at <= running_since:
        return None
    return pod.progress_at


def _state(pod: PodFacts, engine: ContainerFacts | None) -> ReplicaState:
    if pod.ready:
        return "ready"
    if any(_is_between_runs(one) for one in pod.containers):
        return "backoff"
    return "loading" if engine is not None and engine.running_since is not None else "starting"


def _is_between_runs(container: ContainerFacts) -> bool:
    if container.init and container.ended is not None and container.ended.exit_code == 0:
        return False
    return container.ended is not None or (container.waiting is not None and container.restarts > 0)


def _substage(pod: PodFacts, engine: ContainerFacts | None) -> str:
    if engine is not None and engine.running_since is not None:
        return pod.stage or "LoadingWeights"
    staging = any(one.init and one.running_since is not None for one in pod.containers)
    return "Staging" if staging else "StartingContainer"


def _trouble(pod: PodFacts) -> Trouble | None:
    if pod.lost:
        return Trouble(reason="NodeLost", message=pod.lost)
    return next((trouble for one in pod.containers if (trouble := _of_container(one)) is not None), None)


def _of_container(container: ContainerFacts) -> Trouble | None:
    where = f"init container {container.name}: " if container.init else ""
    reason, message = container.waiting or ("", "")
    if reason in _NO_IMAGE or reason in _CANNOT_BE_MADE:
        return Trouble(reason=reason, message=_bounded(f"{where}{message or reason}"))
    last = container.ended or container.last
    done = container.init and last is not None and last.exit_code == 0
    if last is None or done or (container.restarts == 0 and container.ended is None):
        if container.started and not container.ready:
            return Trouble(reason="NotAnswering", message=f"{where}the engine answered before and does not now")
        return None
    return Trouble(reason=_ending(last, reason), message=_bounded(where + _said(container, last)))


def _ending(last: Ended, waiting: str) -> str:
    if last.reason == "OOMKilled":
        return "OOMKilled"
    return waiting if waiting == "CrashLoopBackOff" else "EngineExited"


def _said(container: ContainerFacts, last: Ended) -> str:
    runs = container.restarts + (1 if container.ended is not None else 0)
    how = f"exit code {last.exit_code}"
    if last.reason == "OOMKilled":
        limit = f" of {container.memory_limit}" if container.memory_limit else ""
        how += f", OOMKilled: it took more than its memory limit{limit}"
    elif last.reason not in ("", "Error", "Completed"):
        how += f", {last.reason}"
    times = "once" if runs == 1 else f"{runs} times"
    words = f"\n{last.message.strip()}" if last.message.strip() else ""
    return f"the engine ended {times} (restarts: {container.restarts}), last with {how}{words}"


def failure(pod: PodFacts) -> Trouble | None:
    """Why this pod's attempt counts as failed, though Kubernetes goes on trying."""
    for container in pod.containers:
        reason, _ = container.waiting or ("", "")
        if reason in _FINAL:
            return _of_container(container)
        last = container.ended or container.last
        gave_up = container.restarts > restarts.MAX_RESTARTS and _is_between_runs(container)
        if gave_up and last is not None and restarts.counted(container.restarts, last.lasted_s):
            return _of_container(container)
    return None


def dead_for(pods: Iterable[PodFacts], now: datetime, least: timedelta) -> list[str]:
    """Pods that failed so long ago: nobody else takes them away."""
    return [pod.name for pod in pods if pod.phase == "Failed" and not pod.deleting and now - pod.created_at >= least]


def _bounded(text: str) -> str:
    return text if len(text) <= _WORDS else f"{text[: _WORDS - 1]}…"
