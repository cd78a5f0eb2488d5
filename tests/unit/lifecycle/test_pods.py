"""What pods tell: replicas, what is in their way, and when an attempt counts as failed."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from tests.support.models import T0

from flexinfer.lifecycle.observed import Blocked, Trouble
from flexinfer.lifecycle.pods import ContainerFacts, Ended, PodFacts, dead_for, judge


def pod(*containers: ContainerFacts, **facts: Any) -> PodFacts:
    return PodFacts(
        **{"name": "p", "created_at": T0, "node": "n", "phase": "Running", "containers": containers, **facts}
    )


def engine(**facts: Any) -> ContainerFacts:
    return ContainerFacts(**{"name": "model", **facts})


def ended(code: int = 1, *, lasted_s: float = 5, **facts: Any) -> Ended:
    return Ended(exit_code=code, started_at=T0, finished_at=T0 + timedelta(seconds=lasted_s), **facts)


RUNNING = {"running_since": T0 + timedelta(seconds=3)}
IN_BACKOFF = ("CrashLoopBackOff", "back-off 40s restarting failed container")


@pytest.mark.parametrize(
    ("found", "state", "substage"),
    [
        pytest.param(pod(), "starting", "StartingContainer", id="bound to a node, nothing begun"),
        pytest.param(
            pod(ContainerFacts(name="stage", init=True, **RUNNING)), "starting", "Staging", id="an init container runs"
        ),
        pytest.param(pod(engine(**RUNNING)), "loading", "LoadingWeights", id="the engine runs"),
        pytest.param(pod(engine(**RUNNING), ready=True), "ready", "", id="it answers"),
        pytest.param(pod(engine(ended=ended(), restarts=0)), "backoff", "", id="it has just ended"),
        pytest.param(pod(engine(waiting=IN_BACKOFF, restarts=2, last=ended())), "backoff", "", id="between two runs"),
        pytest.param(
            pod(ContainerFacts(name="stage", init=True, ended=ended(0)), engine(**RUNNING)),
            "loading",
            "LoadingWeights",
            id="an init container that is done is no failure",
        ),
    ],
)
def test_state(found, state, substage):
    [replica] = judge([found]).replicas
    assert (replica.state, replica.substage) == (state, substage)


@pytest.mark.parametrize(
    ("found", "trouble"),
    [
        pytest.param(pod(engine(**RUNNING)), None, id="a load is no trouble"),
        pytest.param(
            pod(engine(waiting=("ErrImagePull", "no such host"))),
            Trouble(reason="ErrImagePull", message="no such host"),
            id="an image that cannot be pulled",
        ),
        pytest.param(
            pod(ContainerFacts(name="stage", init=True, waiting=("ErrImagePull", "no such host"))),
            Trouble(reason="ErrImagePull", message="init container stage: no such host"),
            id="that of an init container",
        ),
        pytest.param(
            pod(engine(**RUNNING, restarts=1, last=ended(137, reason="OOMKilled"), memory_limit="1Gi")),
            Trouble(
                reason="OOMKilled",
                message="the engine ended once (restarts: 1), last with exit code 137, OOMKilled: it took more than "
                "its memory limit of 1Gi",
            ),
            id="it is loading again after it was killed for memory",
        ),
        pytest.param(
            pod(engine(waiting=IN_BACKOFF, restarts=2, last=ended(3, reason="Error", message="cannot open\n"))),
            Trouble(
                reason="CrashLoopBackOff",
                message="the engine ended 2 times (restarts: 2), last with exit code 3\ncannot open",
            ),
            id="its own last words",
        ),
        pytest.param(
            pod(engine(**RUNNING, started=True)),
            Trouble(reason="NotAnswering", message="the engine answered before and does not now"),
            id="it answered before",
        ),
        pytest.param(
            pod(engine(**RUNNING, started=True), lost="node n is not Ready (NodeStatusUnknown)"),
            Trouble(reason="NodeLost", message="node n is not Ready (NodeStatusUnknown)"),
            id="its node is lost",
        ),
        pytest.param(pod(engine(**RUNNING, restarts=5, last=ended()), ready=True), None, id="it answers again"),
    ],
)
def test_trouble(found, trouble):
    [replica] = judge([found]).replicas
    assert replica.trouble == trouble


@pytest.mark.parametrize(
    ("container", "reason"),
    [
        pytest.param(engine(waiting=("ErrImagePull", "")), None, id="a first failed pull"),
        pytest.param(engine(waiting=("ImagePullBackOff", "")), "ImagePullBackOff", id="a second one"),
        pytest.param(engine(waiting=("InvalidImageName", "")), "InvalidImageName", id="a name that is none"),
        pytest.param(
            engine(waiting=("CreateContainerConfigError", "secret x not found")),
            "CreateContainerConfigError",
            id="a Secret that is missing",
        ),
        pytest.param(engine(waiting=IN_BACKOFF, restarts=2, last=ended()), None, id="two restarts are allowed"),
        pytest.param(engine(waiting=IN_BACKOFF, restarts=3, last=ended()), "CrashLoopBackOff", id="three are not"),
        pytest.param(engine(**RUNNING, restarts=3, last=ended()), None, id="the third restart is still loading"),
        pytest.param(
            engine(waiting=IN_BACKOFF, restarts=30, last=ended(lasted_s=90_000)), None, id="a crash a day is no failure"
        ),
        pytest.param(
            engine(waiting=IN_BACKOFF, restarts=3, last=ended(137, reason="OOMKilled")), "OOMKilled", id="out of memory"
        ),
    ],
)
def test_failed(container, reason):
    failed = judge([pod(container)]).failed
    assert (failed.reason if failed else None) == reason


def test_the_failure_of_an_older_template_does_not_count():
    assert judge([pod(engine(waiting=("ImagePullBackOff", "")), current=False)]).failed is None


@pytest.mark.parametrize(
    ("pods", "blocked"),
    [
        pytest.param([], None, id="no pod"),
        pytest.param([pod(node="")], None, id="the scheduler has not looked yet"),
        pytest.param(
            [pod(node="", unschedulable="0/3 nodes are available: 3 Insufficient cpu.")],
            Blocked(reason="Unschedulable", message="0/3 nodes are available: 3 Insufficient cpu.", watched=True),
            id="the scheduler's words",
        ),
        pytest.param(
            [pod(phase="Failed", reason="UnexpectedAdmissionError", message="no devices")],
            Blocked(
                reason="UnexpectedAdmissionError",
                message="pod p was ended by its node: UnexpectedAdmissionError: no devices",
                watched=True,
            ),
            id="the node took it and did not want it",
        ),
        pytest.param(
            [pod(phase="Failed", reason="Evicted"), pod(engine(**RUNNING), name="q")], None, id="another one has come"
        ),
    ],
)
def test_blocked(pods, blocked):
    assert judge(pods).blocked == blocked


def test_pods_that_are_going_do_not_count_and_ready_ones_come_first():
    going = pod(engine(**RUNNING), name="a", deleting=True, ready=True)
    loading = pod(engine(**RUNNING), name="b")
    ready = pod(engine(**RUNNING), name="c", ready=True, created_at=T0 + timedelta(seconds=9))
    assert [replica.name for replica in judge([going, loading, ready]).replicas] == ["c", "b"]


def test_one_that_fell_out_has_the_load_limit_from_then_on():
    fell_at = T0 + timedelta(hours=3)
    [replica] = judge([pod(engine(**RUNNING, started=True), ready_changed_at=fell_at)]).replicas
    assert (replica.state, replica.progress_at) == ("loading", fell_at)


@pytest.mark.parametrize(
    ("progress_at", "expected"),
    [
        pytest.param(T0 + timedelta(minutes=9), T0 + timedelta(minutes=9), id="it goes on"),
        pytest.param(T0, None, id="nothing has been seen of this run"),
        pytest.param(None, None, id="nobody looks"),
    ],
)
def test_a_load_that_goes_on_says_when_it_last_did(progress_at, expected):
    loading = pod(engine(**RUNNING), stage="WarmingUp", progress=0.5, progress_at=progress_at)
    [replica] = judge([loading]).replicas
    assert (replica.substage, replica.progress, replica.progress_at) == ("WarmingUp", 0.5, expected)


def test_pods_that_failed_long_ago_are_named():
    old = pod(phase="Failed", name="old")
    new = pod(phase="Failed", name="new", created_at=T0 + timedelta(minutes=4))
    going = pod(phase="Failed", name="going", deleting=True)
    now = T0 + timedelta(minutes=5)
    assert dead_for([old, new, going, pod()], now, timedelta(minutes=5)) == ["old"]
