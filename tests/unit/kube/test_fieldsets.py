from __future__ import annotations

import pytest

from flexinfer.errors import Invalid
from flexinfer.kube import fieldsets
from flexinfer.kube.shapes import ATOMIC, SET, Shape, keyed

POD = Shape(
    fields={
        "containers": keyed("name", ports=keyed("containerPort", "protocol", defaults={"protocol": "TCP"})),
        "selector": ATOMIC,
        "finalizers": SET,
    }
)


def container(name, **fields):
    return {"name": name, **fields}


@pytest.mark.parametrize(
    ("value", "fields"),
    [
        pytest.param({"a": 1, "b": {"c": 2}}, {"f:a": {}, "f:b": {"f:c": {}}}, id="maps field by field"),
        pytest.param({"a": {}, "b": []}, {"f:a": {}, "f:b": {}}, id="empty maps and lists are owned themselves"),
        pytest.param({"a": [1, {"b": 2}]}, {"f:a": {}}, id="lists are atomic"),
        pytest.param({"selector": {"a": "b"}}, {"f:selector": {}}, id="an atomic map is owned whole"),
        pytest.param(
            {"finalizers": ["x", "y"]}, {"f:finalizers": {'v:"x"': {}, 'v:"y"': {}}}, id="a set member by member"
        ),
        pytest.param(
            {"containers": [container("a", image="i", ports=[{"containerPort": 80}])]},
            {
                "f:containers": {
                    'k:{"name":"a"}': {
                        ".": {},
                        "f:name": {},
                        "f:image": {},
                        "f:ports": {'k:{"containerPort":80,"protocol":"TCP"}': {".": {}, "f:containerPort": {}}},
                    }
                }
            },
            id="keyed lists by key, with the default of a key that is left out",
        ),
    ],
)
def test_field_set(value, fields):
    assert fieldsets.field_set(value, POD) == fields


@pytest.mark.parametrize(
    "value",
    [
        pytest.param({"containers": ["text"]}, id="an item that is no object"),
        pytest.param({"containers": [{"image": "i"}]}, id="an item without its key"),
    ],
)
def test_keyed_lists_need_their_keys(value):
    with pytest.raises(Invalid, match="name"):
        fieldsets.field_set(value, POD)


@pytest.mark.parametrize(
    ("old", "new", "fields"),
    [
        pytest.param({"a": 1}, {"a": 1}, None, id="nothing"),
        pytest.param({"a": 1, "b": 2}, {"a": 1}, None, id="a removed field is not a changed one"),
        pytest.param({"a": 1}, {"a": 2, "b": {"c": 1}}, {"f:a": {}, "f:b": {"f:c": {}}}, id="changed and added"),
        pytest.param({"a": {"b": 1}}, {"a": 5}, {"f:a": {}}, id="a map became a scalar"),
        pytest.param({"a": 5}, {"a": {"b": 1}}, {"f:a": {".": {}, "f:b": {}}}, id="a scalar became a map"),
        pytest.param({"a": {"b": 1}}, {"a": {}}, {"f:a": {}}, id="a map was emptied"),
        pytest.param({"a": [1]}, {"a": [1, 2]}, {"f:a": {}}, id="an atomic list changed"),
        pytest.param(
            {"containers": [container("a", image="1"), container("b", image="1")]},
            {"containers": [container("b", image="2"), container("a", image="1"), container("c")]},
            {
                "f:containers": {
                    'k:{"name":"b"}': {"f:image": {}},
                    'k:{"name":"c"}': {".": {}, "f:name": {}},
                }
            },
            id="keyed items are compared by key, not by place",
        ),
    ],
)
def test_changed(old, new, fields):
    assert fieldsets.changed(old, new, POD) == fields


@pytest.mark.parametrize(
    ("sets", "joined"),
    [
        pytest.param([], {}, id="nothing"),
        pytest.param([{"f:a": {"f:b": {}}}, {"f:a": {"f:c": {}}}], {"f:a": {"f:b": {}, "f:c": {}}}, id="side by side"),
        pytest.param(
            [{"f:a": {}}, {"f:a": {"f:c": {}}}], {"f:a": {".": {}, "f:c": {}}}, id="a member and what is below"
        ),
        pytest.param([{"f:a": {}}, {"f:a": {}}], {"f:a": {}}, id="the same twice"),
    ],
)
def test_union(sets, joined):
    assert fieldsets.union(sets) == joined


@pytest.mark.parametrize(
    ("fields", "removed", "left"),
    [
        pytest.param({"f:a": {}, "f:b": {}}, {"f:a": {}}, {"f:b": {}}, id="a member goes"),
        pytest.param({"f:a": {"f:b": {}}}, {"f:a": {"f:b": {}}}, {}, id="the last one below takes its path along"),
        pytest.param({"f:a": {"f:b": {}}}, {"f:a": {}}, {}, id="a whole subtree goes"),
        pytest.param({"f:a": {}}, {"f:a": {"f:b": {}}}, {"f:a": {}}, id="a member stays when only what is below goes"),
        pytest.param({"f:a": {}}, {"f:a": {".": {}, "f:b": {}}}, {}, id="a member goes with its own mark"),
        pytest.param(
            {"f:a": {".": {}, "f:b": {}}}, {"f:a": {".": {}, "f:c": {}}}, {"f:a": {"f:b": {}}}, id="only the mark goes"
        ),
    ],
)
def test_subtract(fields, removed, left):
    assert fieldsets.subtract(fields, removed) == left


@pytest.mark.parametrize(
    ("mine", "theirs", "common"),
    [
        pytest.param({"f:a": {}, "f:b": {}}, {"f:b": {}, "f:c": {}}, {"f:b": {}}, id="the same member"),
        pytest.param({"f:a": {}}, {"f:a": {"f:b": {}}}, {"f:a": {}}, id="a value in place of their map"),
        pytest.param({"f:a": {"f:b": {}}}, {"f:a": {}}, {}, id="a field added to their empty map"),
        pytest.param({"f:a": {".": {}, "f:b": {}}}, {"f:a": {}}, {"f:a": {}}, id="a map in place of their value"),
        pytest.param({"f:a": {"f:b": {}}}, {"f:a": {"f:c": {}}}, {}, id="neighbours"),
    ],
)
def test_overlap(mine, theirs, common):
    assert fieldsets.overlap(mine, theirs) == common


@pytest.mark.parametrize(
    ("live", "applied", "merged"),
    [
        pytest.param({"a": {"b": 1}}, {"a": {"c": 2}}, {"a": {"b": 1, "c": 2}}, id="maps"),
        pytest.param({"a": {"b": 1}}, {"a": {}}, {"a": {"b": 1}}, id="an empty map changes nothing"),
        pytest.param({"a": [1, 2]}, {"a": [3]}, {"a": [3]}, id="atomic lists"),
        pytest.param({"selector": {"a": "b"}}, {"selector": {"c": "d"}}, {"selector": {"c": "d"}}, id="atomic maps"),
        pytest.param({"finalizers": ["x"]}, {"finalizers": ["y", "x"]}, {"finalizers": ["x", "y"]}, id="sets"),
        pytest.param(
            {"containers": [container("a", image="1", tty=True), container("b")]},
            {"containers": [container("c"), container("a", image="2")]},
            {"containers": [container("a", image="2", tty=True), container("b"), container("c")]},
            id="keyed lists keep their order and what others set",
        ),
        pytest.param({"a": 1}, {"a": {"b": 2}}, {"a": {"b": 2}}, id="another type replaces"),
    ],
)
def test_merge(live, applied, merged):
    assert fieldsets.merge(live, applied, POD) == merged


@pytest.mark.parametrize(
    ("value", "given_up", "owned", "left"),
    [
        pytest.param({"a": 1, "b": 2}, {"f:a": {}}, {}, {"b": 2}, id="a field that nobody owns"),
        pytest.param({"a": 1}, {"f:a": {}}, {"f:a": {}}, {"a": 1}, id="a field that somebody owns"),
        pytest.param(
            {"a": {"b": 1, "c": 2}}, {"f:a": {"f:b": {}}}, {"f:a": {"f:c": {}}}, {"a": {"c": 2}}, id="one below"
        ),
        pytest.param({"a": {"b": 1}}, {"f:a": {"f:b": {}}}, {}, {}, id="an empty map goes too"),
        pytest.param(
            {"containers": [container("a", image="1", tty=True), container("b")]},
            {"f:containers": {'k:{"name":"a"}': {".": {}, "f:name": {}, "f:image": {}}}},
            {"f:containers": {'k:{"name":"b"}': {".": {}, "f:name": {}}}},
            {"containers": [container("b")]},
            id="an item goes with what nobody owns in it",
        ),
        pytest.param(
            {"containers": [container("a", image="1", tty=True)]},
            {"f:containers": {'k:{"name":"a"}': {".": {}, "f:name": {}, "f:image": {}}}},
            {"f:containers": {'k:{"name":"a"}': {"f:tty": {}}}},
            {"containers": [container("a", tty=True)]},
            id="an item that stays keeps its key",
        ),
    ],
)
def test_prune(value, given_up, owned, left):
    assert fieldsets.prune(value, given_up, owned, POD) == left


def test_existing_keeps_the_paths_that_are_there():
    fields = {"f:a": {}, "f:b": {"f:c": {}}, "f:containers": {'k:{"name":"a"}': {".": {}, "f:image": {}}}}
    value = {"a": 1, "b": {"d": 1}, "containers": [container("a")]}
    assert fieldsets.existing(fields, value, POD) == {"f:a": {}, "f:containers": {'k:{"name":"a"}': {".": {}}}}


def test_paths_are_written_for_people():
    fields = {"f:spec": {"f:containers": {'k:{"name":"a"}': {".": {}, "f:image": {}}}, "f:finalizers": {'v:"x"': {}}}}
    assert fieldsets.paths(fields) == [
        '.spec.containers[name="a"]',
        '.spec.containers[name="a"].image',
        '.spec.finalizers["x"]',
    ]


def test_duplicates_are_found_where_keys_repeat():
    value = {"containers": [container("a"), container("a")], "finalizers": ["x", "x"], "args": [1, 1]}
    assert fieldsets.duplicates(value, POD) == [".containers", ".finalizers"]
