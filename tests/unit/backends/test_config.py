"""What `spec.config` may hold."""

from __future__ import annotations

from typing import Any

import pytest

from flexinfer import backends
from flexinfer.api.v1alpha2.model import Model, ModelSpec
from flexinfer.backends import config
from flexinfer.backends.config import ConfigKey
from flexinfer.errors import InvalidField

KEYS = (
    config.integer("count", "how many", "--count", minimum=1),
    config.number("rate", "how fast", "--rate"),
    config.text("kind", "what", "--kind", choices=("a", "b")),
    config.switch("plain", "a switch", "--plain"),
    config.either("both", "a switch", "--both"),
    ConfigKey(name="share", kinds=("number", "text"), meaning="how much", flag="--share", minimum=0, maximum=1),
    ConfigKey(name="sizes", kinds=("list",), meaning="which", flag="--sizes"),
    ConfigKey(name="more", kinds=("object", "text"), meaning="more", flag="--more"),
    ConfigKey(name="old", kinds=("boolean",), meaning="gone", flag="--old", gone="engine 2"),
)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        pytest.param({"count": 3}, None, id="a whole number"),
        pytest.param({"count": 3.0}, None, id="a whole number that JSON wrote as a float"),
        pytest.param({"count": 2.5}, "a whole number of at least 1", id="half a number"),
        pytest.param({"count": "3"}, "a whole number of at least 1", id="a number in quotes"),
        pytest.param({"count": True}, "a whole number of at least 1", id="a switch is no number"),
        pytest.param({"count": 0}, "a whole number of at least 1", id="below the bound"),
        pytest.param({"count": None}, "a whole number of at least 1", id="null"),
        pytest.param({"kind": "a"}, None, id="one of the choices"),
        pytest.param({"kind": "c"}, "one of a, b", id="none of the choices"),
        pytest.param({"plain": "yes"}, "true or false", id="a word for a switch"),
        pytest.param({"share": 0.5}, None, id="a number where text is taken too"),
        pytest.param({"share": "0.5"}, None, id="text where a number is taken too"),
        pytest.param({"share": 1.5}, "a number or text from 0 to 1", id="above the bound"),
        pytest.param({"more": {"a": 1}}, None, id="an object"),
        pytest.param({"more": "a\0b"}, "text without a NUL", id="a NUL"),
        pytest.param({"other": 1}, None, id="a key that is not known is no business of types"),
    ],
)
def test_wrong(found: dict[str, Any], expected: str | None) -> None:
    errors = [(error.path, error.expected) for error in config.wrong(found, KEYS)]
    assert errors == ([] if expected is None else [(f"spec.config.{next(iter(found))}", expected)])


def test_argv_follows_the_table() -> None:
    found = {
        "sizes": [1, 2], "more": {"b": 1, "a": "x y"}, "both": False, "plain": False, "rate": 2.0, "share": 0.25,
        "count": 4, "old": True, "kind": "a",
    }  # fmt: skip
    assert config.argv(found, KEYS) == [
        "--count", "4", "--rate", "2", "--kind", "a", "--no-both", "--share", "0.25", "--sizes", "1", "2",
        "--more", '{"a":"x y","b":1}',
    ]  # fmt: skip


def test_check_tells_wrong_values_unknown_keys_and_gone_options() -> None:
    found = {"paralel": 4, "maxNumSeq": 1, "gpuMemoryUtilization": True, "calculateKvScales": True}
    spec = ModelSpec(backend="vllm", source="HF://a/b", config=found)
    assert [str(error) for error in backends.check_config(Model(spec=spec))] == [
        "spec.config.gpuMemoryUtilization: True: expected a number or text from 0 to 1",
        "spec.config.paralel: 4: expected no such key",
        "spec.config.maxNumSeq: 1: expected no such key; did you mean maxNumSeqs?",
        "spec.config.calculateKvScales: True: expected no such key: vLLM 0.32 has no option for it",
    ]
    assert backends.check_config(Model(spec=ModelSpec(backend="nobody", source="", config=found))) == ()


@pytest.mark.parametrize("name", ["vlm", "llama-cp", "VLLM"])
def test_an_unknown_backend_has_a_nearest_one(name: str) -> None:
    with pytest.raises(backends.UnknownBackend, match=r"did you mean (vllm|llama-cpp)"):
        backends.get(name)


DENIED = {"--host": "we do", "-m": "we do", "--api-key": "the proxy does"}


@pytest.mark.parametrize("args", [[], ["--seed", "1"], ["--seed=1", "-x"], ["--ap"]])
def test_extra_args_that_are_taken(args: list[str]) -> None:
    assert config.extra_args({"extraArgs": args}, DENIED) == args


@pytest.mark.parametrize(
    ("args", "path"),
    [
        pytest.param(["--host", "0.0.0.0"], "extraArgs[0]", id="an option that is ours"),
        pytest.param(["--seed", "1", "--host=::"], "extraArgs[2]", id="with its value"),
        pytest.param(["--api_key", "x"], "extraArgs[0]", id="with underscores"),
        pytest.param(["--api-k", "x"], "extraArgs[0]", id="the beginning of an option"),
        pytest.param(["-m", "x"], "extraArgs[0]", id="the short form"),
        pytest.param([1], "extraArgs[0]", id="no text"),
        pytest.param("--seed 1", "extraArgs", id="no list"),
    ],
)
def test_extra_args_that_are_refused(args: Any, path: str) -> None:
    with pytest.raises(InvalidField) as caught:
        config.extra_args({"extraArgs": args}, DENIED)
    assert caught.value.path == f"spec.config.{path}"
