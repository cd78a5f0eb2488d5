"""Models that come, change and go in any order share copies: each has its bytes, none is fetched twice at a time, and
what nobody has or wants is gone."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.bytes_of_models import CLASS, OURS, hub_model
from tests.support.models import T0

from flexinfer.api.v1alpha2.model import Model
from flexinfer.controllers.cachefacts import CacheIndex
from flexinfer.kube import typed
from flexinfer.resources.model.cache import CachePlan, plan
from flexinfer.resources.model.content import content_of

SOURCES = ("HF://org/a", "HF://org/b")
NAMES = ("x", "y", "z")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("apply"), st.sampled_from(NAMES), st.sampled_from(SOURCES), st.booleans()),
        st.tuples(st.just("delete"), st.sampled_from(NAMES)),
        st.tuples(st.just("look"), st.sampled_from(NAMES)),
        st.tuples(st.just("work")),
        st.tuples(st.just("collect")),
    ),
    max_size=30,
)


class World:
    """Just enough of a cluster: it applies what plans say, runs Jobs, and collects what has no owner left."""

    def __init__(self) -> None:
        self.now = T0
        self.models: dict[str, Model] = {}
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.fetched: list[str] = []
        self.bytes: dict[str, set[str]] = {}
        """By claim: the contents that are on it."""
        self._made = 0

    def apply(self, name: str, source: str, retain: bool) -> None:
        before = self.models.get(name)
        model = hub_model(name, source=source, cache={"retain": retain})
        model.metadata.uid = before.metadata.uid if before else f"uid-{self._next()}"
        model.metadata.creation_timestamp = before.metadata.creation_timestamp if before else self.now
        model.metadata.generation = before.metadata.generation + 1 if before else 1
        self.models[name] = model

    def delete(self, name: str) -> None:
        self.models.pop(name, None)

    def look(self, name: str) -> CachePlan | None:
        """One reconcile; the model is Ready where its bytes are there."""
        model = self.models.get(name)
        if model is None:
            return None
        found = plan(model, self._index().facts(model, self.now, OURS))
        for obj in found.children:
            self._apply(obj)
        for kind, gone in found.obsolete:
            self.objects.pop((kind, gone), None)
        ready = {
            "type": "Ready",
            "status": "True" if found.state.ready else "False",
            "reason": "BackendReady",
            "observedGeneration": model.metadata.generation,
        }
        told = hub_model(name, status={"conditions": [ready]})
        self.models[name] = msgspec.structs.replace(model, status=told.status)
        return found

    def work(self) -> None:
        """Every Job that runs brings its bytes."""
        for (kind, _), obj in self.objects.items():
            claim = obj["metadata"]["annotations"].get("flexinfer.ai/cache-claim")
            if kind != "Job" or "status" in obj or ("PersistentVolumeClaim", claim) not in self.objects:
                continue
            content = obj["metadata"]["labels"]["flexinfer.ai/content"]
            if content not in self.bytes.setdefault(claim, set()):
                self.fetched.append(content)
                self.bytes[claim].add(content)
            at = self._next_time().isoformat()
            obj["status"] = {
                "conditions": [{"type": "Complete", "status": "True"}], "completionTime": at, "startTime": at,
            }  # fmt: skip

    def collect(self) -> None:
        alive = {model.metadata.uid for model in self.models.values()}
        for key, obj in list(self.objects.items()):
            owners = obj["metadata"].get("ownerReferences") or []
            left = [owner for owner in owners if owner["uid"] in alive]
            if owners and not left:
                del self.objects[key]
                if key[0] == "PersistentVolumeClaim":
                    self.bytes.pop(key[1], None)
            elif owners:
                obj["metadata"]["ownerReferences"] = left

    def settle(self) -> None:
        for _ in range(8):
            for name in NAMES:
                self.look(name)
            self.work()
            self.collect()

    @property
    def claims(self) -> dict[str, dict[str, Any]]:
        return {name: obj for (kind, name), obj in self.objects.items() if kind == "PersistentVolumeClaim"}

    def _apply(self, obj: dict[str, Any]) -> None:
        key = (obj["kind"], obj["metadata"]["name"])
        made = json.loads(json.dumps(obj))
        before = self.objects.get(key)
        made["metadata"]["creationTimestamp"] = (
            before["metadata"]["creationTimestamp"] if before else self._next_time().isoformat()
        )
        if before is not None:
            assert (key[0], before.get("spec")) != ("Job", None)
            assert before["spec"]["accessModes"] == made["spec"]["accessModes"]
            assert before["spec"]["storageClassName"] == made["spec"]["storageClassName"]
        if key[0] == "PersistentVolumeClaim":
            made["status"] = {"phase": "Bound"}
        self.objects[key] = made

    def _index(self) -> CacheIndex:
        index = CacheIndex()
        for model in self.models.values():
            index.on_model(model.key, None, model)
        for (kind, name), obj in self.objects.items():
            key = next(iter(self.models.values())).key._replace(name=name)
            if kind == "Job":
                seen = {"metadata": {**obj["metadata"], "name": name}, "status": obj.get("status", {})}
                index.on_job(key, None, msgspec.convert(seen, typed.Job))
                if "status" in obj:
                    index.on_pod(key, None, msgspec.convert(self._pod(name, obj), typed.Pod))
            else:
                index.on_claim(key, None, msgspec.convert(obj, typed.PersistentVolumeClaim))
        classes = {
            "metadata": {
                "name": CLASS.name,
                "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
            }
        }
        index.on_class(next(iter(self.models.values())).key, None, msgspec.convert(classes, typed.StorageClass))
        return index

    @staticmethod
    def _pod(job: str, obj: dict[str, Any]) -> dict[str, Any]:
        said = {"event": "done", "path": "/models/.flexinfer/k/files", "file": "", "bytes": 1, "key": "k"}
        ended = {"exitCode": 0, "message": json.dumps(said)}
        return {
            "metadata": {
                "name": job,
                "labels": obj["metadata"]["labels"],
                "ownerReferences": [{"kind": "Job", "name": job, "uid": "u"}],
            },
            "status": {
                "phase": "Succeeded",
                "containerStatuses": [{"name": "loader", "state": {"terminated": ended}}],
            },
        }

    def _next(self) -> int:
        self._made += 1
        return self._made

    def _next_time(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now


@settings(max_examples=80, deadline=None)
@given(STEPS)
def test_whatever_the_order_every_model_has_its_bytes_and_nothing_is_left(steps: list[tuple[Any, ...]]):
    world = World()
    for what, *words in steps:
        getattr(world, what)(*words)
    world.settle()
    for name, model in world.models.items():
        found = world.look(name)
        assert found is not None
        assert found.state.ready, found.state
        assert found.pvc_name in world.claims
        assert content_of(model) in world.bytes[found.pvc_name]
        retained = world.claims[found.pvc_name]["metadata"]["annotations"].get("flexinfer.ai/retained-for")
        kept_for = {one.metadata.name for one in world.models.values() if one.spec.cache.retain}
        assert name in kept_for or name not in (retained or "").split(",")
        users = {one.metadata.uid for one in world.models.values() if content_of(one) == content_of(model)}
        owners = {ref["uid"] for ref in world.claims[found.pvc_name]["metadata"].get("ownerReferences") or ()}
        assert owners == (set() if retained else users)
    wanted = {world.look(name).pvc_name for name in world.models}  # type: ignore[union-attr]
    for name, claim in world.claims.items():
        assert name in wanted or "flexinfer.ai/retained-for" in claim["metadata"]["annotations"]


@settings(max_examples=40, deadline=None)
@given(STEPS)
def test_one_set_of_bytes_is_fetched_once_as_long_as_somebody_has_it(steps: list[tuple[Any, ...]]):
    world = World()
    for name in NAMES:
        world.apply(name, SOURCES[0], retain=False)
    world.settle()
    for what, *words in steps:
        if words[:1] != ["x"] and what != "apply":
            getattr(world, what)(*words)
    world.settle()
    assert world.fetched == [content_of(world.models["x"])]
    assert list(world.claims) == ["x-cache"]
