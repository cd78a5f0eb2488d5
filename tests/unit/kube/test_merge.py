from __future__ import annotations

import datetime as dt

import pytest

from flexinfer.kube.merge import copy_json, merge_patch, without_nulls


# The table of RFC 7386, appendix A.
@pytest.mark.parametrize(
    ("original", "patch", "result"),
    [
        pytest.param({"a": "b"}, {"a": "c"}, {"a": "c"}, id="a value is replaced"),
        pytest.param({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}, id="a member is added"),
        pytest.param({"a": "b"}, {"a": None}, {}, id="null removes the only member"),
        pytest.param({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}, id="null removes one member"),
        pytest.param({"a": ["b"]}, {"a": "c"}, {"a": "c"}, id="an array gives way to a value"),
        pytest.param({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}, id="a value gives way to an array"),
        pytest.param({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}, id="maps are merged"),
        pytest.param({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}, id="arrays are replaced whole"),
        pytest.param(["a", "b"], ["c", "d"], ["c", "d"], id="an array document is replaced"),
        pytest.param({"a": "b"}, ["c"], ["c"], id="a map document gives way to an array"),
        pytest.param({"a": "foo"}, None, None, id="a null patch is the result"),
        pytest.param({"a": "foo"}, "bar", "bar", id="a text patch is the result"),
        pytest.param({"e": None}, {"a": 1}, {"e": None, "a": 1}, id="a null that was there stays"),
        pytest.param([1, 2], {"a": "b", "c": None}, {"a": "b"}, id="a map patch makes a map of an array"),
        pytest.param({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}, id="nulls in new maps are dropped"),
    ],
)
def test_merge_patch(original, patch, result):
    assert merge_patch(original, patch) == result


def test_merge_patch_shares_nothing_with_the_patch():
    patch = {"a": {"b": [1]}}
    merged = merge_patch({}, patch)
    patch["a"]["b"].append(2)
    assert merged == {"a": {"b": [1]}}


def test_copy_shares_nothing():
    original = {"a": [{"b": 1}], "c": (1, None, True)}
    copied = copy_json(original)
    original["a"][0]["b"] = 2
    assert copied == {"a": [{"b": 1}], "c": [1, None, True]}


def test_copy_refuses_what_json_cannot_hold():
    with pytest.raises(TypeError, match="not a JSON value: datetime"):
        copy_json({"at": dt.datetime(2026, 1, 1, tzinfo=dt.UTC)})


def test_nulls_are_dropped_from_maps_only():
    assert without_nulls({"a": None, "b": [None, {"c": None, "d": 1}]}) == {"b": [None, {"d": 1}]}
