from datetime import timedelta

import msgspec
import pytest
from tests.support.models import T0, model

from flexinfer.api import defaults
from flexinfer.lifecycle.observed import Observed, Replica
from flexinfer.lifecycle.scaling import Wanted, wanted

NOW = T0 + timedelta(hours=1)


def ago(seconds: float) -> str:
    return (NOW - timedelta(seconds=seconds)).isoformat()


def replica(state: str, *, ready_ago_s: float | None = None) -> Replica:
    ready_at = None if ready_ago_s is None else NOW - timedelta(seconds=ready_ago_s)
    return Replica(name="m-0", state=state, started_at=T0, ready_at=ready_at)


@pytest.mark.parametrize(
    ("spec", "active_ago_s", "replicas", "expected"),
    [
        pytest.param({}, None, [], Wanted(replicas=0, because="no request has come yet"), id="never used: asleep"),
        pytest.param(
            {"serverless": {"minReplicas": 1}},
            None,
            [],
            Wanted(replicas=1, because="spec.serverless.minReplicas is 1"),
            id="never used but pinned: awake",
        ),
        pytest.param(
            {"serverless": {"enabled": False}},
            None,
            [],
            Wanted(replicas=1, because="spec.serverless.enabled is false"),
            id="serverless off: awake",
        ),
        pytest.param(
            {"replicas": 0, "serverless": {"minReplicas": 1}},
            1,
            [],
            Wanted(replicas=0, because="spec.replicas is 0"),
            id="scaled to zero by hand stays there",
        ),
        pytest.param(
            {"serverless": {"idleTimeout": "1m"}},
            20,
            [replica("ready", ready_ago_s=50)],
            Wanted(replicas=1, because="it was used lately", again_in_s=40.0),
            id="used 20 s ago: awake, looked at again when the window ends",
        ),
        pytest.param(
            {"serverless": {"idleTimeout": "1m"}},
            60,
            [replica("ready", ready_ago_s=100)],
            Wanted(replicas=0, because="no request for 1m"),
            id="the idle window has just passed",
        ),
        pytest.param(
            {"serverless": {"idleTimeout": "1m"}},
            3000,
            [replica("loading")],
            Wanted(replicas=1, because="it is loading"),
            id="never reaped while loading",
        ),
        pytest.param(
            {"replicas": 3, "serverless": {"minReplicas": 1}},
            None,
            [replica("loading")],
            Wanted(replicas=1, because="it is loading"),
            id="a load at rest asks for no more than rest does",
        ),
        pytest.param(
            {"serverless": {"idleTimeout": "1m"}},
            3000,
            [replica("ready", ready_ago_s=10)],
            Wanted(replicas=1, because="it was used lately", again_in_s=50.0),
            id="a load that outlived the idle window earns a window of its own",
        ),
        pytest.param(
            {"serverless": {"idleTimeout": "0s"}},
            0.5,
            [replica("ready", ready_ago_s=10)],
            Wanted(replicas=1, because="it was used lately", again_in_s=0.5),
            id="an idle window of nothing is a second",
        ),
        pytest.param(
            {},
            4 * 60,
            [replica("ready", ready_ago_s=1000)],
            Wanted(replicas=1, because="it was used lately", again_in_s=60.0),
            id="the default window of a language model is 5 minutes",
        ),
    ],
)
def test_wanted(spec, active_ago_s, replicas, expected):
    status = {} if active_ago_s is None else {"lastActiveTime": ago(active_ago_s)}
    subject = model(status=status, **spec)
    subject = msgspec.structs.replace(subject, spec=defaults.resolve(subject.spec))
    assert wanted(subject, Observed(replicas=tuple(replicas)), NOW) == expected


@pytest.mark.parametrize(
    ("spec", "by_load", "replicas", "limited"),
    [
        pytest.param({"replicas": 3}, None, 3, "", id="its own count"),
        pytest.param({"replicas": 1, "serverless": {"maxReplicas": 4}}, 3, 3, "", id="what the load asks for"),
        pytest.param({"replicas": 4, "serverless": {"maxReplicas": 6}}, 2, 4, "", id="the load takes nothing away"),
        pytest.param({"replicas": 2, "serverless": {"maxReplicas": 1}}, 9, 1,
                     "spec.replicas is 2, spec.serverless.maxReplicas is 1", id="a bound of one has no scaler"),
        pytest.param({"replicas": 2}, 9, 2, "", id="no bound, no scaler"),
        pytest.param({"serverless": {"maxReplicas": 4}}, 9, 4,
                     "the requests in flight ask for 9, spec.serverless.maxReplicas is 4", id="more than is allowed"),
        pytest.param({"replicas": 8, "serverless": {"maxReplicas": 4, "enabled": False}}, None, 4,
                     "spec.replicas is 8, spec.serverless.maxReplicas is 4", id="also where it never sleeps"),
    ],
)  # fmt: skip
def test_while_it_is_awake(spec, by_load, replicas, limited):
    found = model(status={"lastActiveTime": ago(1)}, **spec)
    resolved = msgspec.structs.replace(found, spec=defaults.resolve(found.spec))
    answer = wanted(resolved, Observed(asked_by_load=by_load), NOW)
    assert (answer.replicas, answer.limited) == (replicas, limited)


def test_no_load_keeps_an_idle_one_awake():
    found = model(status={"lastActiveTime": ago(400)}, serverless={"maxReplicas": 4})
    resolved = msgspec.structs.replace(found, spec=defaults.resolve(found.spec))
    answer = wanted(resolved, Observed(asked_by_load=9), NOW)
    assert (answer.replicas, answer.limited) == (0, "")
