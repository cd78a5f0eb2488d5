"""The verdict on objects: what is refused and where, what is admitted, what a write changes."""

from __future__ import annotations

import pytest
from tests.support import bad_models
from tests.support.bad_models import Bad, edited

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


@pytest.mark.parametrize(
    "edits",
    [
        pytest.param({}, id="the least that there is"),
        pytest.param({"metadata.name": "a" * 253}, id="a name of 253 characters"),
        pytest.param({"spec.source": "pvc://" + "c" * 253 + "/x"}, id="a claim of 253 characters"),
        pytest.param({"metadata.name": "3b.llama-3.1"}, id="a name with dots that begins with a digit"),
        pytest.param({"spec.gpu": {}}, id="any GPU"),
        pytest.param({"spec.gpu": {"vendor": "cpu"}}, id="vendor cpu alone"),
        pytest.param({"spec.gpu": {"vendor": "cpu", "shared": ""}}, id="vendor cpu and no group"),
        pytest.param({"spec.gpu": {"shared": "desk", "priority": 0, "count": 8}}, id="a shared GPU"),
        pytest.param({"spec.gpu": None}, id="a null is an absent field"),
        pytest.param({"spec.serverless": {"minReplicas": 1, "maxReplicas": None}}, id="a rule does not see a null"),
        pytest.param({"spec.replicas": 2.0}, id="a whole number written with a point"),
        pytest.param({"spec.serverless": {"coldStartTimeout": "1h30m", "idleTimeout": "0s"}}, id="durations"),
        pytest.param({"spec.serverless.idleTimeout": "87600h"}, id="ten years"),
        pytest.param({"spec.resources": {"limits": {"cpu": 2, "memory": "8Gi"}}}, id="quantities of both types"),
        pytest.param({"spec.resources.limits": {"example.com/fpga": "1"}}, id="a resource that is no GPU"),
        pytest.param({"spec.kvCache": {"highWatermark": 0.9, "lowWatermark": "0.5"}}, id="watermarks of both types"),
        pytest.param({"spec.kvCache": {"highWatermark": 1, "lowWatermark": 0}}, id="watermarks at their bounds"),
        pytest.param({"spec.kvCache": {"hostTierGiB": 4, "swapSpace": 4}}, id="both names of the host tier, agreeing"),
        pytest.param({"spec.config": {"a": {"b": [1, None, {"c": True}]}, "x y": 1}}, id="any config"),
        pytest.param({"spec.tolerations": [{"operator": "Exists"}]}, id="a toleration of everything"),
        pytest.param(
            {"spec.source": "pvc://models/llama", "spec.cache": {"strategy": "Memory"}}, id="a claim and a cache"
        ),
        pytest.param({"spec.nodeSelector": {"kubernetes.io/arch": "amd64", "x": ""}}, id="node selectors"),
        pytest.param({"spec.imageDigest": "a" * 64}, id="a digest without its algorithm"),
        pytest.param({"spec.litellm": {"aliases": ["gpt-4o", "openai/gpt"]}}, id="aliases with a slash"),
        pytest.param({"metadata.generateName": "demo-"}, id="a name that will be made"),
        pytest.param({"status": {"phase": "Ready", "conditions": []}}, id="a status"),
    ],
)
def test_admitted(edits):
    assert admission.admit(edited(edits)) == []


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
