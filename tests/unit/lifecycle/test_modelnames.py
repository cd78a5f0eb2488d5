import pytest
from tests.support.models import model

from flexinfer.lifecycle.modelnames import NameTable, conflict_message, further_names, parked


@pytest.mark.parametrize(
    ("spec", "names"),
    [
        pytest.param({}, (), id="only its own name"),
        pytest.param(
            {"litellm": {"servedModelName": "org/m", "aliases": ["gpt", "m1", "org/m"]}},
            ("org/m", "gpt"),
            id="each once, its own not again",
        ),
        pytest.param({"config": {"servedModelName": "org/x"}}, ("org/x",), id="the name of the engine's config"),
        pytest.param({"config": {"servedModelName": 7}}, (), id="a config value that is no name"),
        pytest.param({"litellm": {"enabled": False, "aliases": ["gpt"]}}, (), id="none while it is parked"),
    ],
)
def test_the_names_of_a_model(spec, names):
    found = model("m1", **spec)
    assert further_names(found) == names
    assert parked(found) is ("enabled" in spec.get("litellm", {}))


def test_the_first_by_name_gets_a_name_that_several_want():
    table = NameTable()
    assert table.put("b", ["x", "y"]) == {"b", "x", "y"}
    assert table.put("a", ["x"]) == {"a", "x"}
    assert [table.owner(name) for name in "abxyz"] == ["a", "b", "a", "b", None]
    assert table.conflicts("a") == table.conflicts("b") == {"x": ("a", "b")}
    assert conflict_message(table.conflicts("b")) == "the name 'x' leads to Model a, b wants it as well"


def test_a_models_own_name_is_its_own():
    table = NameTable()
    table.put("a", ["b"])
    assert table.owner("b") == "a"
    assert table.put("b", []) == {"b"}
    assert table.owner("b") == "b"
    assert table.conflicts("a") == table.conflicts("b") == {"b": ("b", "a")}


def test_names_go_with_their_model():
    table = NameTable()
    table.put("a", ["x"])
    table.put("b", ["x", "y"])
    assert table.drop("a") == {"a", "x"}
    assert (table.owner("x"), table.owner("a"), table.conflicts("b")) == ("b", None, {})
    assert table.put("b", ["y"]) == {"x"}
    assert table.owner("x") is None
    assert table.drop("never seen") == frozenset()
