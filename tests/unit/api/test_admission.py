"""The verdict on objects: what is refused and where, what is admitted, what a write changes."""

from __future__ import annotations

import pytest
from tests.support import bad_models, good_models
from tests.support.bad_models import Bad, edited
from tests.support.good_models import Good

from flexinfer.api import admission
from flexinfer.errors import InvalidField


def told(errors: list[InvalidField]) -> list[tuple[str, object, str]]:
    return [(error.path, error.value, error.expected) for error in errors]


@pytest.mark.parametrize("bad", [pytest.param(row, id=row.id) for row in bad_models.ROWS])
def test_refused_at_its_path(bad: Bad):
    errors = admission.admit(edited(bad.edits))
    assert tuple(error.path for error in errors) == bad.paths


@pytest.mark.parametrize("bad", [pytest.param(row, id=row.id) for row in bad_models.UNKNOWN])
def test_an_api_server_drops_what_it_does_not_know(bad: Bad):
    obj = edited(bad.edits)
    assert admission.admit_stored(obj) == []
    assert admission.admit(obj) == [] or bad.paths[0].startswith("metadata")


@pytest.mark.parametrize("good", [pytest.param(row, id=row.id) for row in good_models.ROWS])
def test_admitted(good: Good):
    assert admission.admit(edited(good.edits)) == []


def test_all_mistakes_at_once_with_what_would_be_right():
    obj = edited(
        {
            "spec.backend": "vlm",
            "spec.gpu": {"vendor": "cpu", "count": 2, "prioritty": 3},
            "spec.serverless.coldStartTimeout": "0s",
            "spec.replicas": "two",
        }
    )
    errors = told(admission.admit(obj))
    names = (
        "one of ollama, vllm, vllm-omni, mlc-llm, llamacpp, diffusers, comfyui, tensorrt-llm, sglang, tgi, simulator, "
        "external; did you mean 'vllm'?"
    )
    assert errors == [
        ("spec.backend", "vlm", names),
        ("spec.gpu.prioritty", 3, "a known field; did you mean 'priority'?"),
        ("spec.gpu.count", 2, "no count with vendor cpu"),
        ("spec.serverless.coldStartTimeout", "0s", "a duration above zero"),
        ("spec.replicas", "two", "a whole number from 0 to 10"),
    ]


@pytest.mark.parametrize(
    ("edits", "error"),
    [
        pytest.param(
            {"spec.source": "HF://org"},
            ("spec.source", "HF://org",
             "HF://org/name or HF://org/name@revision, each part 1 to 96 of letters, digits, '.', '_' and '-'"),
            id="a source is explained by its scheme",
        ),
        pytest.param(
            {"spec.source": "/models/demo.gguf"},
            ("spec.source", "/models/demo.gguf",
             "a file as file:///absolute/path; did you mean 'file:///models/demo.gguf'?"),
            id="a path is no repository",
        ),
        pytest.param(
            {"spec.source": "demo.gguf"},
            ("spec.source", "demo.gguf", "a file as file:///absolute/path"),
            id="nor is a file's name",
        ),
        pytest.param(
            {"spec.backend": "external"},
            ("spec.source", "file:///models/demo.gguf", "http(s)://host:port with backend external, and only there"),
            id="external needs an address",
        ),
        pytest.param(
            {"spec.resources.limits": {"nvidia.com/gpu": 1}},
            ("spec.resources.limits[nvidia.com/gpu]", 1, "no nvidia.com/gpu: ask for GPUs in spec.gpu"),
            id="GPUs are asked for elsewhere",
        ),
        pytest.param(
            {"spec.gpu.vramEstimateMB": -1},
            ("spec.gpu.vramEstimateMB", -1, "a whole number of at least 0"),
            id="a number without an upper bound",
        ),
        pytest.param(
            {"spec.slo.minTokensPerSecond": 0}, ("spec.slo.minTokensPerSecond", 0, "a number above 0"), id="above zero"
        ),
        pytest.param(
            {"spec.image": "x " * 200},
            ("spec.image", "x " * 99 + "x…", "an image such as ghcr.io/org/name:tag"),
            id="a long value is cut",
        ),
        pytest.param({"spec.config": []}, ("spec.config", "[]", "an object"), id="an object"),
        pytest.param(
            {"status": {"lastActiveTime": "yesterday"}},
            ("status.lastActiveTime", "yesterday", "a time such as 2026-01-31T12:00:00Z"),
            id="a time",
        ),
        pytest.param(
            {"status": {"conditions": [{"type": "Ready", "status": "Maybe", "reason": "X"}]}},
            ("status.conditions[0].status", "Maybe", "one of True, False, Unknown"),
            id="a condition's status",
        ),
    ],
)  # fmt: skip
def test_one_mistake(edits, error):
    assert told(admission.admit(edited(edits))) == [error]


def test_a_condition_type_is_there_once():
    ready = {"type": "Ready", "status": "True", "reason": "BackendReady"}
    errors = admission.admit(edited({"status": {"conditions": [ready, {**ready, "status": "False"}]}}))
    assert [error.path for error in errors] == ["status.conditions[1]"]


def test_a_flood_of_mistakes_ends_at_a_hundred():
    obj = edited({f"spec.x{number}": 1 for number in range(1000)})
    assert len(admission.admit(obj)) == admission.MAX_ERRORS


def test_defaults_are_those_that_depend_on_nothing_else():
    obj = edited({"spec.gpu": {}, "spec.serverless": {"minReplicas": None}, "spec.tolerations": [{"key": "x"}]})
    assert admission.admit_stored(obj) == []
    assert obj["spec"] == {
        "backend": "llamacpp",
        "source": "file:///models/demo.gguf",
        "replicas": 1,
        "gpu": {"vendor": "auto", "priority": 100, "swapCooldown": "5m", "forcePromotion": False},
        "serverless": {"enabled": True, "minReplicas": 0, "targetInFlight": 8, "coldStartTimeout": "60s"},
        "tolerations": [{"key": "x"}],
    }


def test_pruning_keeps_what_config_holds():
    obj = edited({"spec.config": {"free": {"form": None}}, "spec.gpu": {"x": 1, "count": None}, "spec.y": 1})
    assert admission.prune(obj)["spec"] == {
        "backend": "llamacpp",
        "source": "file:///models/demo.gguf",
        "config": {"free": {"form": None}},
        "gpu": {},
    }


def test_a_stored_object_gets_its_defaults_in_place():
    obj = edited({"spec.gpu": {"vendor": "nvidia", "x": 1}})
    assert admission.admit_stored(obj) == []
    assert obj["spec"]["gpu"] == {
        "vendor": "nvidia", "priority": 100, "swapCooldown": "5m", "forcePromotion": False,
    }  # fmt: skip
    assert obj["spec"]["replicas"] == 1
