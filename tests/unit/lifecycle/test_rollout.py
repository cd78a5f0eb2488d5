"""Which revision the pods of a Model are made of: table of single decisions."""

from __future__ import annotations

from datetime import timedelta

import pytest
from tests.support.models import T0, model

from flexinfer.lifecycle.observed import Trouble
from flexinfer.lifecycle.rollout import Choice, Facts, Failed, Pod, Written, choose, condition, revision_of

NOW = T0 + timedelta(minutes=5)
BUDGET_S = 120.0
CRASHED = Trouble(reason="CrashLoopBackOff", message="exit code 1")
OLD = Written(revision="old", template="t-old")
NEW = Written(revision="new", template="t-new", back="old")
BOTH = {"old": "t-old", "new": "t-new"}


def pod(template: str, state: str = "ready", age_s: float = 10.0, failure: Trouble | None = None) -> Pod:
    """`state`: ready, loading or waiting for a node."""
    since = NOW - timedelta(seconds=age_s)
    return Pod(template, ready=state == "ready", placed=state != "waiting", since=since, failure=failure)


def facts(**given) -> Facts:
    return Facts(**({"wanted": "new", "template": "t-new", "recorded": BOTH, "budget_s": BUDGET_S} | given))


FAILED = Written(
    revision="old", template="t-old", failed=Failed(revision="new", reason="CrashLoopBackOff", message="exit code 1")
)


@pytest.mark.parametrize(
    ("given", "chosen"),
    [
        pytest.param({"recorded": {}}, Choice(written=Written(revision="new", template="t-new")),
                     id="the first revision"),
        pytest.param({"recorded": {}, "template": ""}, Choice(), id="the first one cannot be rendered yet"),
        pytest.param({"written": OLD, "served": "old", "pods": [pod("t-old")]},
                     Choice(written=NEW, strategy="surge", state="RollingOut", serving="old"),
                     id="a changed spec comes beside the pod that serves"),
        pytest.param({"written": OLD, "pods": [pod("t-old")]},
                     Choice(written=NEW, strategy="surge", state="RollingOut", serving="old"),
                     id="that a pod serves is seen by the pod, whoever was told"),
        pytest.param({"written": OLD, "served": "old"}, Choice(written=NEW, state="RollingOut", serving="old"),
                     id="a changed spec of one that sleeps"),
        pytest.param({"written": OLD, "pods": [pod("t-old", "loading")]},
                     Choice(written=Written(revision="new", template="t-new"), strategy="swap"),
                     id="what has never served makes room at once and is no way back"),
        pytest.param({"written": OLD, "served": "old", "template": "", "pods": [pod("t-old")],
                      "hindrance": Trouble(reason="Downloading", message="3 of 8 GB")},
                     Choice(written=OLD, recorded=True, state="Waiting", message="Downloading: 3 of 8 GB",
                            serving="old"),
                     id="while the new bytes come the old one serves"),
        pytest.param({"written": OLD, "served": "old", "template": ""}, Choice(serving="old"),
                     id="one that sleeps and cannot be rendered is told as it is"),
        pytest.param({"written": NEW, "served": "old", "pods": [pod("t-old"), pod("t-new", "waiting", 1.0)]},
                     Choice(written=NEW, state="RollingOut", serving="old", again_in_s=2.0),
                     id="a pod without a device waits a moment"),
        pytest.param({"written": NEW, "served": "old", "pods": [pod("t-old"), pod("t-new", "waiting", 3.0)]},
                     Choice(written=NEW, strategy="swap", state="RollingOut", serving="old", again_in_s=117.0),
                     id="then the old one makes room"),
        pytest.param(
            {
                "written": NEW,
                "served": "old",
                "freed_at": NOW,
                "pods": [pod("t-old"), pod("t-new", "waiting", 30.0)],
            },
            Choice(written=NEW, state="RollingOut", serving="old", again_in_s=3.0),
            id="one that is still going holds a device",
        ),
        pytest.param({"written": NEW, "served": "old", "fits": False,
                      "pods": [pod("t-old"), pod("t-new", "waiting", 3.0)]},
                     Choice(written=NEW, state="RollingOut", serving="old", again_in_s=117.0),
                     id="but not where that would not help"),
        pytest.param({"written": NEW, "served": "old", "refused": "exceeded quota", "pods": [pod("t-old")]},
                     Choice(written=NEW, strategy="swap", state="RollingOut", serving="old", message="exceeded quota"),
                     id="a quota that takes no second pod"),
        pytest.param({"written": NEW, "served": "old", "pods": [pod("t-new", "loading", 20.0)]},
                     Choice(written=NEW, state="RollingOut", serving="old", again_in_s=100.0),
                     id="the new one has the device and loads"),
        pytest.param({"written": NEW, "served": "old", "pods": [pod("t-old"), pod("t-new")]},
                     Choice(written=NEW, state="RollingOut", serving="old"),
                     id="both serve until the old one has gone"),
        pytest.param({"written": NEW, "served": "old", "pods": [pod("t-new")]}, Choice(written=NEW, serving="new"),
                     id="the new one serves"),
        pytest.param({"written": NEW, "served": "old",
                      "pods": [pod("t-old"), pod("t-new", "loading", failure=CRASHED)]},
                     Choice(written=FAILED, recorded=True, strategy="swap", state="WentBack", serving="old",
                            message="CrashLoopBackOff: exit code 1"),
                     id="it crashes: back, and its pods go at once") ,
        pytest.param({"written": NEW, "served": "old", "pods": [pod("t-new", "loading", failure=CRASHED)]},
                     Choice(written=FAILED, recorded=True, strategy="swap", state="WentBack", serving="old",
                            message="CrashLoopBackOff: exit code 1"),
                     id="it crashes after it took the device"),
        pytest.param({"written": FAILED, "served": "old", "pods": [pod("t-old")]},
                     Choice(written=FAILED, recorded=True, state="WentBack", serving="old",
                            message="CrashLoopBackOff: exit code 1"),
                     id="what failed is not tried again"),
        pytest.param({"written": FAILED, "served": "old"},
                     Choice(written=FAILED, recorded=True, state="WentBack", serving="old",
                            message="CrashLoopBackOff: exit code 1"),
                     id="nor when it wakes"),
        pytest.param({"written": FAILED, "served": "old", "wanted": "third", "template": "t-3",
                      "pods": [pod("t-old")]},
                     Choice(written=Written(revision="third", template="t-3", back="old"), state="RollingOut",
                            serving="old"),
                     id="a changed spec is tried"),
        pytest.param({"written": FAILED, "served": "old", "wanted": "old", "template": "t-old",
                      "pods": [pod("t-old")]},
                     Choice(written=Written(revision="old", template="t-old"), serving="old"),
                     id="the spec is set back to the one that serves"),
        pytest.param({"written": NEW, "served": "new", "pods": [pod("t-new", "loading", failure=CRASHED)]},
                     Choice(written=NEW, serving="new", again_in_s=110.0),
                     id="one that has served does not go back when it crashes later"),
        pytest.param({"written": NEW, "served": "old", "recorded": {"new": "t-new"},
                      "pods": [pod("t-new", "loading", failure=CRASHED)]},
                     Choice(written=NEW, state="RollingOut", serving="old", again_in_s=110.0),
                     id="there is no way back to what nobody remembers"),
        pytest.param({"written": NEW, "served": "new", "template": "t-newer", "pods": [pod("t-new")]},
                     Choice(written=NEW, recorded=True, serving="new"),
                     id="a new version of the manager touches no pod that serves"),
        pytest.param({"written": NEW, "served": "new", "template": "t-newer"},
                     Choice(written=Written(revision="new", template="t-newer", back="old"), serving="new"),
                     id="what sleeps wakes as the new version has it"),
        pytest.param({"written": NEW, "served": "new", "template": "t-newer", "pods": [pod("t-new", "loading")]},
                     Choice(written=Written(revision="new", template="t-newer", back="old"), strategy="swap",
                            serving="new"),
                     id="what does not serve is made anew"),
        pytest.param({"written": NEW, "served": "old", "pods": [pod("t-new", "loading", 121.0)]},
                     Choice(written=Written(revision="old", template="t-old", failed=Failed(
                                revision="new", reason="LoadTimeout", message="it was not ready within 120 s")),
                            recorded=True, strategy="swap", state="WentBack", serving="old",
                            message="LoadTimeout: it was not ready within 120 s"),
                     id="it misses its budget"),
        pytest.param({"written": NEW, "served": "old", "fits": False,
                      "pods": [pod("t-old"), pod("t-new", "waiting", 120.0)]},
                     Choice(written=Written(revision="old", template="t-old", failed=Failed(
                                revision="new", reason="Unschedulable", message="no node took it within 120 s")),
                            recorded=True, strategy="swap", state="WentBack", serving="old",
                            message="Unschedulable: no node took it within 120 s"),
                     id="no node takes it"),
    ],
)  # fmt: skip
def test_choice(given, chosen):
    assert choose(facts(**given), NOW) == chosen


@pytest.mark.parametrize(
    ("change", "same"),
    [
        pytest.param({"replicas": 3}, True, id="replicas"),
        pytest.param({"serverless": {"maxReplicas": 4, "coldStartTimeout": "90s"}}, True, id="scaling and waking"),
        pytest.param({"litellm": {"aliases": ["x"]}}, True, id="names"),
        pytest.param({"resources": {}}, True, id="a field at its default"),
        pytest.param({"config": {"parallel": 2}}, False, id="settings of the engine"),
        pytest.param({"image": "x:1"}, False, id="an image"),
        pytest.param({"source": "file:///models/other.gguf"}, False, id="another source"),
    ],
)
def test_a_revision_is_what_pods_are_made_of(change, same):
    assert (revision_of(model(**change)) == revision_of(model())) is same


@pytest.mark.parametrize(
    ("given", "told"),
    [
        pytest.param({"recorded": {}}, None, id="nothing has served yet"),
        pytest.param({"written": NEW, "served": "new", "pods": [pod("t-new")]},
                     ("True", "RolledOut", "revision 2 (new) serves"), id="done"),
        pytest.param({"written": NEW, "served": "old", "pods": [pod("t-old"), pod("t-new", "loading")]},
                     ("False", "RollingOut",
                      "revision 1 (old) serves; revision 2 (new) takes its place when it is ready"), id="under way"),
        pytest.param({"written": FAILED, "served": "old", "pods": [pod("t-old")]},
                     ("False", "WentBack", ("revision 1 (old) serves; revision 2 (new) failed and is not tried again "
                      "until the spec changes: CrashLoopBackOff: exit code 1")), id="went back"),
        pytest.param({"written": OLD, "served": "old", "template": "", "pods": [pod("t-old")],
                      "hindrance": Trouble(reason="Downloading", message="3 of 8 GB")},
                     ("False", "Waiting",
                      "revision 1 (old) serves; revision 2 (new) cannot be started yet: Downloading: 3 of 8 GB"),
                     id="waiting for its bytes"),
    ],
)  # fmt: skip
def test_the_condition_names_who_serves(given, told):
    found = condition(choose(facts(**given), NOW), {"old": 1, "new": 2}, "new")
    assert (found and (found.status, found.reason, found.message)) == told
