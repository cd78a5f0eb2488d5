from datetime import timedelta

import pytest
from tests.support.models import T0, model

from flexinfer.cli.ps import COLUMNS, ago, facts, remark, row
from flexinfer.cli.table import render
from flexinfer.local.control import Engine, ModelUse

NOW = T0 + timedelta(days=10)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        pytest.param(0, "0 s ago", id="just now"),
        pytest.param(-5, "0 s ago", id="a clock that runs ahead"),
        pytest.param(119.9, "119 s ago", id="seconds up to two minutes"),
        pytest.param(120, "2 min ago", id="then minutes"),
        pytest.param(7199, "119 min ago", id="minutes up to two hours"),
        pytest.param(7200, "2 h ago", id="then hours"),
        pytest.param(172_800, "2 d ago", id="then days"),
    ],
)
def test_ago(seconds, text):
    assert ago(NOW - timedelta(seconds=seconds), NOW) == text


def test_never():
    assert ago(None, NOW) == "never"


def used(seconds_ago: float) -> str:
    return (NOW - timedelta(seconds=seconds_ago)).isoformat()


@pytest.mark.parametrize(
    ("status", "engines", "cells"),
    [
        pytest.param({}, [], ("m", "simulator", "Pending", "-", "-", "-", "never"), id="not looked at yet"),
        pytest.param({"phase": "Idle"}, [], ("m", "simulator", "Idle", "-", "-", "-", "never"), id="asleep"),
        pytest.param(
            {"phase": "Loading", "loadingSubstage": "LoadingWeights", "loadingProgress": 0.424},
            [Engine(model="m", state="loading", pid=7, device="nvidia:0", memory_mib=512)],
            ("m", "simulator", "Loading", "LoadingWeights 42%", "nvidia:0", "512 MiB", "never"),
            id="loading",
        ),
        pytest.param(
            {"phase": "Ready", "backend": "vllm", "lastActiveTime": used(12)},
            [
                Engine(model="m", state="ready", pid=7, device="nvidia:1", memory_mib=500),
                Engine(model="other", state="ready", pid=8, device="cpu", memory_mib=9000),
                Engine(model="m", state="ready", pid=9, device="nvidia:0", memory_mib=700),
            ],
            ("m", "vllm", "Ready", "-", "nvidia:0, nvidia:1", "1200 MiB", "12 s ago"),
            id="two replicas beside another model",
        ),
        pytest.param(
            {"phase": "Ready"},
            [Engine(model="m", state="ready", address="10.0.0.1:80")],
            ("m", "simulator", "Ready", "-", "-", "-", "never"),
            id="a server elsewhere",
        ),
    ],
)
def test_row(status, engines, cells):
    found = row(model(status=status), engines, {}, NOW)
    assert tuple(cell.strip() for cell in found) == cells
    assert len(found) == len(COLUMNS)


@pytest.mark.parametrize(
    ("noted", "use", "shown"),
    [
        pytest.param(55, ModelUse(idle_seconds=3.2), "3 s ago", id="later than its status says"),
        pytest.param(3, ModelUse(idle_seconds=55.0), "3 s ago", id="earlier: somebody woke it by hand"),
        pytest.param(55, ModelUse(), "55 s ago", id="not used since `up` began"),
        pytest.param(None, ModelUse(idle_seconds=3.2), "3 s ago", id="its status says nothing yet"),
        pytest.param(55, ModelUse(open=2, waiting=1, idle_seconds=9.0), "2 open, 1 waiting", id="in use"),
        pytest.param(None, ModelUse(waiting=1), "1 waiting", id="waited for"),
    ],
)
def test_the_last_use_is_what_the_proxy_knows(noted, use, shown):
    found = model(status={} if noted is None else {"lastActiveTime": used(noted)})
    assert row(found, [], {"m": use, "other": ModelUse(open=9)}, NOW)[-1] == shown
    told = facts(found, [], {"m": use}, NOW)
    assert (told["open"], told["waiting"]) == (use.open, use.waiting)


CONFLICT = {"type": "ConfigValid", "status": "False", "reason": "AliasConflict", "message": "the name 'x' …"}


@pytest.mark.parametrize(
    ("status", "said"),
    [
        pytest.param({"phase": "Failed", "message": "no such file\nat all"}, "no such file", id="why it failed"),
        pytest.param({"phase": "Ready", "conditions": [CONFLICT]}, "the name 'x' …", id="what its manifest has wrong"),
        pytest.param({"phase": "Ready", "conditions": [CONFLICT | {"status": "True"}]}, "", id="all is well"),
        pytest.param({"phase": "Idle", "message": "asleep"}, "", id="nothing to know"),
    ],
)
def test_what_its_owner_ought_to_know(status, said):
    assert remark(model(status=status)) == said


def test_a_model_that_is_being_deleted_is_not_shown_as_ready():
    found = model(status={"phase": "Ready"})
    found.metadata.deletion_timestamp = NOW
    assert row(found, [], {}, NOW)[2] == "Deleting"
    assert facts(found, [], {}, NOW)["deleting"] is True


def test_a_table_is_aligned_and_nothing_trails():
    assert render(("NAME", "PHASE"), [("long-name", "-"), ("m", "-")]) == "NAME       PHASE\nlong-name  -\nm          -"


def test_a_table_without_rows_is_its_head():
    assert render(("NAME", "PHASE"), []) == "NAME  PHASE"


def test_phases_have_colours():
    assert "\x1b[32mReady" in render(("NAME", "PHASE"), [("m", "Ready")])
