"""Manifests to Models and back; what a store holds, and how times are written."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from tests.support.bad_models import edited, model

from flexinfer.api import codec
from flexinfer.api.meta import Condition, ObjectKey
from flexinfer.api.quantity import Duration, Quantity
from flexinfer.api.v1alpha2.model import GPU, LiteLLM, Model, ModelSpec, ModelStatus
from flexinfer.errors import InvalidField, InvalidManifest

MANIFEST = """
apiVersion: ai.flexinfer/v1alpha2
kind: Model
metadata:
  name: demo
spec:
  backend: llama.cpp
  source: file:///models/demo.gguf
  gpu: {}
  serverless: {enabled: no, idleTimeout: 90s}
  resources: {limits: {cpu: 2, memory: 8Gi}}
  config: {contextSize: 4096}
"""


def test_decode_files():
    (found,) = codec.decode_files({"demo.yaml": MANIFEST})
    assert found.key == ObjectKey("default", "demo")
    assert found.spec.gpu == GPU()
    assert (found.spec.serverless.enabled, found.spec.serverless.idle_timeout) == (False, Duration("90s"))
    assert found.spec.resources.limits == {"cpu": Quantity("2"), "memory": Quantity("8Gi")}
    assert found.spec.config == {"contextSize": 4096}


def test_a_false_flag_is_written_and_a_default_is_not():
    (found,) = codec.decode_files({"demo.yaml": MANIFEST})
    assert codec.to_object(found) == {
        "apiVersion": "ai.flexinfer/v1alpha2",
        "kind": "Model",
        "metadata": {"name": "demo"},
        "spec": {
            "backend": "llama.cpp",
            "source": "file:///models/demo.gguf",
            "gpu": {},
            "serverless": {"enabled": False, "idleTimeout": "90s"},
            "config": {"contextSize": 4096},
            "resources": {"limits": {"cpu": "2", "memory": "8Gi"}},
        },
    }


def test_an_empty_litellm_is_kept_because_it_means_something():
    spec = ModelSpec(backend="vllm", source="org/name", litellm=LiteLLM())
    assert codec.to_object(Model(spec=spec))["spec"] == {"backend": "vllm", "source": "org/name", "litellm": {}}


def test_a_written_status_is_dropped():
    assert codec.decode({**model(), "status": {"phase": "Nonsense"}}).status == ModelStatus()


def test_errors_of_all_files_with_their_file():
    texts = {
        "one.yaml": MANIFEST.replace("enabled: no", "enabled: 1") + "---\n" + MANIFEST.replace("demo\n", "two\n"),
        "two.yaml": "a: [",
        "three.json": '{"apiVersion": "ai.flexinfer/v1alpha2", "kind": "Model", "metadata": {"name": "x"}, "spec": {}}',
    }
    with pytest.raises(InvalidManifest) as caught:
        codec.decode_files(texts)
    assert [(error.file, error.path) for error in caught.value.errors] == [
        ("one.yaml", "spec.serverless.enabled"),
        ("two.yaml", "line 2"),
        ("three.json", "spec.backend"),
        ("three.json", "spec.source"),
    ]


def test_a_name_that_two_files_use():
    with pytest.raises(InvalidManifest) as caught:
        codec.decode_files({"one.yaml": "\n---" + MANIFEST, "two.yaml": MANIFEST})
    (error,) = caught.value.errors
    assert (error.file, error.path, error.value, error.expected) == (
        "two.yaml",
        "metadata.name",
        "demo",
        "a name that no other Model has: it is also in one.yaml line 2",
    )


def test_one_name_in_two_namespaces():
    elsewhere = MANIFEST.replace("name: demo", "name: demo\n  namespace: team-a")
    found = codec.decode_files({"": MANIFEST + "---" + elsewhere})
    assert [model.key for model in found] == [ObjectKey("default", "demo"), ObjectKey("team-a", "demo")]


def test_a_stored_object_may_be_newer():
    stored = edited({"spec.fromTheFuture": 1, "metadata.managedFields": [{"manager": "x"}]})
    stored["status"] = {"phase": "Ready", "lastActiveTime": "2026-01-31T12:00:00.25Z", "somethingNew": {"x": 1}}
    found = codec.from_object(stored)
    assert (found.status.phase, found.status.last_active_time) == (
        "Ready",
        datetime(2026, 1, 31, 12, 0, 0, 250_000, tzinfo=UTC),
    )


@pytest.mark.parametrize(
    ("stored", "path"),
    [
        pytest.param({}, "(object)", id="no spec"),
        pytest.param(edited({"spec.replicas": "x"}), "spec.replicas", id="a wrong type"),
        pytest.param(edited({"spec.cache": {"size": 1.5}}), "spec.cache.size", id="a quantity that is a fraction"),
        pytest.param(edited({"spec.serverless.idleTimeout": 5}), "spec.serverless.idleTimeout", id="a number"),
    ],
)
def test_what_is_no_model_at_all(stored, path):
    with pytest.raises(InvalidField) as caught:
        codec.from_object(stored)
    assert caught.value.path == path


def test_status_as_json():
    at = datetime(2026, 1, 31, 13, 0, 0, 250_000, tzinfo=timezone(timedelta(hours=1)))
    status = ModelStatus(
        phase="Loading",
        loading_started_at=at,
        last_active_time=at,
        conditions=[Condition(type="Ready", status="False", reason="StartingBackend", last_transition_time=at)],
        loading_progress=0.5,
    )
    assert codec.encode_status(status) == {
        "phase": "Loading",
        "conditions": [
            {
                "type": "Ready",
                "status": "False",
                "reason": "StartingBackend",
                "lastTransitionTime": "2026-01-31T12:00:00Z",
            }
        ],
        "lastActiveTime": "2026-01-31T12:00:00.250000Z",
        "loadingProgress": 0.5,
        "loadingStartedAt": "2026-01-31T12:00:00Z",
    }


def test_a_whole_second_is_written_short():
    at = datetime(2026, 1, 31, 12, tzinfo=UTC)
    assert codec.format_time(at, exact=True) == "2026-01-31T12:00:00Z"
