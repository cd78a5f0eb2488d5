"""Where a Model's bytes come from: claims, Jobs, what is shared, what is refused and in which words."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import pytest
from tests.support.bytes_of_models import CLASS, COPY, OURS, claim_for, facts, hub_model, owner, task_for
from tests.support.models import T0

from flexinfer.api.v1alpha2.model import Model
from flexinfer.backends.base import Artifact
from flexinfer.lifecycle.observed import Trouble
from flexinfer.resources.model.cache import CachePlan, Obsolete, plan
from flexinfer.resources.model.cachefacts import Claim, Failed, StorageClass
from flexinfer.resources.model.content import content_of

READY = {"type": "Ready", "status": "True", "reason": "BackendReady", "observedGeneration": 1}


def kinds(found: CachePlan) -> list[tuple[str, str]]:
    return [(obj["kind"], obj["metadata"]["name"]) for obj in found.children]


def child(found: CachePlan, kind: str) -> dict[str, Any]:
    return next(obj for obj in found.children if obj["kind"] == kind)


def begun(one: Model, *others: Model, **given: Any) -> dict[str, Any]:
    """The Job of a Model that has a claim and nothing on it."""
    return child(plan(one, facts(one, *others, claims=(claim_for(one),), **given)), "Job")


def failed_task(one: Model, failed: Failed, ago_s: float, **given: Any) -> Any:
    finished = T0 - timedelta(seconds=ago_s)
    return task_for(one, begun(one), phase="Failed", failed=failed, finished_at=finished, tries=4, **given)


# ── the first Model


def test_a_new_model_gets_a_claim_of_the_default_class_and_a_job_that_fetches_onto_it():
    one = hub_model("m", secretRef={"name": "hf"}, config={"ggufFile": "m.gguf"})
    found = plan(one, facts(one))
    content = content_of(one)
    owners = [{"apiVersion": "ai.flexinfer/v1alpha2", "kind": "Model", "name": "m", "uid": "uid-m"}]
    assert child(found, "PersistentVolumeClaim") == {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": "m-cache",
            "namespace": "default",
            "labels": {"app.kubernetes.io/managed-by": "flexinfer", "flexinfer.ai/content": content},
            "annotations": {"flexinfer.ai/source": "HF://org/name"},
            "ownerReferences": owners,
        },
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": "test",
            "resources": {"requests": {"storage": "50Gi"}},
        },
    }
    job = child(found, "Job")
    spec = job["spec"]["template"]["spec"]
    [container] = spec["containers"]
    assert job["metadata"]["name"] == f"m-cache-prefetch-{content[:8]}"
    assert job["metadata"]["ownerReferences"] == owners
    assert container["args"] == [
        "loader", "fetch", "HF://org/name", "--root", "/models", "--reads", "gguf", "--gguf-file=m.gguf",
        "--result", "/dev/termination-log",
    ]  # fmt: skip
    reference = {"name": "hf", "optional": True}
    assert container["env"] == [
        {"name": "HF_ENDPOINT", "value": "http://hub"},
        {"name": "HF_HOME", "value": "/tmp/huggingface"},
        {"name": "HOME", "value": "/tmp"},
        {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {**reference, "key": "HF_TOKEN"}}},
        {"name": "HUGGING_FACE_HUB_TOKEN", "valueFrom": {"secretKeyRef": {**reference, "key": "token"}}},
    ]
    assert spec["restartPolicy"] == "Never"
    assert spec["automountServiceAccountToken"] is False
    assert "command" not in container
    assert (found.state.ready, found.state.reason, found.pvc_name, found.job_phase) == (
        False, "PrefetchPending", "m-cache", "Pending",
    )  # fmt: skip


def test_pods_that_download_are_restricted():
    one = hub_model()
    spec = begun(one)["spec"]["template"]["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    context = spec["containers"][0]["securityContext"]
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert context["readOnlyRootFilesystem"] is True


def test_a_copy_that_is_there_is_mounted_read_only_and_nothing_is_fetched():
    one = hub_model()
    found = plan(one, facts(one, claims=(claim_for(one, copy=COPY),)))
    assert kinds(found) == [("PersistentVolumeClaim", "m-cache")]
    assert found.artifact == Artifact(path="/models/.flexinfer/k/files/m.gguf", model_id="org/name", size_bytes=1000)
    assert found.volumes == ({"name": "models", "persistentVolumeClaim": {"claimName": "m-cache", "readOnly": True}},)
    assert found.mounts == ({"name": "models", "mountPath": "/models", "readOnly": True},)
    assert (found.state.ready, found.state.reason, found.state.size_bytes) == (True, "Succeeded", 1000)


def test_what_a_job_brought_is_noted_on_the_claim_and_counts_at_once():
    one = hub_model()
    done = task_for(one, begun(one), phase="Succeeded", copy=COPY)
    found = plan(one, facts(one, claims=(claim_for(one),), tasks=(done,)))
    noted = child(found, "PersistentVolumeClaim")["metadata"]["annotations"]["flexinfer.ai/copies"]
    assert noted == (
        f'{{"{content_of(one)}":{{"bytes":1000,"commit":"c","file":"m.gguf","path":".flexinfer/k/files"}}}}'
    )
    assert (found.state.ready, found.job_phase, found.obsolete) == (True, "Succeeded", ())


def test_memory_is_staged_by_an_init_container_from_the_copy_on_the_claim():
    one = hub_model(cache={"strategy": "Memory"})
    found = plan(one, facts(one, claims=(claim_for(one, copy=COPY),)))
    [stage] = found.init_containers
    assert stage["args"][:4] == ["loader", "stage", "/flexinfer/cache/.flexinfer/k", "/models/.flexinfer/k"]
    assert not any("valueFrom" in entry for entry in stage["env"])
    assert found.volumes[0]["emptyDir"]["medium"] == "Memory"
    assert (found.memory_bytes, found.artifact.path) == (1000, "/models/.flexinfer/k/files/m.gguf")


# ── access and classes

WAITS = StorageClass(name="local-path", provisioner="rancher.io/local-path", default=True, waits=True)


@pytest.mark.parametrize(
    ("spec", "storage", "expected"),
    [
        pytest.param({}, CLASS, ("ReadWriteOnce", False), id="one replica is content with one node"),
        pytest.param({"replicas": 2}, CLASS, ("ReadWriteMany", False), id="two replicas may be on two nodes"),
        pytest.param(
            {"serverless": {"maxReplicas": 3}}, CLASS, ("ReadWriteMany", False), id="as many as the scaler may make"
        ),
        pytest.param(
            {"replicas": 2}, WAITS, ("ReadWriteOnce", True), id="a class of one node is told, and asked for what it can"
        ),
    ],
)
def test_access_mode_by_need(spec: dict[str, Any], storage: StorageClass, expected: tuple[str, bool]):
    one = hub_model(**spec)
    found = plan(one, facts(one, classes=(storage,)))
    [mode] = child(found, "PersistentVolumeClaim")["spec"]["accessModes"]
    assert (mode, [condition.type for condition in found.conditions] == ["SingleNodeCache"]) == expected


def test_a_claim_that_is_there_keeps_its_mode_and_a_condition_says_so():
    one = hub_model(replicas=2)
    found = plan(one, facts(one, claims=(claim_for(one),)))
    assert child(found, "PersistentVolumeClaim")["spec"]["accessModes"] == ["ReadWriteOnce"]
    [condition] = found.conditions
    assert (condition.type, condition.reason) == ("SingleNodeCache", "ReadWriteOnce")
    assert "spec.cache.storageClass" in condition.message


@pytest.mark.parametrize(
    ("spec", "classes", "words"),
    [
        pytest.param({}, (), "no default StorageClass (it has: none): name one in spec.cache.storageClass", id="none"),
        pytest.param(
            {},
            (msgspec.structs.replace(CLASS, default=False),),
            "no default StorageClass (it has: test)",
            id="one that is not marked",
        ),
        pytest.param(
            {"cache": {"storageClass": "fast"}}, (CLASS,), "there is no StorageClass fast; the cluster has: test",
            id="one that is not there",
        ),
    ],
)  # fmt: skip
def test_no_storage_class_is_a_reason_of_its_own(spec: dict[str, Any], classes: Any, words: str):
    one = hub_model(**spec)
    found = plan(one, facts(one, classes=classes))
    assert (found.state.ready, found.state.reason, found.children) == (False, "NoStorageClass", ())
    assert words in found.state.message
    assert found.failure == Trouble(reason="NoStorageClass", message=found.state.message)


def test_of_two_default_classes_the_younger_counts():
    young = StorageClass(name="young", default=True, created_at=T0)
    one = hub_model()
    found = plan(one, facts(one, classes=(young, msgspec.structs.replace(CLASS, created_at=T0 - timedelta(1)))))
    assert child(found, "PersistentVolumeClaim")["spec"]["storageClassName"] == "young"


@pytest.mark.parametrize(
    ("expandable", "size", "expected"),
    [
        pytest.param(True, "80Gi", "80Gi", id="it grows where the class can"),
        pytest.param(False, "80Gi", "50Gi", id="it stays where the class cannot"),
        pytest.param(True, "10Gi", "50Gi", id="it never shrinks"),
    ],
)
def test_the_size_of_a_claim_that_is_there(expandable: bool, size: str, expected: str):
    one = hub_model(cache={"size": size})
    classes = (msgspec.structs.replace(CLASS, expandable=expandable),)
    found = plan(one, facts(one, claims=(claim_for(one),), classes=classes))
    assert child(found, "PersistentVolumeClaim")["spec"]["resources"]["requests"]["storage"] == expected


def test_a_volume_that_follows_its_first_pod_is_made_where_the_model_will_run():
    one = hub_model()
    placement = {"nodeSelector": {"gpu": "yes"}, "tolerations": []}
    there = plan(one, facts(one, classes=(WAITS,), placement=placement))
    anywhere = plan(one, facts(one, placement=placement))
    assert child(there, "Job")["spec"]["template"]["spec"]["nodeSelector"] == {"gpu": "yes"}
    assert "nodeSelector" not in child(anywhere, "Job")["spec"]["template"]["spec"]


# ── several Models


def test_models_of_one_source_plan_the_same_claim_and_job_whoever_is_asked():
    old, young = hub_model("old", age_s=60), hub_model("young", secretRef={"name": "hf"}, cache={"size": "60Gi"})
    first, second = plan(old, facts(old, young)), plan(young, facts(young, old))
    assert first.children == second.children
    assert kinds(first)[0] == ("PersistentVolumeClaim", "old-cache")
    claim, job = first.children
    assert [ref["name"] for ref in claim["metadata"]["ownerReferences"]] == ["old", "young"]
    assert claim["spec"]["resources"]["requests"]["storage"] == "60Gi"
    # Whoever names a Secret lends its token.
    assert "hf" in str(job["spec"]["template"]["spec"]["containers"][0]["env"])


def test_a_second_model_mounts_what_the_first_has_and_owns_it_too():
    old, young = hub_model("old", age_s=60), hub_model("young")
    found = plan(young, facts(young, old, claims=(claim_for(old, name="old-cache", copy=COPY),)))
    assert (found.state.ready, found.pvc_name, found.job_name) == (True, "old-cache", "")
    owners = child(found, "PersistentVolumeClaim")["metadata"]["ownerReferences"]
    assert [ref["name"] for ref in owners] == ["old", "young"]


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"source": "HF://org/name@v2"}, id="another revision"),
        pytest.param({"config": {"ggufFile": "other.gguf"}}, id="another file"),
        pytest.param({"backend": "vllm"}, id="files for another kind of engine"),
        pytest.param({"cache": {"strategy": "None"}}, id="one that keeps no copy"),
    ],
)
def test_what_is_not_the_same_is_not_shared(other: dict[str, Any]):
    one, two = hub_model("one", age_s=9), hub_model("two", **other)
    found = plan(one, facts(one, two))
    assert [ref["name"] for ref in found.children[0]["metadata"]["ownerReferences"]] == ["one"]


def test_a_model_that_is_being_deleted_is_no_owner_any_more():
    old, young = hub_model("old", age_s=60), hub_model("young")
    old.metadata.deletion_timestamp = T0
    found = plan(young, facts(young, old, claims=(claim_for(old, old, young, name="old-cache", copy=COPY),)))
    owners = child(found, "PersistentVolumeClaim")["metadata"]["ownerReferences"]
    assert [ref["name"] for ref in owners] == ["young"]


def test_a_name_that_is_taken_by_other_bytes_is_left_alone():
    one = hub_model()
    foreign = Claim(name="m-cache", phase="Bound")
    found = plan(one, facts(one, claims=(foreign,)))
    assert kinds(found)[0] == ("PersistentVolumeClaim", f"m-cache-{content_of(one)[:8]}")


def test_a_claim_of_an_earlier_model_of_the_name_is_waited_for():
    one = hub_model()
    dead = claim_for(one, owners=(owner(hub_model("gone")),))
    found = plan(one, facts(one, claims=(dead,)))
    assert (found.state.reason, found.children, found.requeue_after_s) == ("PVCTerminating", (), 2.0)


# ── claims that outlive their Models


def test_a_claim_that_is_retained_has_no_owner_and_says_for_whom():
    one = hub_model(cache={"retain": True})
    meta = child(plan(one, facts(one)), "PersistentVolumeClaim")["metadata"]
    assert "ownerReferences" not in meta
    assert meta["annotations"]["flexinfer.ai/retained-for"] == "m"


@pytest.mark.parametrize(
    ("name", "retained"),
    [
        pytest.param("other", "m", id="a Model that comes later uses it and does not take it with it"),
        pytest.param("m", None, id="the same one takes its wish back"),
    ],
)
def test_a_retained_claim_is_found_again(name: str, retained: str | None):
    one = hub_model(name)
    kept = claim_for(one, owners=(), retained_for=("m",), copy=COPY)
    found = plan(one, facts(one, claims=(kept,)))
    meta = child(found, "PersistentVolumeClaim")["metadata"]
    assert (found.state.ready, meta["annotations"].get("flexinfer.ai/retained-for")) == (True, retained)
    assert ("ownerReferences" in meta) is (retained is None)


def test_a_claim_that_the_user_names_is_used_and_never_owned():
    one = hub_model(cache={"pvcName": "mine"})
    theirs = Claim(name="mine", phase="Bound", access_modes=("ReadWriteMany",))
    found = plan(one, facts(one, claims=(theirs,)))
    assert kinds(found) == [("Job", f"mine-prefetch-{content_of(one)[:8]}")]
    done = task_for(one, child(found, "Job"), phase="Succeeded", copy=COPY)
    noted = plan(one, facts(one, claims=(theirs,), tasks=(done,)))
    meta = child(noted, "PersistentVolumeClaim")["metadata"]
    assert (set(meta), "spec" in child(noted, "PersistentVolumeClaim")) == ({"name", "namespace", "annotations"}, False)


# ── a source that changes


def test_after_a_change_of_source_the_old_job_ends_and_the_old_claim_stays_until_the_new_one_is_ready():
    before, now = hub_model(), hub_model(source="HF://org/other")
    task = task_for(before, begun(before), phase="Running")
    known = {"claims": (claim_for(before),), "tasks": (task,)}
    found = plan(now, facts(now, **known))
    spare = f"m-cache-{content_of(now)[:8]}"
    assert kinds(found) == [("PersistentVolumeClaim", spare), ("Job", f"{spare}-prefetch-{content_of(now)[:8]}")]
    assert found.obsolete == (Obsolete("Job", task.name),)
    there = claim_for(now, name=spare, copy=COPY)
    known = {"claims": (claim_for(before), there)}
    for rolled_out, left in (("False", ()), ("True", (Obsolete("PersistentVolumeClaim", "m-cache"),))):
        told = [READY, {**READY, "type": "RolledOut", "status": rolled_out}]
        later = hub_model(source="HF://org/other", status={"conditions": told})
        assert plan(later, facts(later, **known)).obsolete == left


def test_what_another_model_still_uses_is_not_given_up():
    before, other = hub_model(), hub_model("other")
    now = hub_model(source="HF://org/new", status={"conditions": [READY]})
    task = task_for(before, begun(before), phase="Running", owners=(owner(before), owner(other)))
    there = claim_for(now, name=f"m-cache-{content_of(now)[:8]}", copy=COPY)
    known = {"claims": (claim_for(before, before, other), there), "tasks": (task,)}
    found = plan(now, facts(now, **known, alive=frozenset({"uid-m", "uid-other"})))
    assert found.obsolete == ()
    [left] = [obj for obj in found.children if obj["metadata"]["name"] == "m-cache"]
    assert [ref["name"] for ref in left["metadata"]["ownerReferences"]] == ["other"]


# ── Jobs


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        pytest.param(
            {"phase": "Pending", "pods": 1}, ("PrefetchPending", "Pending", "has not started yet"), id="not started"
        ),
        pytest.param(
            {"phase": "Pending"},
            ("PrefetchPending", "Pending", "has made no pod yet: `kubectl describe job"),
            id="something keeps the Job from making its pod",
        ),
        pytest.param(
            {"phase": "Pending", "problem": "Unschedulable: 0/3 nodes are available"},
            ("PrefetchPending", "Pending", "0/3 nodes are available"),
            id="no node for its pod: the scheduler's words",
        ),
        pytest.param({"phase": "Running"}, ("PrefetchRunning", "Running", "downloading HF://org/name"), id="running"),
        pytest.param(
            {"phase": "Running", "tries": 2, "failed": Failed(reason="HubUnavailable", message="the hub answered 503")},
            ("PrefetchRunning", "Running", "(try 3 of 4); the last try: the hub answered 503"),
            id="pods that failed while it still tries are no failure",
        ),
    ],
)
def test_a_job_on_its_way(seen: dict[str, Any], expected: tuple[str, str, str]):
    one = hub_model()
    found = plan(one, facts(one, claims=(claim_for(one),), tasks=(task_for(one, begun(one), **seen),)))
    assert (found.state.reason, found.job_phase) == expected[:2]
    assert expected[2] in found.state.message
    assert (found.failure, kinds(found)) == (None, [("PersistentVolumeClaim", "m-cache")])


@pytest.mark.parametrize(
    ("secret", "words"),
    [
        pytest.param({}, "spec.secretRef names the Secret with the token (key HF_TOKEN or token)", id="no Secret"),
        pytest.param(
            {"secretRef": {"name": "hf"}}, "the token is that of Secret hf", id="a Secret whose token is wrong"
        ),
    ],
)
def test_fr_022_a_gated_repository_says_which_field_to_set(secret: dict[str, Any], words: str):
    one = hub_model(**secret)
    gated = Failed(reason="Gated", message="HF://org/name is gated: accept its licence at http://hub/org/name")
    found = plan(one, facts(one, claims=(claim_for(one),), tasks=(failed_task(one, gated, ago_s=10),)))
    assert (found.state.reason, found.job_phase, found.requeue_after_s) == ("Gated", "Failed", 35.0)
    assert gated.message in found.state.message
    assert words in found.state.message
    assert found.failure == Trouble(reason="Gated", message=found.state.message)


@pytest.mark.parametrize(
    ("failed", "attempt", "pause_s"),
    [
        pytest.param(Failed(reason="Gated", message=""), 9, 45, id="F65: a rotated Secret is used within a minute"),
        pytest.param(Failed(reason="RepositoryNotFound", message=""), 1, 30, id="what waiting does not mend, at first"),
        pytest.param(Failed(reason="RepositoryNotFound", message=""), 4, 240, id="and rarer each time"),
        pytest.param(Failed(reason="DiskFull", message="", retry_after_s=15), 99, 900, id="at most a quarter hour"),
        pytest.param(
            Failed(reason="RateLimited", message="", retry_after_s=1800), 1, 1800, id="F66: as long as the hub asks"
        ),
    ],
)
def test_a_job_that_has_given_up_is_followed_by_another(failed: Failed, attempt: int, pause_s: int):
    one = hub_model()
    early = failed_task(one, failed, ago_s=pause_s - 1, attempt=attempt)
    due = failed_task(one, failed, ago_s=pause_s, attempt=attempt)
    waiting = plan(one, facts(one, claims=(claim_for(one),), tasks=(early,)))
    again = plan(one, facts(one, claims=(claim_for(one),), tasks=(due,)))
    assert (kinds(waiting), waiting.requeue_after_s) == ([("PersistentVolumeClaim", "m-cache")], 1.0)
    assert child(again, "Job")["metadata"]["annotations"]["flexinfer.ai/attempt"] == str(attempt + 1)
    assert again.obsolete == (Obsolete("Job", due.name),)
    assert again.failure is None


def test_a_secret_that_is_named_now_is_tried_at_once():
    before, now = hub_model(), hub_model(secretRef={"name": "hf"})
    task = failed_task(before, Failed(reason="Unauthorized", message=""), ago_s=0)
    found = plan(now, facts(now, claims=(claim_for(now),), tasks=(task,)))
    assert child(found, "Job")["metadata"]["annotations"]["flexinfer.ai/attempt"] == "2"


def test_a_new_image_of_ours_changes_no_download():
    one = hub_model()
    task = task_for(one, begun(one), phase="Running")
    newer = msgspec.structs.replace(OURS, image="flexinfer:2")
    found = plan(one, facts(one, claims=(claim_for(one),), tasks=(task,), installation=newer))
    assert (kinds(found), found.obsolete) == ([("PersistentVolumeClaim", "m-cache")], ())


def test_a_job_whose_words_nobody_heard_is_run_once_more():
    one = hub_model()
    task = task_for(one, begun(one), phase="Succeeded")
    found = plan(one, facts(one, claims=(claim_for(one),), tasks=(task,)))
    assert child(found, "Job")["metadata"]["name"].endswith("-2")


def test_a_claim_that_gets_no_volume_says_so():
    one = hub_model()
    found = plan(one, facts(one, claims=(claim_for(one, phase="Pending"),)))
    assert (found.state.reason, "`kubectl describe pvc m-cache`" in found.state.message) == ("PVCProvisioning", True)


def test_a_claim_that_has_lost_its_volume_says_what_to_do():
    one = hub_model()
    found = plan(one, facts(one, claims=(claim_for(one, phase="Lost", copy=COPY),)))
    assert (found.state.ready, found.state.reason) == (False, "PVCLost")
    assert "delete the claim" in found.state.message


def test_names_stay_within_what_labels_hold():
    one = hub_model("m" * 253)
    found = plan(one, facts(one))
    claim, job = found.children
    assert (len(claim["metadata"]["name"]), len(job["metadata"]["name"])) == (253, 63)


# ── sources and strategies that share nothing


def test_a_claim_of_the_users_is_checked_once_and_mounted_as_it_is():
    one = hub_model(source="pvc://weights/llama/m.gguf", cache={"strategy": "Memory"})
    theirs = Claim(name="weights", phase="Bound")
    found = plan(one, facts(one, claims=(theirs,)))
    job = child(found, "Job")
    [container] = job["spec"]["template"]["spec"]["containers"]
    assert container["args"][:5] == ["loader", "check", "/models/llama/m.gguf", "--reads", "gguf"]
    assert job["spec"]["template"]["spec"]["volumes"][0]["persistentVolumeClaim"]["readOnly"] is True
    assert job["metadata"]["name"].startswith("m-cache-check-")
    assert (found.state.ready, found.state.reason) == (False, "CacheCheckPending")
    done = task_for(one, job, phase="Succeeded", copy=msgspec.structs.replace(COPY, path="", file=""))
    whole = plan(one, facts(one, claims=(theirs,), tasks=(done,)))
    assert (whole.state.ready, whole.state.reason, whole.init_containers) == (True, "CacheIgnored", ())
    assert whole.artifact == Artifact(path="/models/llama/m.gguf", size_bytes=1000)


def test_a_claim_that_is_not_there_is_named():
    one = hub_model(source="pvc://weights/llama")
    found = plan(one, facts(one))
    assert (found.state.reason, found.children) == ("ClaimNotFound", ())
    assert "there is no claim weights in this namespace" in found.state.message


def test_local_is_refused_where_the_installation_does_not_allow_it():
    one = hub_model(cache={"strategy": "Local"}, config={"ggufFile": "m.gguf"})
    found = plan(one, facts(one))
    assert (found.state.reason, "SharedPVC" in found.state.message) == ("HostPathNotAllowed", True)


@pytest.mark.parametrize(
    ("strategy", "volume"),
    [
        pytest.param("None", {"name": "models", "emptyDir": {}}, id="None is an empty folder of the pod"),
        pytest.param(
            "Local",
            {
                "name": "models",
                "hostPath": {"path": "/var/lib/flexinfer/models/default/m", "type": "DirectoryOrCreate"},
            },
            id="Local a folder of the node, where that is allowed",
        ),
    ],
)
def test_a_pod_that_fetches_for_itself(strategy: str, volume: dict[str, Any]):
    one = hub_model(cache={"strategy": strategy}, config={"ggufFile": "m.gguf"}, secretRef={"name": "hf"})
    allowed = msgspec.structs.replace(OURS, allow_host_path=True)
    found = plan(one, facts(one, installation=allowed))
    [fetch] = found.init_containers
    assert (found.state.ready, found.state.reason, found.children) == (True, "NoCacheJob", ())
    assert found.volumes[0] == volume
    assert fetch["args"][:3] == ["loader", "fetch", "HF://org/name"]
    assert "hf" in str(fetch["env"])
    assert found.artifact.path == f"/models/.flexinfer/requests/{found_request(one)}/m.gguf"


def found_request(one: Model) -> str:
    return content_of(
        msgspec.structs.replace(one, spec=msgspec.structs.replace(one.spec, cache=hub_model().spec.cache))
    )


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        pytest.param({"source": "ollama://llama3:8b"}, "SourceUnavailable", id="llama.cpp and a tag of Ollama's"),
        pytest.param({"backend": "ollama"}, "SourceUnavailable", id="Ollama and a repository of the hub"),
        pytest.param({"source": "oci://host/repo:tag"}, "SourceUnavailable", id="an OCI artifact"),
        pytest.param({"cache": {"strategy": "None"}}, "FilesNotChosen", id="a file that nobody has named yet"),
    ],
)
def test_what_cannot_be_fetched_says_why(spec: dict[str, Any], reason: str):
    one = hub_model(**spec)
    found = plan(one, facts(one))
    assert (found.state.ready, found.state.reason, found.children) == (False, reason, ())


def test_a_tag_of_ollama_s_registry_is_fetched_by_our_loader_into_ollama_s_own_layout():
    one = hub_model(backend="ollama", source="ollama://llama3:8b")
    found = plan(one, facts(one))
    assert child(found, "Job")["spec"]["template"]["spec"]["containers"][0]["args"][:5] == [
        "loader", "fetch", "ollama://library/llama3:8b", "--root", "/models",
    ]  # fmt: skip
    copy = msgspec.structs.replace(COPY, file="")
    whole = plan(one, facts(one, claims=(claim_for(one, copy=copy),)))
    assert whole.artifact == Artifact(path="/models/.flexinfer/k/files", model_id="llama3:8b", size_bytes=1000)


def test_the_simulator_has_no_bytes():
    one = hub_model(backend="simulator", source="file:///models/none")
    found = plan(one, facts(one))
    assert (found.state.ready, found.children, found.volumes) == (True, (), ())
