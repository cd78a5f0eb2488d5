"""RFC 6902: every operation, its refusals, and that the patched object is another one."""

from __future__ import annotations

import copy

import pytest

from flexinfer.errors import Invalid
from flexinfer.kube.jsonpatch import patched

OBJ = {"a": 1, "list": [1, 2, 3], "deep": {"x/y": "slash", "m~n": "tilde", "": "empty"}, "none": None}


def op(name, path, **more):
    return {"op": name, "path": path, **{key.removesuffix("_"): value for key, value in more.items()}}


@pytest.mark.parametrize(
    ("operations", "change"),
    [
        pytest.param([], {}, id="nothing"),
        pytest.param([op("add", "/b", value=2)], {"b": 2}, id="a new member"),
        pytest.param([op("add", "/a", value=2)], {"a": 2}, id="a member that is there is replaced"),
        pytest.param([op("add", "/list/1", value=9)], {"list": [1, 9, 2, 3]}, id="into a list"),
        pytest.param([op("add", "/list/3", value=9)], {"list": [1, 2, 3, 9]}, id="just behind a list"),
        pytest.param([op("add", "/list/-", value=9)], {"list": [1, 2, 3, 9]}, id="at the end of a list"),
        pytest.param([op("remove", "/list/0")], {"list": [2, 3]}, id="out of a list"),
        pytest.param([op("replace", "/list/2", value=9)], {"list": [1, 2, 9]}, id="a list's item"),
        pytest.param([op("replace", "/none", value=0)], {"none": 0}, id="a null is there"),
        pytest.param(
            [
                op("replace", "/deep/x~1y", value=1),
                op("replace", "/deep/m~0n", value=2),
                op("replace", "/deep/", value=3),
            ],
            {"deep": {"x/y": 1, "m~n": 2, "": 3}},
            id="names that are escaped, and an empty one",
        ),
        pytest.param([op("copy", "/b", from_="/list"), op("remove", "/b/0")], {"b": [2, 3]}, id="a copy is its own"),
        pytest.param([op("move", "/b", from_="/a"), op("add", "/a", value=0)], {"b": 1, "a": 0}, id="moved away"),
        pytest.param([op("move", "/list/0", from_="/list/2")], {"list": [3, 1, 2]}, id="moved within a list"),
        pytest.param([op("move", "/a", from_="/a")], {}, id="moved to where it is"),
        pytest.param([op("test", "/deep/x~1y", value="slash"), op("test", "/none", value=None)], {}, id="tests"),
        pytest.param([op("test", "/a", value=1.0)], {}, id="numbers are equal however they are written"),
    ],
)
def test_operations(operations, change):
    before = copy.deepcopy(OBJ)
    assert patched(OBJ, operations) == {**OBJ, **change}
    assert before == OBJ


def test_the_whole_object():
    assert patched(OBJ, [op("replace", "", value={"b": 1})]) == {"b": 1}
    assert patched(OBJ, [op("test", "", value=copy.deepcopy(OBJ))]) == OBJ


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        pytest.param(op("test", "/a", value=2), "test: /a is not as expected", id="a test that fails"),
        pytest.param(op("test", "/a", value=True), "test: /a is not as expected", id="1 is not true"),
        pytest.param(op("remove", "/b"), "there is no /b", id="nothing to remove"),
        pytest.param(op("replace", "/b", value=1), "there is no /b", id="nothing to replace"),
        pytest.param(op("remove", ""), "the whole object cannot be removed", id="everything"),
        pytest.param(op("add", "/b/c", value=1), "there is no /b", id="no parent"),
        pytest.param(op("add", "/a/c", value=1), "/a is neither an object nor a list", id="a parent that is a number"),
        pytest.param(op("add", "/list/4", value=1), "'4' is no index of the list", id="a gap in a list"),
        pytest.param(op("remove", "/list/01"), "'01' is no index of the list", id="a zero before an index"),
        pytest.param(op("remove", "/list/-"), "'-' is no index of the list", id="the end of a list has no value"),
        pytest.param(op("add", "b", value=1), "path: 'b': expected a JSON pointer", id="a path without a slash"),
        pytest.param({"op": "add", "value": 1}, "path: None: expected a JSON pointer", id="no path"),
        pytest.param(op("add", "/b"), "add: value is missing", id="no value"),
        pytest.param(op("copy", "/b"), "from: None: expected a JSON pointer", id="no source"),
        pytest.param(op("move", "/deep/x", from_="/deep"), "move: into itself", id="into itself"),
        pytest.param(op("merge", "/a", value=1), "'merge' is no operation", id="an operation that is none"),
        pytest.param("remove /a", "not an object", id="no object"),
    ],
)
def test_refusals(operation, message):
    with pytest.raises(Invalid, match="operation 1") as raised:
        patched(OBJ, [op("add", "/x", value=1), operation])
    assert str(raised.value) == f"JSON patch, operation 1: {message}"
