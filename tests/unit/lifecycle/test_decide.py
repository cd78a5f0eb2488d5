from datetime import timedelta

import msgspec
import pytest
from tests.support.models import T0, model

from flexinfer.lifecycle import silence
from flexinfer.lifecycle.decide import decide, load_limit_s
from flexinfer.lifecycle.observed import ArtifactState, Blocked, Failure, Observed, Replica, Trouble
from flexinfer.lifecycle.phases import MEANING, TRANSITIONS
from flexinfer.lifecycle.status import merge_conditions, status_of

NOW = T0 + timedelta(hours=1)
LOADING = Replica(name="m-0", state="loading", started_at=NOW - timedelta(seconds=2), substage="LoadingWeights")
READY = Replica(
    name="m-0", state="ready", started_at=NOW - timedelta(seconds=900), ready_at=NOW - timedelta(seconds=890)
)

DOWNLOADING = ArtifactState(
    ready=False,
    reason="PrefetchRunning",
    message="downloading org/name: 40% of 4.1 GB, about 90 s left",
    substage="Downloading",
    progress=0.4,
    progress_at=NOW - timedelta(seconds=1),
    started_at=NOW - timedelta(seconds=60),
    left_s=90,
)


def active(seconds_ago: float) -> dict[str, str]:
    return {"lastActiveTime": (NOW - timedelta(seconds=seconds_ago)).isoformat()}


def failed(seconds_ago: float, reason: str = "EngineExited") -> Observed:
    failure = Failure(reason=reason, message="exit code 3", at=NOW - timedelta(seconds=seconds_ago))
    return Observed(failure=failure, failed_generation=1)


def ready_condition(reason: str, seconds_ago: float) -> dict:
    since = (NOW - timedelta(seconds=seconds_ago)).isoformat()
    return {"type": "Ready", "status": "False", "reason": reason, "lastTransitionTime": since}


@pytest.mark.parametrize(
    ("spec", "status", "observed", "phase", "replicas", "serving"),
    [
        pytest.param({}, {}, Observed(), "Idle", 0, False, id="nobody asked: idle"),
        pytest.param({}, active(0), Observed(), "Pending", 1, True, id="a request came: wanted, not started yet"),
        pytest.param({}, active(1), Observed(replicas=(LOADING,)), "Loading", 1, True, id="started: loading"),
        pytest.param({}, active(1), Observed(replicas=(READY,)), "Ready", 1, True, id="answers: ready"),
        pytest.param(
            {}, active(400), Observed(replicas=(READY,)), "Ready", 1, False, id="idle: first the endpoints go"
        ),
        pytest.param(
            {},
            active(400) | {"conditions": [ready_condition("ScalingDown", 0.4)]},
            Observed(replicas=(READY,)),
            "Ready",
            1,
            False,
            id="endpoints just withdrawn: proxies get time to see it",
        ),
        pytest.param(
            {},
            active(400) | {"conditions": [ready_condition("ScalingDown", 2)]},
            Observed(replicas=(READY,)),
            "Idle",
            0,
            False,
            id="then the replicas go",
        ),
        pytest.param(
            {},
            active(0.1) | {"conditions": [ready_condition("ScalingDown", 2)]},
            Observed(replicas=(READY,)),
            "Ready",
            1,
            True,
            id="a request that races the idle rule brings the endpoints back",
        ),
        pytest.param(
            {},
            active(1),
            Observed(artifact=ArtifactState(ready=False, reason="PrefetchRunning", message="40 %")),
            "Pending",
            0,
            False,
            id="no replica before the files are whole",
        ),
        pytest.param(
            {},
            {},
            Observed(artifact=DOWNLOADING),
            "Pending",
            0,
            False,
            id="bytes are fetched before anybody asks, and that is not Idle",
        ),
        pytest.param(
            {}, active(400), Observed(artifact=DOWNLOADING), "Pending", 0, False, id="nor is it when a request gave up"
        ),
        pytest.param(
            {}, {}, Observed(artifact=ArtifactState(ready=True)), "Idle", 0, False, id="once they are here it is"
        ),
        pytest.param(
            {"serverless": {"minReplicas": 1}},
            {},
            Observed(replicas=(LOADING,)),
            "Loading",
            1,
            True,
            id="a pinned model runs",
        ),
        pytest.param({}, active(5), failed(3), "Failed", 0, False, id="a failure stands"),
        pytest.param({}, active(1.5), failed(31), "Failed", 0, False, id="a use before the pause ended does not wake"),
        pytest.param({}, active(0), failed(31), "Pending", 1, True, id="a request half a minute later starts afresh"),
        pytest.param(
            {"serverless": {"minReplicas": 1}}, {}, failed(31), "Pending", 1, True, id="a pinned model retries unasked"
        ),
        pytest.param(
            {"serverless": {"minReplicas": 1}}, {}, failed(3), "Failed", 0, False, id="but not before its pause is over"
        ),
    ],
)
def test_decision(spec, status, observed, phase, replicas, serving):
    decision = decide(model(status=status, **spec), observed, NOW)
    assert (decision.phase, decision.replicas, decision.serving) == (phase, replicas, serving)


def test_a_failure_of_an_older_generation_is_forgotten():
    observed = Observed(failure=failed(1).failure, failed_generation=7)
    assert decide(model(status=active(0)), observed, NOW).phase == "Pending"


def test_a_load_without_progress_fails_with_its_last_step():
    limit_s = load_limit_s(model().spec)
    stuck = Replica(name="m-0", state="loading", started_at=NOW - timedelta(seconds=limit_s), substage="LoadingWeights")
    decision = decide(model(status=active(1)), Observed(replicas=(stuck,)), NOW)
    assert decision.phase == "Failed"
    assert decision.failure == Failure(
        reason="LoadTimeout", message="the engine made no progress for 600 s (last seen: LoadingWeights)", at=NOW
    )


def test_progress_pushes_the_load_limit_back():
    moving = Replica(
        name="m-0",
        state="loading",
        started_at=NOW - timedelta(seconds=10_000),
        progress_at=NOW - timedelta(seconds=1),
    )
    decision = decide(model(status=active(1)), Observed(replicas=(moving,)), NOW)
    assert (decision.phase, decision.requeue_after_s) == ("Loading", 599.0)


def test_fields_that_do_not_act_and_fields_ignored_here_are_named():
    observed = Observed(ignored_fields=("spec.nodeSelector",))
    decision = decide(model(gpu={"shared": "group"}, nodeSelector={"a": "b"}), observed, NOW)
    messages = {condition.type: condition.message for condition in decision.conditions}
    assert "spec.gpu.shared" in messages["NotYetEffective"]
    assert messages["IgnoredLocally"] == "these fields mean nothing on one machine: spec.nodeSelector"


def test_a_field_that_acts_here_is_not_said_to_do_nothing():
    subject = model(gpu={"shared": "group", "priority": 7})
    decision = decide(subject, Observed(acting_fields=("spec.gpu.shared",)), NOW)
    messages = {condition.type: condition.message for condition in decision.conditions}
    assert messages["NotYetEffective"] == "these fields do not act yet: spec.gpu.priority"


def test_a_field_that_is_ignored_here_is_not_named_a_second_time_by_what_is_in_it():
    observed = Observed(ignored_fields=("spec.cache",))
    decision = decide(model(cache={"flashLoader": {"enabled": True}}), observed, NOW)
    kinds = [condition.type for condition in decision.conditions]
    assert ("IgnoredLocally" in kinds, "NotYetEffective" in kinds) == (True, False)


def test_every_phase_has_a_meaning_and_a_row():
    assert set(TRANSITIONS) == {None, *MEANING}
    assert all(phase not in following for phase, following in TRANSITIONS.items())


def test_conditions_keep_their_time_while_they_say_the_same():
    decision = decide(model(status=active(1)), Observed(replicas=(READY,)), NOW)
    first = merge_conditions([], decision.conditions, 1, NOW)
    later = merge_conditions(first, decision.conditions, 2, NOW + timedelta(hours=1))
    assert {condition.last_transition_time for condition in later} == {NOW}
    assert {condition.observed_generation for condition in later} == {2}


def test_a_changed_reason_is_a_new_time():
    before = merge_conditions([], decide(model(status=active(5)), failed(3), NOW).conditions, 1, NOW)
    after = decide(model(status=active(5)), failed(2, "LoadTimeout"), NOW).conditions
    loaded = {c.type: c for c in merge_conditions(before, after, 1, NOW + timedelta(seconds=5))}["Loaded"]
    assert (loaded.reason, loaded.last_transition_time) == ("LoadTimeout", NOW - timedelta(seconds=2))


def test_status_tells_the_load_and_leaves_the_last_use_alone():
    subject = model(status=active(1))
    observed = Observed(replicas=(LOADING,), endpoint="http://127.0.0.1:8080/v1")
    status = status_of(subject, observed, decide(subject, observed, NOW), NOW)
    assert (status.phase, status.loading_substage, status.loading_started_at, status.endpoint) == (
        "Loading",
        "LoadingWeights",
        LOADING.started_at,
        "http://127.0.0.1:8080/v1",
    )
    assert status.last_active_time == subject.status.last_active_time


def test_status_measures_how_long_the_load_took():
    subject = model(status=active(1))
    observed = Observed(replicas=(READY,))
    status = status_of(subject, observed, decide(subject, observed, NOW), NOW)
    assert status.metrics is not None
    assert status.metrics.load_time_seconds == "10.000"


def test_a_failed_model_that_nobody_wants_is_not_looked_at_again_and_again():
    subject = model(serverless={"enabled": False}, replicas=0)
    assert (decide(subject, failed(31), NOW).phase, decide(subject, failed(31), NOW).requeue_after_s) == (
        "Failed",
        None,
    )


def test_status_tells_how_far_the_download_is_and_forgets_it_when_it_is_complete():
    subject = model()
    observed = Observed(artifact=DOWNLOADING)
    status = status_of(subject, observed, decide(subject, observed, NOW), NOW)
    assert (status.phase, status.tier, status.message) == ("Pending", "cold", DOWNLOADING.message)
    assert (
        status.loading_substage,
        status.loading_progress,
        status.loading_progress_at,
        status.loading_started_at,
        status.loading_seconds_left,
    ) == ("Downloading", 0.4, DOWNLOADING.progress_at, DOWNLOADING.started_at, 90)
    conditions = {condition.type: (condition.status, condition.reason) for condition in status.conditions}
    assert conditions["Cached"] == ("False", "PrefetchRunning")
    assert conditions["Ready"] == ("False", "CacheNotReady")
    here = Observed(artifact=ArtifactState(ready=True, size_bytes=7))
    after = status_of(model(), here, decide(model(), here, NOW), NOW)
    assert (after.phase, after.tier, after.loading_substage, after.loading_progress, after.loading_seconds_left) == (
        "Idle",
        "cached",
        "",
        None,
        None,
    )


def stopped(seconds_ago, last_use_s, **spec):
    subject = model(status=active(last_use_s), **spec)
    subject.metadata.annotations = {"flexinfer.ai/stopped-at": (NOW - timedelta(seconds=seconds_ago)).isoformat()}
    return subject


@pytest.mark.parametrize(
    ("subject", "observed", "phase", "replicas", "serving"),
    [
        pytest.param(stopped(1, 2), Observed(replicas=(READY,)), "Ready", 1, False, id="first its endpoints go"),
        pytest.param(stopped(1, 2), Observed(replicas=(LOADING,)), "Idle", 0, False, id="a load is broken off"),
        pytest.param(stopped(1, 2), Observed(), "Idle", 0, False, id="it rests"),
        pytest.param(
            stopped(1, 2, serverless={"minReplicas": 1}), Observed(), "Idle", 0, False, id="although it is pinned"
        ),
        pytest.param(stopped(1, 2, serverless={"enabled": False}), Observed(), "Idle", 0, False, id="or always on"),
        pytest.param(stopped(2, 1), Observed(), "Pending", 1, True, id="until it is used again"),
    ],
)
def test_a_model_that_was_stopped_by_hand(subject, observed, phase, replicas, serving):
    decision = decide(subject, observed, NOW)
    assert (decision.phase, decision.replicas, decision.serving) == (phase, replicas, serving)


@pytest.mark.parametrize(
    ("withdrawn_s", "open_requests", "replicas"),
    [
        pytest.param(2, 0, 0, id="nothing is open: the replicas go"),
        pytest.param(2, 1, 1, id="an open request is waited for"),
        pytest.param(30, 1, 0, id="but not for ever"),
    ],
)
def test_a_stop_drains(withdrawn_s, open_requests, replicas):
    subject = stopped(60, 61)
    subject.status.conditions = model(
        status={"conditions": [ready_condition("ScalingDown", withdrawn_s)]}
    ).status.conditions
    observed = Observed(replicas=(READY,), open_requests=open_requests)
    assert decide(subject, observed, NOW).replicas == replicas


@pytest.mark.parametrize("text", ["yesterday", "2026-01-01T00:00:00", ""])
def test_a_stop_at_no_time_is_none(text):
    subject = model(status=active(1))
    subject.metadata.annotations = {"flexinfer.ai/stopped-at": text}
    assert decide(subject, Observed(), NOW).phase == "Pending"


# -- room

BLOCKED = Blocked(reason="VRAMInsufficient", message="needs 6200 MiB, 3100 MiB free; alpha is busy")
LATER = timedelta(seconds=0.5)


def schedulable(decision) -> tuple[str, str, str]:
    found = next(condition for condition in decision.conditions if condition.type == "Schedulable")
    return found.status, found.reason, found.message


def test_who_is_wanted_and_finds_no_room_waits_with_the_numbers():
    decision = decide(model(status=active(1)), Observed(blocked=BLOCKED), NOW)
    assert (decision.phase, decision.replicas, decision.message) == ("Pending", 1, BLOCKED.message)
    assert schedulable(decision) == ("False", "VRAMInsufficient", BLOCKED.message)
    assert decision.requeue_after_s == LATER.total_seconds()
    reasons = {condition.type: condition.reason for condition in decision.conditions}
    assert (reasons["Ready"], reasons["Loaded"]) == ("VRAMInsufficient", "VRAMInsufficient")


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        pytest.param("NoMatchingNodes", ("False", "NoMatchingNodes", "why"), id="no node can run it at all"),
        pytest.param("VRAMInsufficient", ("True", "Schedulable", ""), id="who is in the way now may be gone by then"),
    ],
)
def test_what_is_in_the_way_while_bytes_are_on_their_way(reason, expected):
    observed = Observed(artifact=DOWNLOADING, blocked=Blocked(reason=reason, message="why"))
    assert schedulable(decide(model(status=active(1)), observed, NOW)) == expected


def test_who_is_not_wanted_waits_for_nothing():
    decision = decide(model(), Observed(blocked=BLOCKED), NOW)
    assert (decision.phase, decision.replicas, decision.requeue_after_s) == ("Idle", 0, None)
    assert schedulable(decision) == ("True", "Schedulable", "")


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        pytest.param("VRAMInsufficient", "False", id="this machine could never run it"),
        pytest.param("EngineExited", "True", id="the failure says nothing of the machine"),
    ],
)
def test_a_failure_says_whether_the_machine_can_run_it(reason, status):
    assert schedulable(decide(model(), failed(1, reason), NOW))[0] == status


@pytest.mark.parametrize("state", ["ready", "loading", "backoff"])
def test_who_makes_room_is_scaled_down_although_it_was_used_lately(state):
    replica = Replica(name="m-0", state=state, started_at=NOW - timedelta(seconds=9))
    status = active(10) | {"conditions": [ready_condition("ScalingDown", 2)]}
    decision = decide(model(status=status), Observed(replicas=(replica,), yields_to="beta"), NOW)
    assert (decision.replicas, decision.serving) == (0, False)
    assert "it makes room for beta; a request wakes it" in decision.message


def test_who_makes_room_has_its_endpoints_withdrawn_first():
    decision = decide(model(status=active(10)), Observed(replicas=(READY,), yields_to="beta"), NOW)
    assert (decision.phase, decision.replicas, decision.serving) == ("Ready", 1, False)


def test_a_replica_that_hangs_is_replaced_and_no_other():
    hanging = msgspec.structs.replace(READY, name="m-1", hangs=True)
    loading = msgspec.structs.replace(LOADING, name="m-2", hangs=True)
    decision = decide(model(status=active(1)), Observed(replicas=(READY, hanging, loading)), NOW)
    assert (decision.replace, decision.phase, decision.serving) == (("m-1",), "Ready", True)


def test_a_replica_that_was_ended_because_it_hung_says_so():
    trouble = Trouble(reason=silence.REASON, message=silence.MESSAGE)
    ending = msgspec.structs.replace(READY, state="stopping", trouble=trouble)
    decision = decide(model(status=active(1)), Observed(replicas=(ending,)), NOW)
    ready = next(condition for condition in decision.conditions if condition.type == "Ready")
    assert (decision.phase, decision.message, decision.replace) == ("Loading", silence.MESSAGE, ())
    assert (ready.status, ready.reason, ready.message) == ("False", "EngineHung", silence.MESSAGE)


def test_a_wish_above_the_bound_is_told_as_long_as_it_is_there():
    spec = {"replicas": 5, "serverless": {"maxReplicas": 2}}
    decision = decide(model(status=active(1), **spec), Observed(replicas=(READY,)), NOW)
    told = [(one.status, one.reason, one.message) for one in decision.conditions if one.type == "ScalingLimited"]
    assert (decision.replicas, told) == (
        2,
        [("True", "TooManyReplicas", "spec.replicas is 5, spec.serverless.maxReplicas is 2")],
    )
    asleep = decide(model(status=active(4000), **spec), Observed(), NOW)
    assert [one for one in asleep.conditions if one.type == "ScalingLimited"] == []
