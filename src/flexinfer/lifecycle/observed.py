"""Observed: the facts a decision may look at.

A place that runs models (`KubeWorkloads`, `LocalWorkloads`) fills it in; `lifecycle.decide` reads
nothing else but the Model and the time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Literal

import msgspec

from flexinfer.api.meta import Condition
from flexinfer.api.v1alpha2.model import AllocatedGPU, CacheStatus, RolloutStatus
from flexinfer.lifecycle.silence import Silence

ReplicaState = Literal["starting", "loading", "ready", "stopping", "backoff"]


class Trouble(msgspec.Struct, frozen=True, kw_only=True):
    """What a node or a scheduler says of a replica that is not ready."""

    reason: str
    """CamelCase, where there is one as Kubernetes writes it: OOMKilled, CrashLoopBackOff, ImagePullBackOff, …"""
    message: str


class Replica(msgspec.Struct, frozen=True, kw_only=True):
    """One running or restarting instance of the engine."""

    name: str
    state: ReplicaState
    started_at: datetime
    substage: str = ""
    """What a loading replica does: StartingEngine, LoadingWeights, WarmingUp, PullingModel, CheckingDevice."""
    progress: float | None = None
    progress_at: datetime | None = None
    ready_at: datetime | None = None
    restarts: int = 0
    device: str = ""
    gpu: AllocatedGPU | None = None
    """The first of its devices; None on the CPU."""
    memory_mib: int = 0
    pid: int | None = None
    """Local mode only."""
    address: str = ""
    """host:port it serves on."""
    hangs: bool = False
    """It takes requests and answers none of them in time, whatever its health check says."""
    trouble: Trouble | None = None
    """Why it is not ready, where whoever runs it says more than that it is starting."""


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why the last attempt to run the model ended for good."""

    reason: str
    """CamelCase: EngineExited, LoadTimeout, ArtifactInvalid, EngineMissing, EngineHasNoGPU, …"""
    message: str
    """For people: exit code and last lines of the log included."""
    at: datetime
    live: bool = False
    """It is seen anew with every look and gone when its cause is: nobody has to ask for another try."""


class ArtifactState(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the model's bytes are there, whole and verified."""

    ready: bool
    reason: str = ""
    message: str = ""
    substage: str = ""
    """Downloading, while the bytes are on their way."""
    progress: float | None = None
    progress_at: datetime | None = None
    started_at: datetime | None = None
    left_s: int | None = None
    """Until they are here, at the present rate."""
    size_bytes: int = 0


class Blocked(msgspec.Struct, frozen=True, kw_only=True):
    """Why a model that is wanted cannot be started before others end."""

    reason: str
    """VRAMInsufficient, MemoryInsufficient, Preempted, …"""
    message: str
    """With the numbers, and who is in the way."""
    watched: bool = False
    """Its end is an event: nobody has to look again before."""


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What clients do with a model just now."""

    open: int = 0
    """Requests that a replica is answering."""
    waiting: int = 0
    idle_s: float = math.inf
    """Since the last request ended, as far as it is known."""
    silences: Mapping[str, Silence] = {}
    """What each replica has answered and what not, by the name of its endpoint."""

    @property
    def busy(self) -> bool:
        return self.open > 0 or self.waiting > 0


class Observed(msgspec.Struct, frozen=True, kw_only=True):
    replicas: tuple[Replica, ...] = ()
    asked: int | None = None
    """Replicas that the place was told to run last, where those that end or come beside them are seen too."""
    artifact: ArtifactState = ArtifactState(ready=True)
    failure: Failure | None = None
    failed_generation: int = 0
    """Generation of the Model that `failure` belongs to."""
    cache: CacheStatus | None = None
    """Where the bytes lie, where the place knows more than whether they are there."""
    conditions: tuple[Condition, ...] = ()
    """What the place itself has to say, beside what a decision says."""
    notes: tuple[tuple[str, str], ...] = ()
    """What is worth an event when it is started: (reason, sentence)."""
    selector: str = ""
    """Of the pods, where there are any."""
    rollout: RolloutStatus | None = None
    """Which revision serves, where the place has revisions."""
    again_in_s: float | None = None
    """When time alone changes what the place does."""
    ignored_fields: tuple[str, ...] = ()
    """Fields of the spec that mean nothing in this place."""
    acting_fields: tuple[str, ...] = ()
    """Fields that act in this place already, although not in every one."""
    engine_on_cpu: str = ""
    """Set when the engine said that it computes on the CPU although a GPU was asked for."""
    endpoint: str = ""
    """Base URL that clients of this place call."""
    open_requests: int = 0
    """Requests that a replica is answering, where the place knows."""
    blocked: Blocked | None = None
    """Set while nothing of it runs and its memory or device is taken."""
    alias_conflict: str = ""
    """Set by whoever sees all Models: which names it shares with others, and who has them."""
    asked_by_load: int | None = None
    """Replicas that the requests in flight ask for, where somebody counts them."""
    yields_to: str = ""
    """The model that it makes room for, or has made room for and not been used since."""

    @property
    def running(self) -> int:
        """Replicas that a decision to change nothing keeps."""
        return len(self.replicas) if self.asked is None else self.asked


class Traffic(msgspec.Struct, frozen=True, kw_only=True):
    """What clients got from a model over the last minute."""

    tokens_per_second: float
    latency_avg_s: float
