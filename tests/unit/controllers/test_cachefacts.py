"""Claims, Jobs and pods as values, and which Models hear of a change."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from tests.support.bytes_of_models import OURS, hub_model
from tests.support.models import T0, model

from flexinfer.api.meta import ObjectKey
from flexinfer.api.v1alpha2.model import Model
from flexinfer.controllers import loaderwords
from flexinfer.controllers.cachefacts import CacheIndex, claim_of, task_of
from flexinfer.kube import typed
from flexinfer.resources.model.cachefacts import Claim, Copy, Failed, Owner, StorageClass, Task
from flexinfer.resources.model.content import content_of

DONE = {
    "event": "done", "path": "/models/.flexinfer/k/files", "file": "/models/.flexinfer/k/files/a/m.gguf", "mmproj": "",
    "bytes": 7, "key": "k", "commit": "c",
}  # fmt: skip
GATED = {"event": "failed", "reason": "Gated", "message": "accept its licence", "retryAfterS": None}


def job(*conditions: tuple[str, str], name: str = "j", **status: Any) -> typed.Job:
    meta = {
        "name": name,
        "namespace": "default",
        "uid": "uid-j",
        "labels": {"flexinfer.ai/task": "prefetch", "flexinfer.ai/content": "content"},
        "annotations": {
            "flexinfer.ai/cache-claim": "m-cache",
            "flexinfer.ai/attempt": "2",
            "flexinfer.ai/recipe": "r",
        },
        "ownerReferences": [{"kind": "Model", "name": "m", "uid": "uid-m"}],
    }
    told = [{"type": kind, "status": "True", "lastTransitionTime": at} for kind, at in conditions]
    return msgspec.convert({"metadata": meta, "status": {**status, "conditions": told}}, typed.Job)


def pod(phase: str, ended: dict[str, Any] | None = None, *, started: str = "", **status: Any) -> typed.Pod:
    meta = {
        "name": f"p-{phase}-{started}",
        "namespace": "default",
        "labels": {"flexinfer.ai/task": "prefetch"},
        "ownerReferences": [{"kind": "Job", "name": "j", "uid": "uid-j"}],
    }
    if ended is not None:
        status["containerStatuses"] = [{"name": "loader", "state": {"terminated": ended}}]
    return msgspec.convert(
        {"metadata": meta, "status": {"phase": phase, "startTime": started or None, **status}}, typed.Pod
    )


PLAIN = Task(name="j", content="content", claim="m-cache", attempt=2, recipe="r", owners=(Owner("m", "uid-m"),))
LATER = "2026-01-01T00:00:05Z"


@pytest.mark.parametrize(
    ("seen", "pods", "expected"),
    [
        pytest.param(job(), (), {"phase": "Pending"}, id="a Job without a pod"),
        pytest.param(job(active=1), (pod("Running"),), {"phase": "Running"}, id="a pod that runs"),
        pytest.param(
            job(active=1, failed=1),
            (pod("Failed", {"exitCode": 1, "message": json.dumps(GATED)}), pod("Pending", started=LATER)),
            {"phase": "Running", "tries": 1, "failed": Failed(reason="Gated", message="accept its licence")},
            id="a pod that failed while the Job tries again is no failure",
        ),
        pytest.param(
            job(("FailureTarget", LATER), failed=1),
            (pod("Failed", {"exitCode": 3, "message": json.dumps(GATED)}),),
            {"phase": "Running", "tries": 1, "failed": Failed(reason="Gated", message="accept its licence")},
            id="a Job that is about to give up has not yet",
        ),
        pytest.param(
            job(("Failed", LATER), failed=1),
            (pod("Failed", {"exitCode": 3, "message": json.dumps(GATED)}),),
            {
                "phase": "Failed",
                "tries": 1,
                "failed": Failed(reason="Gated", message="accept its licence"),
                "finished_at": datetime(2026, 1, 1, 0, 0, 5, tzinfo=UTC),
            },
            id="a Job that has given up",
        ),
        pytest.param(
            job(("Complete", LATER), completionTime=LATER),
            (pod("Succeeded", {"exitCode": 0, "message": json.dumps(DONE)}),),
            {
                "phase": "Succeeded",
                "copy": Copy(path=".flexinfer/k/files", file="a/m.gguf", bytes=7, commit="c"),
                "finished_at": datetime(2026, 1, 1, 0, 0, 5, tzinfo=UTC),
            },
            id="a Job that is done, with what it brought",
        ),
        pytest.param(
            job(active=1),
            (pod("Pending", conditions=[{
                "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes",
            }]),),
            {"phase": "Pending", "problem": "Unschedulable: 0/3 nodes"},
            id="no node for its pod",
        ),
        pytest.param(
            job(active=1),
            (pod("Pending", containerStatuses=[{
                "name": "loader", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}},
            }]),),
            {"phase": "Pending", "problem": "ImagePullBackOff: no such image"},
            id="an image that cannot be pulled",
        ),
        pytest.param(
            job(active=1),
            (pod("Pending", containerStatuses=[{
                "name": "loader", "state": {"waiting": {"reason": "ContainerCreating"}},
            }]),),
            {"phase": "Pending"},
            id="a container that is being made is no problem",
        ),
    ],
)  # fmt: skip
def test_a_job_and_its_pods(seen: typed.Job, pods: tuple[typed.Pod, ...], expected: dict[str, Any]):
    assert task_of(seen, pods) == msgspec.structs.replace(PLAIN, pods=len(pods), **expected)


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        pytest.param(
            {"exitCode": 137, "reason": "OOMKilled"},
            Failed(reason="OOMKilled", message="the download was killed: it used more memory than its limit"),
            id="killed for memory",
        ),
        pytest.param(
            {"exitCode": 1, "message": "Traceback …\nImportError: no"},
            Failed(reason="LoaderFailed", message="the loader ended with exit code 1: Traceback …\nImportError: no"),
            id="the end of its log where it left no word",
        ),
        pytest.param(
            {"exitCode": 0, "signal": 9},
            Failed(reason="LoaderFailed", message="the loader ended with signal 9"),
            id="a signal",
        ),
    ],
)
def test_ends_without_a_word(end: dict[str, Any], expected: Failed):
    assert loaderwords.failed_of(msgspec.convert(end, typed.Terminated)) == expected


def claim(name: str = "m-cache", **annotations: str) -> typed.PersistentVolumeClaim:
    return msgspec.convert(
        {
            "metadata": {
                "name": name,
                "namespace": "default",
                "creationTimestamp": "2026-01-01T00:00:00Z",
                "labels": {"flexinfer.ai/content": "content"},
                "annotations": {f"flexinfer.ai/{key.replace('_', '-')}": text for key, text in annotations.items()},
                "ownerReferences": [{"kind": "Model", "name": "m", "uid": "uid-m"}],
            },
            "spec": {
                "storageClassName": "test",
                "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": "5Gi"}},
            },
            "status": {"phase": "Bound"},
        },
        typed.PersistentVolumeClaim,
    )


def test_a_claim_as_facts():
    seen = claim(copies='{"r": {"path": "p", "bytes": 3}}', retained_for="a,b", source="HF://org/name")
    assert claim_of(seen) == Claim(
        name="m-cache",
        created_at=T0,
        phase="Bound",
        content="content",
        source="HF://org/name",
        owners=(Owner("m", "uid-m"),),
        storage_class="test",
        access_modes=("ReadWriteOnce",),
        requested="5Gi",
        copies={"r": Copy(path="p", bytes=3)},
        retained_for=("a", "b"),
    )


@pytest.mark.parametrize(
    "text",
    [
        '{"r": {"path": "../../etc"}}',
        '{"r": {"path": "p", "file": "/etc/passwd"}}',
        "no JSON",
        "[]",
        '{"r": {"path": 1}}',
        "[" * 5000,
    ],
)
def test_what_somebody_else_wrote_into_the_annotation_is_as_good_as_nothing(text: str):
    assert claim_of(claim(copies=text)).copies == {}


# ── the index


class Heard(list[str]):
    def __call__(self, key: ObjectKey) -> None:
        self.append(key.name)

    def once(self) -> set[str]:
        found = set(self)
        self.clear()
        return found


def index(*models: Model) -> tuple[CacheIndex, Heard]:
    one, heard = CacheIndex(), Heard()
    for each in models:
        one.on_model(each.key, None, each)
    one.listen(heard)
    return one, heard


def test_only_models_that_could_share_something_are_near():
    a, b = hub_model("a"), hub_model("b")
    named = hub_model("c", source="HF://org/other", cache={"pvcName": "theirs"})
    also = hub_model("d", source="HF://org/third", cache={"pvcName": "theirs"})
    one, _ = index(a, b, named, also, model("sim"))
    near = {each.metadata.name: {found.metadata.name for found in one.facts(each, T0, OURS).models} for each in
            (a, named, model("sim"))}  # fmt: skip
    assert near == {"a": {"a", "b"}, "c": {"c", "d"}, "sim": set()}


def test_who_shares_a_copy_hears_of_the_others():
    a, b, other = hub_model("a"), hub_model("b"), hub_model("o", source="HF://org/other")
    one, heard = index(a, other)
    one.on_model(b.key, None, b)
    assert heard.once() == {"a"}
    moved = hub_model("b", source="HF://org/other")
    one.on_model(b.key, b, moved)
    assert heard.once() == {"a", "o"}
    told = hub_model("b", source="HF://org/other", status={"phase": "Idle"})
    one.on_model(b.key, moved, told)
    assert heard.once() == set()
    one.on_model(b.key, told, None)
    assert heard.once() == {"o"}


def test_a_claim_and_a_job_concern_their_owners_and_who_asks_for_the_same():
    m, same, other = hub_model("m"), hub_model("same"), hub_model("other", source="HF://org/other")
    one, heard = index(m, same, other)
    content = content_of(m)
    seen = claim()
    seen.metadata.labels["flexinfer.ai/content"] = content
    key = ObjectKey("default", "m-cache")
    one.on_claim(key, None, seen)
    assert heard.once() == {"m", "same"}
    one.on_claim(key, seen, seen)
    assert heard.once() == set()
    work = job()
    work.metadata.labels["flexinfer.ai/content"] = content
    one.on_job(ObjectKey("default", "j"), None, work)
    assert heard.once() == {"m", "same"}
    one.on_pod(ObjectKey("default", "p"), None, pod("Running"))
    assert heard.once() == {"m", "same"}
    facts = one.facts(same, T0, OURS)
    assert ([found.name for found in facts.claims], [task.phase for task in facts.tasks]) == (["m-cache"], ["Running"])
    assert one.facts(other, T0, OURS).claims == ()
    one.on_claim(key, seen, None)
    one.on_job(ObjectKey("default", "j"), work, None)
    assert (one.facts(same, T0, OURS).claims, one.facts(same, T0, OURS).tasks) == ((), ())


def test_a_claim_of_the_users_concerns_who_names_it():
    by_source = hub_model("source", source="pvc://theirs/x")
    by_name = hub_model("named", cache={"pvcName": "theirs"})
    one, heard = index(by_source, by_name, hub_model("m"))
    theirs = claim("theirs")
    theirs.metadata.labels.clear()
    one.on_claim(ObjectKey("default", "theirs"), None, theirs)
    assert heard.once() >= {"source", "named"}
    assert [found.name for found in one.facts(by_source, T0, OURS).claims] == ["theirs"]
    assert [found.name for found in one.facts(by_name, T0, OURS).claims] == ["theirs"]


def test_classes():
    one, _ = index()
    seen = {
        "metadata": {
            "name": "fast",
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "provisioner": "p",
        "allowVolumeExpansion": True,
        "volumeBindingMode": "WaitForFirstConsumer",
    }
    one.on_class(ObjectKey("", "fast"), None, msgspec.convert(seen, typed.StorageClass))
    [found] = one.facts(hub_model(), T0, OURS).classes
    assert found == StorageClass(name="fast", provisioner="p", default=True, expandable=True, waits=True, created_at=T0)
