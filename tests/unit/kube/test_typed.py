"""Built-in kinds as far as we use them: what is read, what a cached object costs, what cannot be read."""

from __future__ import annotations

import gc
import tracemalloc

import msgspec
import pytest

from flexinfer.kube import typed
from flexinfer.kube.typed import UnreadableObject, reader

CONDITION = {"type": "Ready", "status": "True", "lastProbeTime": None, "lastTransitionTime": "2026-01-01T00:00:00Z"}
POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {
        "name": "llama-7d9f8c6b5-abcde",
        "namespace": "team",
        "uid": "3f2504e0-4f89-41d3-9a0c-0305e82c3301",
        "resourceVersion": "123456",
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "labels": {"app": "llama"},
        "ownerReferences": [
            {
                "apiVersion": "apps/v1",
                "kind": "ReplicaSet",
                "name": "llama-7d9f8c6b5",
                "uid": "4f25",
                "controller": True,
            }
        ],
        "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:status": {"f:phase": {}}}}] * 20,
    },
    "spec": {
        "nodeName": "gpu-7",
        "schedulerName": "default-scheduler",
        "volumes": [{"name": "models", "persistentVolumeClaim": {"claimName": "models"}}],
        "containers": [
            {
                "name": "engine",
                "image": "llama.cpp",
                "args": ["--model", "/models/a.gguf"],
                "resources": {"limits": {"cpu": "4", "nvidia.com/gpu": "1"}, "requests": {"cpu": 2}},
            }
        ],
    },
    "status": {
        "phase": "Running",
        "podIP": "10.1.2.3",
        "startTime": "2026-01-01T00:00:00Z",
        "conditions": [CONDITION],
        "containerStatuses": [
            {
                "name": "engine",
                "ready": True,
                "restartCount": 2,
                "image": "llama.cpp",
                "state": {"running": {"startedAt": "2026-01-01T00:00:05Z"}},
                "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled", "finishedAt": None}},
            }
        ],
    },
}


def test_a_pod():
    assert reader(typed.Pod)(POD) == typed.Pod(
        metadata=typed.Meta(
            name="llama-7d9f8c6b5-abcde",
            namespace="team",
            uid="3f2504e0-4f89-41d3-9a0c-0305e82c3301",
            resource_version="123456",
            creation_timestamp="2026-01-01T00:00:00Z",
            labels={"app": "llama"},
            owner_references=(
                typed.Owner(kind="ReplicaSet", name="llama-7d9f8c6b5", uid="4f25", controller=True),
            ),
        ),
        spec=typed.PodSpec(
            node_name="gpu-7",
            scheduler_name="default-scheduler",
            containers=(
                typed.Container(
                    name="engine",
                    image="llama.cpp",
                    resources=typed.Resources(limits={"cpu": "4", "nvidia.com/gpu": "1"}, requests={"cpu": 2}),
                ),
            ),
        ),
        status=typed.PodStatus(
            phase="Running",
            pod_ip="10.1.2.3",
            start_time="2026-01-01T00:00:00Z",
            conditions=(typed.Condition(type="Ready", status="True", last_transition_time="2026-01-01T00:00:00Z"),),
            container_statuses=(
                typed.ContainerStatus(
                    name="engine",
                    ready=True,
                    restart_count=2,
                    state=typed.ContainerState(running=typed.Running(started_at="2026-01-01T00:00:05Z")),
                    last_state=typed.ContainerState(
                        terminated=typed.Terminated(exit_code=137, reason="OOMKilled")
                    ),
                ),
            ),
        ),
    )  # fmt: skip


KINDS = [
    typed.Deployment,
    typed.Event,
    typed.Job,
    typed.Lease,
    typed.Node,
    typed.PersistentVolumeClaim,
    typed.Pod,
    typed.Service,
]


@pytest.mark.parametrize("kind", [pytest.param(kind, id=kind.__name__) for kind in KINDS])
def test_what_a_server_leaves_out_has_its_zero_value(kind):
    obj = {"metadata": {"name": "a", "creationTimestamp": None}, "spec": {}, "status": {}}
    assert reader(kind)(obj) == kind(metadata=typed.Meta(name="a"))


def test_an_event_of_either_library():
    meta = {"name": "e", "namespace": "team"}
    told = {"involvedObject": {"kind": "Pod", "name": "a"}, "firstTimestamp": None, "lastTimestamp": None}
    series = {"count": 3, "lastObservedTime": "2026-01-01T00:00:00.000000Z"}
    event = reader(typed.Event)(
        {"metadata": meta, **told, "eventTime": "2026-01-01T00:00:00.000000Z", "series": series}
    )
    assert (event.last_timestamp, event.series) == (
        None,
        typed.EventSeries(count=3, last_observed_time="2026-01-01T00:00:00.000000Z"),
    )
    assert reader(typed.Event)({"metadata": meta, **told, "eventTime": None, "count": 2}).count == 2


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        pytest.param(
            typed.Pod,
            {"spec": {"nodeName": 5}},
            "Pod team/a: Expected `str`, got `int` - at `$.spec.nodeName`",
            id="a type",
        ),
        pytest.param(
            typed.Node,
            {"metadata": {"namespace": "team"}},
            "Node team: Object missing required field `name` - at `$.metadata`",
            id="a name that is missing",
        ),
    ],
)
def test_what_cannot_be_read_is_named(kind, change, message):
    with pytest.raises(UnreadableObject) as raised:
        reader(kind)({"metadata": {"namespace": "team", "name": "a"}, **change})
    assert str(raised.value) == message


def test_a_cached_pod_costs_a_few_kib():
    read, count, raw = reader(typed.Pod), 200, msgspec.json.encode(POD)
    gc.collect()
    tracemalloc.start()
    try:
        kept = [read(msgspec.json.decode(raw)) for _ in range(count)]
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held / len(kept) < 4 * 1024
