"""Container states -> pod phase, conditions and container statuses; what a new kubelet makes of an old status."""

from __future__ import annotations

from typing import Any

import pytest
from tests.cluster.kubelet.backoff import BackOff
from tests.cluster.kubelet.probes import Exec, Http, Probe, Row, Sleep, Tcp, action
from tests.cluster.kubelet.records import records_of
from tests.cluster.kubelet.status import (
    ContainerRecord,
    Running,
    Terminated,
    Waiting,
    conditions,
    container_status,
    ended,
    phase,
    pod_status,
    restarts_after,
)

NOW, BEFORE = "2026-01-01T00:00:10Z", "2026-01-01T00:00:00Z"
CREATING, RUNNING = Waiting("ContainerCreating"), Running(BEFORE)
GOOD, BAD = Terminated(0, "Completed", BEFORE, NOW), Terminated(1, "Error", BEFORE, NOW)
LOOPING = Waiting("CrashLoopBackOff", "back-off")


def record(state: Any, role: Any = "main", **more: Any) -> ContainerRecord:
    return ContainerRecord(more.pop("name", "c"), "image", role, state, **more)


@pytest.mark.parametrize(
    ("records", "policy", "expected"),
    [
        pytest.param([record(CREATING)], "Always", "Pending", id="nothing has run"),
        pytest.param([record(RUNNING), record(CREATING)], "Always", "Pending", id="one of two has run"),
        pytest.param([record(RUNNING)], "Always", "Running", id="all run"),
        pytest.param([record(LOOPING, last=BAD)], "Always", "Running", id="one waits to be started again"),
        pytest.param([record(GOOD)], "Always", "Running", id="one that ended is started again"),
        pytest.param([record(GOOD)], "OnFailure", "Succeeded", id="all ended well"),
        pytest.param([record(BAD)], "OnFailure", "Running", id="a failure is started again"),
        pytest.param([record(GOOD), record(BAD)], "Never", "Failed", id="one failed for good"),
        pytest.param([record(GOOD), record(RUNNING)], "Never", "Running", id="one still runs"),
        pytest.param([record(RUNNING, "init"), record(CREATING)], "Always", "Pending", id="an init container runs"),
        pytest.param(
            [record(BAD, "init"), record(CREATING)], "Never", "Failed", id="an init container failed for good"
        ),
        pytest.param([record(BAD, "init"), record(CREATING)], "Always", "Pending", id="an init container tries again"),
        pytest.param([record(GOOD, "init"), record(RUNNING)], "Always", "Running", id="init containers are done"),
        pytest.param([record(RUNNING, "sidecar"), record(GOOD)], "Never", "Succeeded", id="a sidecar does not count"),
    ],
)
def test_phase(records: list[ContainerRecord], policy: str, expected: str):
    assert phase(records, policy) == expected


@pytest.mark.parametrize(
    ("code", "role", "policy", "again"),
    [
        pytest.param(0, "main", "Always", True, id="always"),
        pytest.param(0, "main", "OnFailure", False, id="not after success"),
        pytest.param(1, "main", "OnFailure", True, id="after failure"),
        pytest.param(1, "main", "Never", False, id="never"),
        pytest.param(0, "init", "Always", False, id="an init container that is done"),
        pytest.param(1, "init", "Always", True, id="an init container that failed"),
        pytest.param(1, "init", "Never", False, id="an init container of a pod that never restarts"),
        pytest.param(0, "sidecar", "Never", True, id="a sidecar, whatever the pod's policy"),
    ],
)
def test_restarts(code: int, role: Any, policy: str, again: bool):
    assert restarts_after(code, role, policy) is again


def pod(*, gates: tuple[str, ...] = (), **status: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "p"},
        "spec": {"readinessGates": [{"conditionType": gate} for gate in gates], "containers": []},
        "status": status,
    }


def told(found: list[dict[str, Any]], kind: str) -> tuple[str, str]:
    one = next(one for one in found if one["type"] == kind)
    return one["status"], one.get("reason", "")


@pytest.mark.parametrize(
    ("records", "gates", "status", "kind", "expected"),
    [
        pytest.param([record(RUNNING, ready=True)], (), {}, "Ready", ("True", ""), id="ready"),
        pytest.param([record(RUNNING)], (), {}, "Ready", ("False", "ContainersNotReady"), id="a container is not"),
        pytest.param(
            [record(RUNNING, ready=True)],
            ("g",),
            {},
            "Ready",
            ("False", "ReadinessGatesNotReady"),
            id="a gate is closed",
        ),
        pytest.param(
            [record(RUNNING, ready=True)], ("g",), {}, "ContainersReady", ("True", ""), id="a gate is no container"
        ),
        pytest.param(
            [record(RUNNING, ready=True)],
            ("g",),
            {"conditions": [{"type": "g", "status": "True"}]},
            "Ready",
            ("True", ""),
            id="a gate is open",
        ),
        pytest.param(
            [record(RUNNING, "init"), record(CREATING)],
            (),
            {},
            "Initialized",
            ("False", "ContainersNotInitialized"),
            id="an init container runs",
        ),
        pytest.param(
            [record(RUNNING, "sidecar", started=True), record(CREATING)],
            (),
            {},
            "Initialized",
            ("True", ""),
            id="a sidecar that has started is enough",
        ),
        pytest.param(
            [record(RUNNING, "sidecar", started=True), record(RUNNING, ready=True)],
            (),
            {},
            "Ready",
            ("False", "ContainersNotReady"),
            id="a sidecar that is not ready counts",
        ),
    ],
)
def test_conditions(
    records: list[ContainerRecord], gates: tuple[str, ...], status: Any, kind: str, expected: tuple[str, str]
):
    found = conditions(pod(gates=gates, **status), records, phase(records, "Always"), sandbox=True, now=NOW)
    assert told(found, kind) == expected


def test_a_pod_that_is_over_is_not_ready_for_that_reason():
    found = conditions(pod(), [record(GOOD)], "Succeeded", sandbox=False, now=NOW)
    assert [told(found, kind) for kind in ("Ready", "PodReadyToStartContainers")] == [
        ("False", "PodCompleted"),
        ("False", ""),
    ]


def test_a_transition_is_when_the_status_changed():
    old = [{"type": "Ready", "status": "True", "lastTransitionTime": BEFORE}]
    same = conditions(pod(conditions=old), [record(RUNNING, ready=True)], "Running", sandbox=True, now=NOW)
    other = conditions(pod(conditions=old), [record(RUNNING)], "Running", sandbox=True, now=NOW)
    times = [[one["lastTransitionTime"] for one in found if one["type"] == "Ready"] for found in (same, other)]
    assert times == [[BEFORE], [NOW]]


def test_the_status_of_a_container():
    found = container_status(record(RUNNING, last=BAD, restarts=2, ready=True, started=True, container_id="test://x"))
    assert found == {
        "name": "c",
        "image": "image",
        "imageID": "test://image",
        "ready": True,
        "started": True,
        "restartCount": 2,
        "state": {"running": {"startedAt": BEFORE}},
        "lastState": {
            "terminated": {
                "exitCode": 1,
                "reason": "Error",
                "startedAt": BEFORE,
                "finishedAt": NOW,
                "containerID": "test://x",
            }
        },
        "containerID": "test://x",
    }


def test_addresses_are_told_once_the_pod_has_one():
    without = pod_status(pod(), [record(CREATING)], addresses=("", "198.18.0.1"), ending=False, now=NOW)
    having = pod_status(pod(), [record(RUNNING)], addresses=("198.18.16.1", "198.18.0.1"), ending=False, now=NOW)
    assert ("podIP" in without, having["podIP"], having["podIPs"]) == (False, "198.18.16.1", [{"ip": "198.18.16.1"}])


@pytest.mark.parametrize(
    ("code", "out_of_memory", "reason"),
    [
        pytest.param(0, False, "Completed", id="well"),
        pytest.param(3, False, "Error", id="not well"),
        pytest.param(137, True, "OOMKilled", id="over its memory limit"),
    ],
)
def test_reasons_of_an_end(code: int, out_of_memory: bool, reason: str):
    assert ended(code, BEFORE, NOW, out_of_memory=out_of_memory).reason == reason


def seen(policy: str, state: dict[str, Any]) -> ContainerRecord:
    spec = {"restartPolicy": policy, "containers": [{"name": "c", "image": "image"}]}
    statuses = [{"name": "c", "restartCount": 4, "state": state}]
    (found,) = records_of({"spec": spec, "status": {"containerStatuses": statuses}})
    return found


@pytest.mark.parametrize(
    ("policy", "state", "expected"),
    [
        pytest.param("Always", {"running": {"startedAt": BEFORE}}, ("Waiting", 5), id="one that ran is started again"),
        pytest.param(
            "Never", {"running": {"startedAt": BEFORE}}, ("Terminated", 4), id="or has ended, where it may not"
        ),
        pytest.param("Always", {"waiting": {"reason": "ImagePullBackOff"}}, ("Waiting", 4), id="one that waited waits"),
        pytest.param(
            "Never",
            {"terminated": {"exitCode": 0, "reason": "Completed"}},
            ("Terminated", 4),
            id="one that had ended has",
        ),
    ],
)
def test_a_new_kubelet_finds_no_process(policy: str, state: dict[str, Any], expected: tuple[str, int]):
    found = seen(policy, state)
    assert (type(found.state).__name__, found.restarts) == expected


def probe(successes: int, failures: int) -> Probe:
    return Probe("readiness", Sleep(0), 0, 1, 1, successes, failures)


@pytest.mark.parametrize(
    ("answers", "successes", "failures", "verdicts"),
    [
        pytest.param([True], 1, 3, [True], id="one good answer is enough"),
        pytest.param([False, False, False], 1, 3, [None, None, False], id="bad ones in a row"),
        pytest.param([True, False, True, False, False], 1, 2, [True, True, True, True, False], id="a good one between"),
        pytest.param([False, True, True], 2, 1, [False, False, True], id="good ones in a row"),
    ],
)
def test_rows_of_answers(answers: list[bool], successes: int, failures: int, verdicts: list[bool | None]):
    row, found = Row(), []
    for good in answers:
        row = row.after(good, probe(successes, failures))
        found.append(row.verdict)
    assert found == verdicts


CONTAINER = {"ports": [{"name": "http", "containerPort": 8000}]}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param(
            {"httpGet": {"port": "http", "path": "health", "httpHeaders": [{"name": "Host", "value": "x"}]}},
            Http("http", "198.18.16.1", 8000, "/health", (("Host", "x"),)),
            id="a port by name",
        ),
        pytest.param(
            {"httpGet": {"port": 1, "host": "198.18.0.1", "scheme": "HTTPS"}},
            Http("https", "198.18.0.1", 1, "/", ()),
            id="another host, over TLS",
        ),
        pytest.param({"tcpSocket": {"port": 2}}, Tcp("198.18.16.1", 2), id="a socket"),
        pytest.param({"exec": {"command": ["ls", "-l"]}}, Exec(("ls", "-l")), id="a command"),
        pytest.param({"sleep": {"seconds": 3}}, Sleep(3.0), id="a wait"),
    ],
)
def test_actions(given: dict[str, Any], expected: Any):
    assert action(given, CONTAINER, "198.18.16.1") == expected


def test_a_port_that_the_container_does_not_name_is_refused():
    with pytest.raises(ValueError, match="port 'grpc': the container has no port of this name"):
        action({"tcpSocket": {"port": "grpc"}}, CONTAINER, "198.18.16.1")


def test_back_off_is_nothing_then_doubles_to_its_cap_and_is_forgotten_after_a_long_run():
    back_off = BackOff(1.0, 4.0)
    assert [back_off.next_s() for _ in range(5)] == [0.0, 1.0, 2.0, 4.0, 4.0]
    assert back_off.next_s(ran_s=9.0) == 0.0
