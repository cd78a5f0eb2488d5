"""Rollouts of Models on a cluster: what `lifecycle.rollout` looks at, and the ControllerRevisions that it needs.

A ControllerRevision holds the spec as it was written and the pod template that was made of it, so that going
back brings the very pods that served. Only their heads are cached; a template is fetched when it is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import msgspec

from flexinfer import logs
from flexinfer.api.meta import Condition, ObjectKey
from flexinfer.api.v1alpha2.model import Model, RolloutStatus
from flexinfer.controllers.children import FIELD_MANAGER, Owner
from flexinfer.controllers.clusterview import ClusterView
from flexinfer.controllers.preparing import Prepared
from flexinfer.controllers.revisionfacts import Revision
from flexinfer.errors import AlreadyExists, NotFound
from flexinfer.kube import typed
from flexinfer.kube.store import CONTROLLER_REVISIONS, ObjectStore
from flexinfer.lifecycle import pods as judging
from flexinfer.lifecycle import rollout
from flexinfer.lifecycle.decide import load_limit_s
from flexinfer.lifecycle.observed import Trouble
from flexinfer.lifecycle.pods import PodFacts
from flexinfer.lifecycle.rollout import Choice, Facts, Written
from flexinfer.resources.model import deployment, pod, revision
from flexinfer.resources.model.deployment import Pods

log = logs.get("controller.rollouts")

_GONE: Final = ("Failed", "Succeeded")


class Sight(msgspec.Struct, frozen=True, kw_only=True):
    """What one look at a Model has seen."""

    prepared: Prepared
    rendered: Pods | None
    """None: there can be no pods, or not yet."""
    deployment: typed.Deployment | None
    pods: Sequence[PodFacts]
    refused: str = ""
    """Why the API server takes no pods."""
    now: datetime


class _Entry:
    """What is remembered of one Model while this process leads: what caches have not seen yet, and what they lack."""

    def __init__(self, uid: str) -> None:
        self.uid = uid
        self.generation = 0
        self.revision = ""
        """Of the spec of that generation."""
        self.recorded: dict[str, Revision] = {}
        """By revision, those that were written by this process."""
        self.template: Pods | None = None
        """The last one that was fetched."""
        self.freed_at: datetime | None = None
        self.left: tuple[int, Written] | None = None
        """Generation of the Deployment after the last write, and what it says since."""


class Rollouts:
    def __init__(self, store: ObjectStore, view: ClusterView) -> None:
        self._store = store
        self._view = view
        self._entries: dict[ObjectKey, _Entry] = {}

    def choose(self, model: Model, sight: Sight) -> Choice:
        """`model` as it is stored."""
        entry = self._entry(model)
        if any(one.deleting for one in sight.pods):
            entry.freed_at = sight.now
        known = self._revisions(model, entry)
        status = model.status.rollout
        return rollout.choose(
            Facts(
                wanted=self.wanted(model),
                template=pod.digest(sight.rendered.template) if sight.rendered is not None else "",
                hindrance=_hindrance(sight.prepared),
                written=_written(sight.deployment, entry),
                served=status.serving if status is not None else "",
                recorded={name: one.template for name, one in known.items()},
                pods=[_seen(one) for one in sight.pods if not one.deleting and one.phase not in _GONE],
                freed_at=entry.freed_at,
                refused=sight.refused,
                fits=sight.prepared.place.reason != "NoMatchingNodes",
                budget_s=load_limit_s(model.spec),
            ),
            sight.now,
        )

    def wanted(self, model: Model) -> str:
        """The revision of its spec."""
        entry = self._entry(model)
        if not entry.revision or entry.generation != model.metadata.generation:
            entry.generation, entry.revision = model.metadata.generation, rollout.revision_of(model)
        return entry.revision

    def told(self, model: Model, choice: Choice) -> tuple[RolloutStatus, tuple[Condition, ...]]:
        """What the status says."""
        wanted = self.wanted(model)
        numbers = {name: one.number for name, one in self._revisions(model, self._entry(model)).items()}
        condition = rollout.condition(choice, numbers, wanted)
        return RolloutStatus(revision=wanted, serving=choice.serving), (condition,) if condition is not None else ()

    async def pods(self, model: Model, choice: Choice, rendered: Pods | None, owner: Owner) -> Pods | None:
        """What the Deployment is to be made of, recorded; None: it cannot be made yet."""
        to = choice.written
        if to is None:
            return None
        if choice.recorded:
            made = await self._fetched(model, to)
        else:
            assert rendered is not None
            made = rendered
            await self._record(model, to, made, owner)
        return msgspec.structs.replace(made, rollout=to, strategy=choice.strategy)

    def applied(self, model: Model, generation: int, written: Written) -> None:
        """The Deployment has been written; caches may not have seen it yet."""
        self._entry(model).left = (generation, written)

    def forget(self, key: ObjectKey) -> None:
        self._entries.pop(key, None)

    def _entry(self, model: Model) -> _Entry:
        entry = self._entries.get(model.key)
        if entry is None or entry.uid != model.metadata.uid:
            entry = self._entries[model.key] = _Entry(model.metadata.uid)
        return entry

    def _revisions(self, model: Model, entry: _Entry) -> dict[str, Revision]:
        found = {one.revision: one for one in self._view.revisions_of(model.key.namespace, model.metadata.uid)}
        for name, one in list(entry.recorded.items()):
            cached = found.get(name)
            if cached is not None and (cached.number, cached.template) == (one.number, one.template):
                # From here on the cache knows better: somebody may delete it.
                del entry.recorded[name]
            else:
                found[name] = one
        return found

    async def _fetched(self, model: Model, to: Written) -> Pods:
        """Raises NotFound where somebody has deleted it; the cache will have seen that by the next try."""
        entry = self._entry(model)
        if entry.template is None or pod.digest(entry.template.template) != to.template:
            key = ObjectKey(model.key.namespace, revision.name(model.metadata.name, to.revision))
            entry.recorded.pop(to.revision, None)
            found = revision.recorded((await self._store.get(CONTROLLER_REVISIONS, key)).get("data") or {})
            if found is None or pod.digest(found.template) != to.template:
                raise NotFound(f"ControllerRevision {key} does not hold the template that it should")
            entry.template = found
        return entry.template

    async def _record(self, model: Model, to: Written, made: Pods, owner: Owner) -> None:
        entry = self._entry(model)
        known = self._revisions(model, entry)
        newest = max((one.number for one in known.values()), default=0)
        there = known.get(to.revision)
        if there is not None and there.template == to.template and there.number == newest:
            return
        key = ObjectKey(model.key.namespace, revision.name(model.metadata.name, to.revision))
        number = newest if there is not None and there.number == newest else newest + 1
        if there is not None and there.template == to.template:
            await self._store.patch(CONTROLLER_REVISIONS, key, {"revision": number}, field_manager=FIELD_MANAGER)
        else:
            if there is not None:
                # Its data can never change.
                await self._store.delete(CONTROLLER_REVISIONS, key)
            obj = revision.build(model, to.revision, number, made)
            obj["metadata"] |= {"namespace": model.key.namespace, "ownerReferences": [owner.reference]}
            try:
                await self._store.create(CONTROLLER_REVISIONS, obj, field_manager=FIELD_MANAGER)
            except AlreadyExists:
                # What an earlier Model of that name left is taken away by the garbage collector.
                log.info("revision not recorded, there is one of that name", revision=str(key))
                return
        entry.recorded[to.revision] = Revision(
            revision=to.revision, template=to.template, number=number, owner=model.metadata.uid, name=key.name
        )
        await self._prune(model, to, entry)

    async def _prune(self, model: Model, to: Written, entry: _Entry) -> None:
        known = sorted(self._revisions(model, entry).values(), key=lambda one: one.number)
        status = model.status.rollout
        needed = {to.revision, to.back, status.serving if status is not None else ""}
        for one in known[: -rollout.KEPT]:
            if one.revision in needed:
                continue
            try:
                await self._store.delete(CONTROLLER_REVISIONS, ObjectKey(model.key.namespace, one.name))
            except NotFound:
                log.debug("revision gone already", revision=one.name)
            entry.recorded.pop(one.revision, None)


def _written(there: typed.Deployment | None, entry: _Entry) -> Written | None:
    if there is None:
        return None
    if entry.left is not None and there.metadata.generation < entry.left[0]:
        return entry.left[1]
    return deployment.rollout_of(there.metadata.annotations)


def _hindrance(prepared: Prepared) -> Trouble | None:
    if prepared.fault is not None:
        return prepared.fault
    state = prepared.data.state
    return None if state.ready else Trouble(reason=state.reason or "CacheNotReady", message=state.message)


def _seen(facts: PodFacts) -> rollout.Pod:
    since = facts.created_at
    if facts.node:
        found = judging.replica(facts)
        since = max(found.started_at, found.progress_at or found.started_at)
    return rollout.Pod(facts.template, facts.ready, bool(facts.node), since, judging.failure(facts))
