from datetime import timedelta

import pytest
from tests.support.models import T0, model

from flexinfer.lifecycle.decide import decide, load_limit_s
from flexinfer.lifecycle.observed import ArtifactState, Failure, Observed, Replica
from flexinfer.lifecycle.phases import MEANING, TRANSITIONS
from flexinfer.lifecycle.status import merge_conditions, status_of

NOW = T0 + timedelta(hours=1)
LOADING = Replica(name="m-0", state="loading", started_at=NOW - timedelta(seconds=2), substage="LoadingWeights")
READY = Replica(
    name="m-0", state="ready", started_at=NOW - timedelta(seconds=900), ready_at=NOW - timedelta(seconds=890)
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
    decision = decide(model(serviceLabels=["fast"], nodeSelector={"a": "b"}), observed, NOW)
    messages = {condition.type: condition.message for condition in decision.conditions}
    assert "spec.serviceLabels" in messages["NotYetEffective"]
    assert messages["IgnoredLocally"] == "these fields mean nothing on one machine: spec.nodeSelector"


def test_a_field_that_is_ignored_here_is_not_named_a_second_time_by_what_is_in_it():
    observed = Observed(ignored_fields=("spec.resources",))
    decision = decide(model(resources={"limits": {"cpu": "2"}}), observed, NOW)
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
