"""CacheIndex: claims, Jobs and their pods as values that `resources.model.cache` decides on, and whom they concern.

Objects are taken apart when they change, not when they are looked at; a look costs what it finds, however many
Models there are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping
from datetime import datetime
from typing import Any, Generic, TypeVar

import msgspec

from flexinfer.api.meta import ObjectKey
from flexinfer.api.v1alpha2.model import Model
from flexinfer.api.wellknown import (
    ANNOTATION_ATTEMPT,
    ANNOTATION_CACHE_CLAIM,
    ANNOTATION_COPIES,
    ANNOTATION_RECIPE,
    ANNOTATION_RETAINED_FOR,
    ANNOTATION_SOURCE,
    LABEL_CONTENT,
    LABEL_TASK,
)
from flexinfer.artifacts import files, source
from flexinfer.controllers import loaderwords
from flexinfer.errors import FlexInferError
from flexinfer.kube import typed
from flexinfer.resources.installation import Installation
from flexinfer.resources.model.cachefacts import CacheFacts, Claim, Copy, Owner, StorageClass, Task, TaskPhase
from flexinfer.resources.model.content import content_of, spare_claim, usual_claim

DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"
_COPIES = msgspec.json.Decoder(dict[str, Copy])
_QUIET = frozenset({"", "ContainerCreating", "PodInitializing"})

K = TypeVar("K")
Enqueue = Callable[[ObjectKey], None]


class _Groups(Generic[K]):
    """Things by what they have in common; each may be in several groups."""

    def __init__(self) -> None:
        self._groups: defaultdict[Hashable, dict[K, None]] = defaultdict(dict)
        self._of: dict[K, tuple[Hashable, ...]] = {}

    def put(self, thing: K, groups: Iterable[Hashable]) -> None:
        self.drop(thing)
        self._of[thing] = tuple(groups)
        for group in self._of[thing]:
            self._groups[group][thing] = None

    def drop(self, thing: K) -> None:
        for group in self._of.pop(thing, ()):
            self._groups[group].pop(thing, None)
            if not self._groups[group]:
                del self._groups[group]

    def get(self, *groups: Hashable) -> list[K]:
        found: dict[K, None] = {}
        for group in groups:
            found |= self._groups.get(group, {})
        return list(found)


class CacheIndex:
    """Fed by the handlers of informers; `listen` says who hears of the Models that a change concerns."""

    def __init__(self) -> None:
        self._models: dict[ObjectKey, Model] = {}
        self._alive: defaultdict[str, dict[str, ObjectKey]] = defaultdict(dict)
        """By namespace: uid to key."""
        self._claims: dict[ObjectKey, Claim] = {}
        self._jobs: dict[ObjectKey, typed.Job] = {}
        self._pods: dict[ObjectKey, typed.Pod] = {}
        self._classes: dict[ObjectKey, StorageClass] = {}
        self._models_by: _Groups[ObjectKey] = _Groups()
        self._claims_by: _Groups[ObjectKey] = _Groups()
        self._jobs_by: _Groups[ObjectKey] = _Groups()
        self._pods_by: _Groups[ObjectKey] = _Groups()
        self._tell: Enqueue = lambda _key: None

    def listen(self, enqueue: Enqueue) -> None:
        self._tell = enqueue

    def facts(
        self, model: Model, now: datetime, installation: Installation, placement: Mapping[str, Any] | None = None
    ) -> CacheFacts:
        namespace, uid, content = model.key.namespace, model.metadata.uid, content_of(model)
        groups = [("content", namespace, content)] if content else []
        if model.spec.cache.pvc_name:
            groups.append(("claim", namespace, model.spec.cache.pvc_name))
        near = [self._models[key] for key in self._models_by.get(*groups)]
        claims = [
            *self._claims_by.get(("owner", uid), *groups),
            *(ObjectKey(namespace, name) for name in _names(model, near)),
        ]
        found = [self._claims[key] for key in dict.fromkeys(claims) if key in self._claims]
        jobs = self._jobs_by.get(
            ("owner", uid), *groups, *(("claim", namespace, claim.name) for claim in found if not claim.content)
        )
        return CacheFacts(
            now=now,
            installation=installation,
            models=tuple(near),
            placement=placement or {},
            alive=self._alive[namespace].keys(),
            claims=tuple(found),
            tasks=tuple(self._task(key) for key in jobs),
            classes=tuple(self._classes.values()),
        )

    # ── what informers tell

    def on_model(self, key: ObjectKey, old: Model | None, new: Model | None) -> None:
        # Those that shared something with it hear of it: who owns a claim is for all of them to see.
        concerned = self._sharing(old) | self._sharing(new)
        if old is not None:
            self._alive[key.namespace].pop(old.metadata.uid, None)
        if new is None:
            self._models.pop(key, None)
            self._models_by.drop(key)
        else:
            self._models[key] = new
            self._alive[key.namespace][new.metadata.uid] = key
            self._models_by.put(key, _groups_of(new))
        if old is None or new is None or _groups_of(old) != _groups_of(new) or _wish(old) != _wish(new):
            for other in concerned | self._sharing(new):
                if other != key:
                    self._tell(other)

    def on_claim(
        self, key: ObjectKey, _old: typed.PersistentVolumeClaim | None, new: typed.PersistentVolumeClaim | None
    ) -> None:
        before = self._claims.pop(key, None)
        self._claims_by.drop(key)
        if new is not None:
            claim = self._claims[key] = claim_of(new)
            contents = {claim.content, *claim.copies} - {""}
            self._claims_by.put(
                key,
                [
                    *(("content", key.namespace, content) for content in contents),
                    *(("owner", owner.uid) for owner in claim.owners),
                ],
            )
        if before != self._claims.get(key):
            self._concerned(key.namespace, (before, self._claims.get(key)), key.name)

    def on_job(self, key: ObjectKey, old: typed.Job | None, new: typed.Job | None) -> None:
        self._jobs.pop(key, None)
        self._jobs_by.drop(key)
        if new is not None and LABEL_TASK in new.metadata.labels:
            self._jobs[key] = new
            meta = new.metadata
            self._jobs_by.put(
                key,
                [
                    ("content", key.namespace, meta.labels.get(LABEL_CONTENT, "")),
                    ("claim", key.namespace, meta.annotations.get(ANNOTATION_CACHE_CLAIM, "")),
                    *(("owner", owner.uid) for owner in meta.owner_references),
                ],
            )
        for job in (old, new):
            if job is not None and LABEL_TASK in job.metadata.labels:
                self._concerned_by_job(key.namespace, job.metadata)

    def on_pod(self, key: ObjectKey, old: typed.Pod | None, new: typed.Pod | None) -> None:
        """Of a Job; others are passed over."""
        pod = new or old
        if pod is None or LABEL_TASK not in pod.metadata.labels:
            return
        self._pods.pop(key, None)
        self._pods_by.drop(key)
        jobs = [ObjectKey(key.namespace, one.name) for one in pod.metadata.owner_references if one.kind == "Job"]
        if new is not None:
            self._pods[key] = new
            self._pods_by.put(key, jobs)
        for job in jobs:
            if (found := self._jobs.get(job)) is not None:
                self._concerned_by_job(key.namespace, found.metadata)

    def on_class(self, key: ObjectKey, _old: typed.StorageClass | None, new: typed.StorageClass | None) -> None:
        self._classes.pop(key, None)
        if new is not None:
            self._classes[key] = StorageClass(
                name=new.metadata.name,
                provisioner=new.provisioner,
                default=new.metadata.annotations.get(DEFAULT_CLASS) == "true",
                expandable=new.allow_volume_expansion,
                waits=new.volume_binding_mode == "WaitForFirstConsumer",
                created_at=_time(new.metadata.creation_timestamp),
            )

    # ── whom it concerns

    def _concerned(self, namespace: str, claims: Iterable[Claim | None], name: str) -> None:
        groups: list[Hashable] = [("claim", namespace, name)]
        keys = set()
        for claim in claims:
            if claim is not None:
                groups += [("content", namespace, content) for content in {claim.content, *claim.copies} - {""}]
                keys |= {key for owner in claim.owners if (key := self._alive[namespace].get(owner.uid)) is not None}
        for key in keys | set(self._models_by.get(*groups)):
            self._tell(key)

    def _concerned_by_job(self, namespace: str, meta: typed.Meta) -> None:
        owners = {self._alive[namespace].get(owner.uid) for owner in meta.owner_references}
        content = meta.labels.get(LABEL_CONTENT, "")
        for key in {key for key in owners if key} | set(self._models_by.get(("content", namespace, content))):
            self._tell(key)

    def _sharing(self, model: Model | None) -> set[ObjectKey]:
        return set(self._models_by.get(*_groups_of(model))) if model is not None else set()

    def _task(self, key: ObjectKey) -> Task:
        pods = [self._pods[pod] for pod in self._pods_by.get(key)]
        return task_of(self._jobs[key], pods)


def claim_of(seen: typed.PersistentVolumeClaim) -> Claim:
    meta, annotations = seen.metadata, seen.metadata.annotations
    return Claim(
        name=meta.name,
        created_at=_time(meta.creation_timestamp),
        deleting=bool(meta.deletion_timestamp),
        phase=seen.status.phase,
        content=meta.labels.get(LABEL_CONTENT, ""),
        source=annotations.get(ANNOTATION_SOURCE, ""),
        owners=_owners(meta),
        storage_class=seen.spec.storage_class_name,
        access_modes=seen.spec.access_modes,
        requested=str(seen.spec.resources.requests.get("storage", "")),
        copies=_copies(annotations.get(ANNOTATION_COPIES, "")),
        retained_for=tuple(filter(None, annotations.get(ANNOTATION_RETAINED_FOR, "").split(","))),
    )


def task_of(job: typed.Job, pods: Iterable[typed.Pod]) -> Task:
    meta, status = job.metadata, job.status
    ordered = sorted(pods, key=lambda pod: pod.status.start_time or pod.metadata.creation_timestamp or "~")
    ended = [(pod, end) for pod in ordered if (end := _end(pod)) is not None]
    done = [end for pod, end in ended if pod.status.phase == "Succeeded"]
    broken = [end for pod, end in ended if pod.status.phase == "Failed"]
    phase, finished_at = _phase(job, ordered)
    attempt = meta.annotations.get(ANNOTATION_ATTEMPT, "")
    return Task(
        name=meta.name,
        content=meta.labels.get(LABEL_CONTENT, ""),
        claim=meta.annotations.get(ANNOTATION_CACHE_CLAIM, ""),
        attempt=int(attempt) if attempt.isdigit() else 1,
        recipe=meta.annotations.get(ANNOTATION_RECIPE, ""),
        owners=_owners(meta),
        deleting=bool(meta.deletion_timestamp),
        phase=phase,
        started_at=_time(status.start_time),
        finished_at=finished_at,
        copy=loaderwords.copy_of(done[-1].message) if done else None,
        failed=loaderwords.failed_of(broken[-1]) if broken else None,
        tries=status.failed,
        pods=len(ordered),
        problem=next(filter(None, (_problem(pod) for pod in ordered)), "") if phase != "Succeeded" else "",
    )


def _phase(job: typed.Job, pods: list[typed.Pod]) -> tuple[TaskPhase, datetime | None]:
    """A Job whose pods fail is not Failed before it says so itself."""
    for condition in job.status.conditions:
        if condition.status == "True" and condition.type == "Complete":
            return "Succeeded", _time(job.status.completion_time)
        if condition.status == "True" and condition.type == "Failed":
            return "Failed", _time(condition.last_transition_time)
    running = any(pod.status.phase in ("Running", "Succeeded", "Failed") for pod in pods) or bool(job.status.failed)
    return ("Running" if running else "Pending"), None


def _end(pod: typed.Pod) -> typed.Terminated | None:
    return next((one.state.terminated for one in pod.status.container_statuses if one.state.terminated), None)


def _problem(pod: typed.Pod) -> str:
    if pod.status.phase not in ("", "Pending"):
        return ""
    for condition in pod.status.conditions:
        if condition.type == "PodScheduled" and condition.status == "False":
            return f"{condition.reason}: {condition.message}"
    for status in pod.status.container_statuses:
        waiting = status.state.waiting
        if waiting is not None and waiting.reason not in _QUIET:
            return f"{waiting.reason}: {waiting.message}".removesuffix(": ")
    return ""


def _names(model: Model, near: Iterable[Model]) -> set[str]:
    """Claims that may be theirs by name."""
    found = set()
    for one in (model, *near):
        found |= {usual_claim(one), spare_claim(one)}
    parsed = _source(model)
    return found | ({parsed.claim} if isinstance(parsed, source.Claim) else set())


def _groups_of(model: Model) -> list[Hashable]:
    namespace, content, parsed = model.key.namespace, content_of(model), _source(model)
    found: list[Hashable] = []
    if content:
        found += [("content", namespace, content), ("claim", namespace, usual_claim(model))]
    if isinstance(parsed, source.Claim):
        found.append(("claim", namespace, parsed.claim))
    return found


def _wish(model: Model) -> object:
    """What others have to look at again when it changes."""
    spec = model.spec
    bounds = (spec.replicas, spec.serverless.min_replicas, spec.serverless.max_replicas)
    secret = spec.secret_ref.name if spec.secret_ref is not None else ""
    return model.metadata.uid, model.metadata.deletion_timestamp, spec.cache, bounds, secret


def _source(model: Model) -> source.ModelSource | None:
    try:
        return source.parse(model.spec.source)
    except FlexInferError:
        return None


def _owners(meta: typed.Meta) -> tuple[Owner, ...]:
    return tuple(Owner(one.name, one.uid) for one in meta.owner_references if one.kind == "Model")


def _copies(text: str) -> dict[str, Copy]:
    """What somebody else wrote there is as good as nothing: it is fetched, or checked, again."""
    try:
        found = _COPIES.decode(text) if text else {}
    except (msgspec.MsgspecError, RecursionError):
        return {}
    return {request: copy for request, copy in found.items() if _stays_inside(copy)}


def _stays_inside(copy: Copy) -> bool:
    return not any(name and files.unsafe(name) for name in (copy.path, copy.file, copy.mmproj))


def _time(text: str | None) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if text else None
    except ValueError:
        return None
