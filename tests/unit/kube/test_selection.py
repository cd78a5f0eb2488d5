"""Which objects a selection means, and what a watch of it makes of a change."""

from __future__ import annotations

import pytest

from flexinfer.errors import Invalid
from flexinfer.kube.selection import check_fields, matches, seen, text
from flexinfer.kube.store import Selection, WatchEvent


def pod(version="1", labels=None, node="n1", phase="Running", **spec):
    meta = {"name": "p", "namespace": "team", "resourceVersion": version, "labels": labels or {"app": "x"}}
    return {"metadata": meta, "spec": {"nodeName": node, **spec}, "status": {"phase": phase}}


@pytest.mark.parametrize(
    ("selection", "chosen"),
    [
        pytest.param(Selection(), True, id="everything"),
        pytest.param(Selection("team"), True, id="its namespace"),
        pytest.param(Selection("other"), False, id="another namespace"),
        pytest.param(Selection(labels={"app": "x"}), True, id="its label"),
        pytest.param(Selection(labels={"app": "x", "tier": "1"}), False, id="a label it lacks"),
        pytest.param(Selection(fields={"metadata.name": "p"}), True, id="its name"),
        pytest.param(Selection(fields={"spec.nodeName": "n1", "status.phase": "Running"}), True, id="its fields"),
        pytest.param(Selection(fields={"spec.nodeName": ""}), False, id="on no node"),
        pytest.param(Selection(fields={"spec.unschedulable": "false"}), True, id="a boolean"),
        pytest.param(Selection(fields={"spec.none.below": ""}), True, id="a field that is not there is empty"),
    ],
)
def test_matches(selection, chosen):
    assert matches(pod(unschedulable=False), selection) is chosen


BEFORE, AFTER = pod("1"), pod("2", phase="Failed")
OUTSIDE = pod("2", node="n2")
HERE = Selection(fields={"spec.nodeName": "n1"})


@pytest.mark.parametrize(
    ("event", "previous", "told"),
    [
        pytest.param(WatchEvent("ADDED", BEFORE), None, WatchEvent("ADDED", BEFORE), id="added inside"),
        pytest.param(WatchEvent("ADDED", OUTSIDE), None, None, id="added outside"),
        pytest.param(WatchEvent("MODIFIED", AFTER), BEFORE, WatchEvent("MODIFIED", AFTER), id="changed inside"),
        pytest.param(WatchEvent("MODIFIED", OUTSIDE), pod("1", node="n3"), None, id="changed outside"),
        pytest.param(WatchEvent("MODIFIED", AFTER), pod("1", node="n3"), WatchEvent("ADDED", AFTER), id="come in"),
        pytest.param(WatchEvent("MODIFIED", OUTSIDE), BEFORE, WatchEvent("DELETED", pod("2")), id="gone out"),
        pytest.param(WatchEvent("DELETED", AFTER), AFTER, WatchEvent("DELETED", AFTER), id="deleted inside"),
        pytest.param(WatchEvent("DELETED", OUTSIDE), OUTSIDE, None, id="deleted outside"),
    ],
)
def test_what_a_watch_of_a_selection_sees(event, previous, told):
    assert seen(event, previous, HERE) == told
    assert pod("1") == BEFORE


@pytest.mark.parametrize(
    ("kind", "field"),
    [
        ("Pod", "spec.nodeName"),
        ("Model", "metadata.name"),
        ("Event", "involvedObject.uid"),
        ("Node", "spec.unschedulable"),
    ],
)
def test_fields_that_a_server_selects_by(kind, field):
    check_fields(kind, Selection(fields={field: "x"}))


def test_a_field_that_no_server_selects_by():
    with pytest.raises(Invalid, match=r"^field label not supported for Model: spec\.backend$"):
        check_fields("Model", Selection(fields={"spec.backend": "vllm", "metadata.name": "m"}))


def test_as_a_query_says_it():
    assert text({"app": "x", "tier": "1"}) == "app=x,tier=1"
