"""KubeWorkloads: converge by applying a Service and a Deployment, observe by their pods.

Nothing about a Model is kept here that a restart would lose: a failure is read back from the Model's own
status, the choice of a vendor from its Deployment. Caches answer every look; only `converge` calls the store.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from datetime import timedelta
from http import HTTPStatus
from typing import NamedTuple

import msgspec

from flexinfer import logs
from flexinfer.api import defaults
from flexinfer.api.meta import ObjectKey
from flexinfer.api.v1alpha2.model import CacheStatus, Model
from flexinfer.api.wellknown import LABEL_MODEL
from flexinfer.backends import get as backend_of
from flexinfer.clock import Clock
from flexinfer.controllers import children, podfacts
from flexinfer.controllers.children import FIELD_MANAGER, LeftOver, NameTaken, Owner, Settled
from flexinfer.controllers.clusterview import ClusterView
from flexinfer.controllers.groupseats import REASON as GROUP_HAS_ITS_PLACE
from flexinfer.controllers.groupseats import GroupSeats
from flexinfer.controllers.inflight import InFlight
from flexinfer.controllers.loadlogs import LoadLogs, run_of
from flexinfer.controllers.preparing import Prepared, Surroundings, prepare
from flexinfer.controllers.rollouts import Rollouts, Sight
from flexinfer.errors import Conflict, Invalid, NotFound, StoreError
from flexinfer.kube import typed
from flexinfer.kube.apply import Child, converge
from flexinfer.kube.store import (
    DEPLOYMENTS,
    JOBS,
    NETWORK_POLICIES,
    PERSISTENT_VOLUME_CLAIMS,
    PODS,
    SERVICES,
    ObjectStore,
    Resource,
)
from flexinfer.lifecycle import pods
from flexinfer.lifecycle.decide import Decision, asks_again
from flexinfer.lifecycle.observed import ArtifactState, Blocked, Failure, Observed, Trouble
from flexinfer.lifecycle.pods import PodFacts
from flexinfer.lifecycle.rollout import Choice
from flexinfer.resources import model as resources
from flexinfer.resources import names
from flexinfer.resources.installation import Installation
from flexinfer.resources.model import deployment, service
from flexinfer.resources.model.deployment import Pods

log = logs.get("controller.workloads")

TAKEN_LOOK_S = 30.0
REFUSED_LOOK_S = 10.0
LEFT_OVER_LOOK_S = 1.0
ACTING_FIELDS = ("spec.gpu.shared",)
"""Of those that a later version does more with: its members take turns."""
DEAD_STAYS = timedelta(minutes=5)
_KINDS: dict[str, Resource] = {
    resource.kind: resource for resource in (SERVICES, DEPLOYMENTS, NETWORK_POLICIES, PERSISTENT_VOLUME_CLAIMS, JOBS)
}
_SEEN_BEFORE_START = frozenset({"BackendUnsupported", "VRAMInsufficient", "ConfigInvalid", "NameTaken", "Rejected"})
"""Failures that need no try to be found: what says that they are over is that they are not found any more."""


LookLater = Callable[[ObjectKey, float], None]
"""Has a Model looked at again after so many seconds."""


class _Entry:
    """What is remembered of one Model while this process leads."""

    def __init__(self, uid: str) -> None:
        self.uid = uid
        self.applied = Settled()
        self.taken = ""
        """Why a child cannot be made."""
        self.rejected: _Rejected | None = None
        self.refused: Trouble | None = None
        """What the API server says of the claim or the Job that is to bring the bytes."""


class _Rejected(NamedTuple):
    """The API server does not take what would be made of a Model."""

    generation: int
    trouble: Trouble
    again_at: float


class _Look(NamedTuple):
    prepared: Prepared
    rendered: Pods | None
    """What pods would be made from now; None: there can be none, or not yet."""
    deployment: typed.Deployment | None
    pods: tuple[PodFacts, ...]
    choice: Choice
    """Which revision they are to be of."""

    @property
    def asked(self) -> int:
        """Replicas that the Deployment was told to run."""
        return self.deployment.spec.replicas if self.deployment is not None else 0


class KubeWorkloads:
    def __init__(
        self,
        store: ObjectStore,
        view: ClusterView,
        installation: Installation,
        clock: Clock,
        look: LookLater,
        load: InFlight | None = None,
    ) -> None:
        self._store = store
        self._view = view
        self._installation = installation
        self._clock = clock
        self._look_later = look
        self._load = load
        self._rollouts = Rollouts(store, view)
        self._seats = GroupSeats(view)
        self.load_logs: LoadLogs | None = None
        """Set where the logs of engines can be read."""
        self._entries: dict[ObjectKey, _Entry] = {}

    async def observe(self, model: Model) -> Observed:
        look = self._look(model)
        seen = pods.judge(_counted(look))
        trouble = self._trouble(model, look) or seen.failed
        failure, generation = self._failure(model, trouble)
        rollout, conditions = self._rollouts.told(model, look.choice)
        return Observed(
            replicas=seen.replicas,
            acting_fields=ACTING_FIELDS,
            asked=look.asked,
            asked_by_load=self._asked_by_load(model, look.asked),
            # The bytes of a revision that serves are there.
            artifact=ArtifactState(ready=True) if look.choice.recorded else self._bytes(model, look.prepared),
            failure=failure,
            failed_generation=generation,
            endpoint=self._endpoint(model),
            blocked=_blocked(look, seen) or self._waits_for_its_group(model, seen),
            cache=_cache(look.prepared),
            again_in_s=_sooner(look.prepared.data.requeue_after_s, look.choice.again_in_s),
            rollout=rollout,
            notes=look.prepared.place.notes,
            conditions=(*look.prepared.data.conditions, *conditions),
            selector=f"{LABEL_MODEL}={names.label(model.metadata.name)}",
        )

    async def converge(self, model: Model, decision: Decision) -> None:
        entry = self._entry(model)
        look = self._look(
            model, again=entry.rejected is not None and self._clock.monotonic() >= entry.rejected.again_at
        )
        owner = Owner(model.api_version, model.kind, model.key, model.metadata.uid)
        await self._bring_bytes(model.key, look.prepared, entry)
        there = children.cached(self._view, model.key)
        made = await self._rollouts.pods(model, look.choice, look.rendered, owner)
        desired = self._desired(model, made, self._allowed(model, decision.replicas), owner)
        try:
            await children.check_free(self._store, children.unsettled(desired, there, entry.applied), there, owner)
        except NameTaken as taken:
            entry.taken = str(taken)
            self._look_later(model.key, TAKEN_LOOK_S)
            return
        except LeftOver as left:
            log.info("waiting for the garbage collector", model=str(model.key), reason=str(left))
            self._look_later(model.key, LEFT_OVER_LOOK_S)
            return
        entry.taken = ""
        stored = await self._applied(model, desired, there, entry)
        await self._sweep(model.key, look.pods)
        if look.choice.written is not None:
            for one in stored:
                if one.resource == DEPLOYMENTS:
                    entry.rejected = None
                    self._rollouts.applied(model, one.object["metadata"]["generation"], look.choice.written)

    async def _applied(
        self, model: Model, desired: Sequence[Child], there: Sequence[Child], entry: _Entry
    ) -> Sequence[Child]:
        """What the store has then; nothing where the API server does not take it, which is remembered."""
        uid = model.metadata.uid
        try:
            return await converge(
                self._store, desired, there, owner_uid=uid, field_manager=FIELD_MANAGER, applied=entry.applied
            )
        except StoreError as error:
            if not isinstance(error, Invalid) and not _by_admission(error):
                raise
            trouble = Trouble(reason="Rejected", message=str(error))
            again_at = self._clock.monotonic() + REFUSED_LOOK_S
            entry.rejected = _Rejected(model.metadata.generation, trouble, again_at)
            self._look_later(model.key, REFUSED_LOOK_S)
            return ()

    def _allowed(self, model: Model, replicas: int) -> int:
        """Of a shared group one runs at a time; when its place is free the others are looked at."""
        if replicas == 0:
            for key in self._seats.leave(model):
                self._look_later(key, 0.0)
        return replicas if replicas == 0 or self._seats.take(model) else 0

    def _waits_for_its_group(self, model: Model, seen: pods.Seen) -> Blocked | None:
        message = self._seats.waiting(model) if not seen.replicas else ""
        # A pod that goes, and takes its time, is no event of those that wait.
        return Blocked(reason=GROUP_HAS_ITS_PLACE, message=message) if message else None

    def _asked_by_load(self, model: Model, running: int) -> int | None:
        serverless = model.spec.serverless
        if self._load is None or serverless.max_replicas is None:
            return None
        return self._load.replicas(model.key, serverless.target_in_flight, running)

    async def _bring_bytes(self, key: ObjectKey, prepared: Prepared, entry: _Entry) -> None:
        """Claims and Jobs belong to all Models that share their content: a plan says whose they are, and which go."""
        applied = entry.applied
        made = [Child(_KINDS[obj["kind"]], obj) for obj in prepared.data.children]
        there = [seen for one in made if (seen := self._cached(one.resource, one.key)) is not None]
        entry.refused = None
        try:
            await converge(self._store, made, there, owner_uid="", field_manager=FIELD_MANAGER, applied=applied)
        except StoreError as error:
            if not _by_admission(error):
                raise
            entry.refused = Trouble(reason=_refusal(str(error), "ClaimRefused"), message=str(error))
            self._look_later(key, REFUSED_LOOK_S)
        for kind, name in prepared.data.obsolete:
            seen = self._cached(_KINDS[kind], ObjectKey(key.namespace, name))
            if seen is None or "deletionTimestamp" in seen.object["metadata"]:
                continue
            applied.forget(seen)
            meta = seen.object["metadata"]
            # What has changed hands since is looked at again.
            with contextlib.suppress(Conflict, NotFound):
                await self._store.delete(
                    seen.resource, seen.key, uid=meta["uid"], resource_version=meta["resourceVersion"]
                )

    async def _sweep(self, key: ObjectKey, seen: Sequence[PodFacts]) -> None:
        """What a node has ended stays long enough to be looked at; nobody else takes it away."""
        for name in pods.dead_for(seen, self._clock.now(), DEAD_STAYS):
            with contextlib.suppress(NotFound):
                await self._store.delete(PODS, ObjectKey(key.namespace, name))

    def _cached(self, resource: Resource, key: ObjectKey) -> Child | None:
        found: typed.PersistentVolumeClaim | typed.Job | None
        found = self._view.jobs.get(key) if resource == JOBS else self._view.claims.get(key)
        return children.seen(resource, found.metadata) if found is not None else None

    async def remove(self, key: ObjectKey) -> None:
        """The garbage collector takes the children with their owner."""
        self._entries.pop(key, None)
        self._rollouts.forget(key)

    def _entry(self, model: Model) -> _Entry:
        entry = self._entries.get(model.key)
        if entry is None or entry.uid != model.metadata.uid:
            entry = self._entries[model.key] = _Entry(model.metadata.uid)
        return entry

    def _look(self, model: Model, *, again: bool = False) -> _Look:
        """`again`: what was rejected is tried anew."""
        resolved = msgspec.structs.replace(model, spec=defaults.resolve(model.spec))
        there = self._view.deployments.get(ObjectKey(model.key.namespace, names.workload(model.metadata.name)))
        if there is not None and all(owner.uid != model.metadata.uid for owner in there.metadata.owner_references):
            there = None
        running = any(one.spec.node_name for one in self._view.pods_of(model.key))
        prepared = prepare(
            resolved,
            Surroundings(
                nodes=self._view.cluster_nodes(),
                runtime_classes=frozenset(key.name for key, _ in self._view.runtime_classes.items()),
                bytes=self._view.cache.facts(resolved, self._clock.now(), self._installation),
                installation=self._installation,
                standing=deployment.standing(there.metadata.annotations) if there is not None and running else None,
            ),
        )
        entry = self._entries.get(model.key)
        rejected = entry.rejected if entry is not None and not again else None
        if rejected is not None and rejected.generation == model.metadata.generation:
            prepared = prepared._replace(engine=None, fault=prepared.fault or rejected.trouble)
        rendered = None
        if prepared.engine is not None:
            rendered = resources.pods(resolved, prepared.engine, prepared.data, self._installation)
        seen = tuple(
            self._with_progress(one, podfacts.of(one, prepared.place, self._lost))
            for one in self._view.pods_of(model.key)
        )
        sight = Sight(
            prepared=prepared,
            rendered=rendered,
            deployment=there,
            pods=seen,
            refused=_refused(there),
            now=self._clock.now(),
        )
        return _Look(prepared, rendered, there, seen, self._rollouts.choose(model, sight))

    def _with_progress(self, one: typed.Pod, facts: PodFacts) -> PodFacts:
        if self.load_logs is None:
            return facts
        restarts = next((status.restart_count for status in one.status.container_statuses), 0)
        key = ObjectKey(one.metadata.namespace, one.metadata.name)
        seen = self.load_logs.of(key, run_of(one.metadata.uid, restarts))
        if seen is None:
            return msgspec.structs.replace(facts, progress_at=self.load_logs.began_at)
        stage, progress = seen.stage
        return msgspec.structs.replace(facts, stage=stage, progress=progress, progress_at=seen.moved_at)

    def _lost(self, node: str) -> str:
        seen = self._view.nodes.get(ObjectKey("", node))
        return seen.lost if seen is not None else f"node {node} is gone"

    def _trouble(self, model: Model, look: _Look) -> Trouble | None:
        entry = self._entries.get(model.key)
        if entry is not None and entry.taken:
            return Trouble(reason="NameTaken", message=entry.taken)
        # A revision that stays is none the worse for what is wrong with the spec.
        if look.choice.recorded:
            return None
        if entry is not None and entry.refused is not None and not look.prepared.data.state.ready:
            return entry.refused
        return look.prepared.fault

    def _failure(self, model: Model, trouble: Trouble | None) -> tuple[Failure | None, int]:
        """The failure, and the generation of the Model that it belongs to."""
        known, generation = _told(model)
        if trouble is None:
            over = known is None or known.reason in _SEEN_BEFORE_START or _of_its_bytes(model, known)
            return (None, 0) if over else (known, generation)
        # As old as its first sight, unless somebody has asked for the model since its pause was over.
        same = known is not None and known.reason == trouble.reason and generation == model.metadata.generation
        at = known.at if same and known is not None and not asks_again(model, known) else self._clock.now()
        return Failure(reason=trouble.reason, message=trouble.message, at=at, live=True), model.metadata.generation

    def _bytes(self, model: Model, prepared: Prepared) -> ArtifactState:
        entry = self._entries.get(model.key)
        state = prepared.data.state
        if state.ready or entry is None or entry.refused is None:
            return state
        return msgspec.structs.replace(state, reason=entry.refused.reason, message=entry.refused.message)

    def _endpoint(self, model: Model) -> str:
        return service.url(model, backend_of(model.spec.backend).port, self._installation)

    def _desired(self, model: Model, pods: Pods | None, replicas: int, owner: Owner) -> list[Child]:
        resolved = msgspec.structs.replace(model, spec=defaults.resolve(model.spec))
        port = backend_of(model.spec.backend).port
        if pods is None:
            return [children.child(SERVICES, service.build(resolved, port), owner)]
        built = resources.build(resolved, replicas, pods, port, self._installation)
        return [children.child(_KINDS[obj["kind"]], obj, owner) for obj in built]


def _told(model: Model) -> tuple[Failure | None, int]:
    """The failure that the Model's status tells, and the generation that it was told for."""
    loaded = model.condition("Loaded")
    if model.status.phase != "Failed" or loaded is None or loaded.last_transition_time is None:
        return None, 0
    failure = Failure(reason=loaded.reason, message=loaded.message, at=loaded.last_transition_time)
    return failure, loaded.observed_generation


def _of_its_bytes(model: Model, known: Failure) -> bool:
    """A download that failed is over once another one is on its way."""
    cached = model.condition("Cached")
    return cached is not None and (cached.status, cached.reason) == ("False", known.reason)


def _blocked(look: _Look, seen: pods.Seen) -> Blocked | None:
    place = look.prepared.place
    if place.reason == "NoMatchingNodes" and not seen.replicas:
        said = seen.blocked.message if seen.blocked is not None else ""
        message = "; ".join(filter(None, (place.message, said)))
        return Blocked(reason=place.reason, message=message, watched=True)
    refused = _refused(look.deployment)
    if seen.blocked is not None or seen.replicas or not refused:
        return seen.blocked
    return Blocked(reason=_refusal(refused), message=refused, watched=True)


def _refused(there: typed.Deployment | None) -> str:
    """Why the API server takes no pods of it; empty where it does."""
    found = _condition(there, "ReplicaFailure") if there is not None else None
    return found.message or found.reason if found is not None and found.status == "True" else ""


def _counted(look: _Look) -> list[PodFacts]:
    """While pods of the revision before serve, those of the new one are the rollout's matter, and no trouble."""
    to = look.choice.written
    current = to.template if to is not None else ""
    found = [msgspec.structs.replace(one, current=one.template == current) for one in look.pods]
    back = look.choice.state == "WentBack"
    if back or any(one.ready and not one.current and not one.deleting for one in found):
        return [one for one in found if one.ready or (back and one.current)]
    return found


def _sooner(*due_s: float | None) -> float | None:
    return min((one for one in due_s if one is not None), default=None)


def _condition(there: typed.Deployment, kind: str) -> typed.Condition | None:
    return next((one for one in there.status.conditions if one.type == kind), None)


def _by_admission(error: StoreError) -> bool:
    """A quota or a policy of the namespace refuses it, and not that the manager lacks a right."""
    return error.status == HTTPStatus.FORBIDDEN and " cannot " not in str(error)


def _refusal(message: str, otherwise: str = "PodRefused") -> str:
    """One word for why the API server takes no pods, or no claim."""
    if "exceeded quota" in message:
        return "QuotaExceeded"
    return "PodSecurity" if "PodSecurity" in message else otherwise


def _cache(prepared: Prepared) -> CacheStatus:
    data = prepared.data
    return CacheStatus(
        strategy=data.strategy,
        ready=data.state.ready,
        pvc_name=data.pvc_name,
        job_name=data.job_name,
        job_phase=data.job_phase,
        message=data.state.message,
        size_bytes=data.state.size_bytes,
    )
