"""What is worth an Event, and what is not."""

from __future__ import annotations

from typing import Any

import pytest

from flexinfer.api.meta import Condition
from flexinfer.api.v1alpha2.model import Metrics, ModelStatus
from flexinfer.lifecycle.transitions import Told, told


def status(phase: str | None, message: str = "", *conditions: tuple[str, str], **more: Any) -> ModelStatus:
    made = [Condition(type=kind, status="False", reason=reason, message="why") for kind, reason in conditions]
    return ModelStatus(phase=phase, message=message, conditions=made, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        pytest.param(status("Idle"), status("Idle", "asleep"), [], id="another message is none"),
        pytest.param(
            status("Idle"), status("Pending", "awake"), [Told("ModelScaledUp", "awake")], id="it is woken"
        ),
        pytest.param(status("Pending"), status("Loading"), [], id="it gets further"),
        pytest.param(
            status("Loading"),
            status("Ready", metrics=Metrics(load_time_seconds="1.500")),
            [Told("Loaded", "it answers, 1.500 s after its engine was started")],
            id="it answers",
        ),
        pytest.param(
            status("Ready"), status("Idle", "asleep"), [Told("ModelScaledDown", "asleep")], id="it falls asleep"
        ),
        pytest.param(
            status("Loading"),
            status("Failed", "no image", ("Loaded", "ImagePullBackOff")),
            [Told("LoadFailed", "no image", warning=True)],
            id="it fails",
        ),
        pytest.param(
            status("Idle"),
            status("Failed", "too big", ("Loaded", "VRAMInsufficient"), ("Schedulable", "VRAMInsufficient")),
            [Told("VRAMInsufficient", "too big", warning=True)],
            id="it can run nowhere: one event",
        ),
        pytest.param(
            status("Pending"),
            status("Pending", "", ("Schedulable", "NoMatchingNodes")),
            [Told("GPUDetectionFailed", "why", warning=True)],
            id="no node has such a GPU",
        ),
        pytest.param(
            status("Pending", "", ("Schedulable", "QuotaExceeded")),
            status("Pending", "", ("Schedulable", "QuotaExceeded")),
            [],
            id="the same reason again",
        ),
        pytest.param(
            status(None),
            status(None, "", ("ConfigValid", "AliasConflict")),
            [Told("AliasConflict", "why", warning=True)],
            id="a name that another has",
        ),
        pytest.param(
            status("Pending"),
            status("Pending", "", ("Cached", "PrefetchFailed")),
            [Told("CacheFailed", "why", warning=True)],
            id="its bytes do not come",
        ),
        pytest.param(
            status("Ready"),
            status("Loading", "", ("Ready", "EngineHung")),
            [Told("EngineHung", "why", warning=True)],
            id="its engine hung and is started again",
        ),
    ],
)  # fmt: skip
def test_told(old, new, expected):
    assert told(old, new) == expected


def test_what_is_worth_knowing_of_its_place_is_told_when_it_is_woken():
    notes = [("VRAMPressure", "close")]
    assert told(status("Idle"), status("Loading", "awake"), notes) == [
        Told("ModelScaledUp", "awake"),
        Told("VRAMPressure", "close", warning=True),
    ]
    assert told(status("Loading"), status("Loading"), notes) == []


def rolled_out(reason: str) -> ModelStatus:
    held = "True" if reason == "RolledOut" else "False"
    return ModelStatus(
        phase="Ready", conditions=[Condition(type="RolledOut", status=held, reason=reason, message=reason)]
    )


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        pytest.param(ModelStatus(phase="Ready"), rolled_out("RolledOut"), [], id="the first revision is no change"),
        pytest.param(
            rolled_out("RolledOut"), rolled_out("RollingOut"), [Told("RollingOut", "RollingOut")], id="it begins"
        ),
        pytest.param(rolled_out("RollingOut"), rolled_out("RolledOut"), [Told("RolledOut", "RolledOut")], id="it ends"),
        pytest.param(
            rolled_out("RollingOut"),
            rolled_out("WentBack"),
            [Told("WentBack", "WentBack", warning=True)],
            id="it goes back",
        ),
        pytest.param(rolled_out("WentBack"), rolled_out("WentBack"), [], id="and stays so"),
    ],
)
def test_a_rollout_is_told(old, new, expected):
    assert told(old, new) == expected
