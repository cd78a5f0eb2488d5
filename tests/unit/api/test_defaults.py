"""Defaults that follow from other fields, and the list of fields that do not act yet."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest
from tests.support.bad_models import edited

from flexinfer.api import admission, codec, defaults, schema
from flexinfer.api.quantity import Duration
from flexinfer.api.v1alpha2.model import Model, ModelSpec


def spec_of(edits) -> ModelSpec:
    return codec.decode(edited(edits)).spec


def read(spec: ModelSpec, path: str):
    value: object = defaults.resolve(spec)
    for name in path.split("."):
        value = getattr(value, name)
    return value


@pytest.mark.parametrize(
    ("edits", "path", "value"),
    [
        pytest.param({}, "serverless.idle_timeout", Duration("5m"), id="a language model idles out in 5 minutes"),
        pytest.param({"spec.backend": "comfy"}, "serverless.idle_timeout", Duration("10m"), id="an image one in 10"),
        pytest.param({"spec.serverless.idleTimeout": "1h"}, "serverless.idle_timeout", Duration("1h"), id="or as said"),
        pytest.param({}, "cache.strategy", "SharedPVC", id="files on a claim"),
        pytest.param({"spec.gpu.shared": "desk"}, "cache.strategy", "Memory", id="in memory on a shared GPU"),
        pytest.param({"spec.gpu.shared": "desk", "spec.cache.strategy": "None"}, "cache.strategy", "None", id="said"),
        pytest.param({}, "gpu", None, id="no GPU"),
        pytest.param({"spec.gpu": {}}, "gpu.count", 1, id="one GPU"),
        pytest.param({"spec.gpu": {"count": 4}}, "gpu.count", 4, id="four GPUs"),
        pytest.param({"spec.gpu.vendor": "cpu"}, "gpu.count", 0, id="no GPU with vendor cpu"),
        pytest.param({"spec.gpu": {"vendor": "amd", "shared": "x"}}, "cache.compilation_cache.enabled", True,
                     id="a compile cache for a shared AMD GPU"),
        pytest.param({"spec.gpu": {"vendor": "amd"}}, "cache.compilation_cache.enabled", False, id="not for one alone"),
        pytest.param({"spec.gpu": {"shared": "x"}, "spec.cache.strategy": "Local"}, "cache.flash_loader.enabled", True,
                     id="the loader for a shared GPU with local files"),
        pytest.param({}, "cache.flash_loader.enabled", False, id="otherwise not"),
        pytest.param({"spec.kvCache.swapSpace": 4}, "kv_cache.host_tier_gib", 4, id="swapSpace is hostTierGiB"),
        pytest.param({"spec.kvCache.swapSpace": 0}, "kv_cache.host_tier_gib", 0, id="a swapSpace of zero too"),
        pytest.param({"spec.backend": "llama_cpp"}, "backend", "llamacpp", id="an alias is resolved"),
        pytest.param({}, "capabilities.tool_calling", False, id="no tools with llamacpp"),
        pytest.param({"spec.config": {"jinja": True}}, "capabilities.tool_calling", True, id="tools with jinja"),
        pytest.param({"spec.config": {"mmproj": "m.gguf"}}, "capabilities.vision", True, id="eyes with mmproj"),
        pytest.param({"spec.backend": "vllm"}, "capabilities.tool_calling", True, id="tools with vllm"),
        pytest.param({"spec.backend": "diffusers"}, "capabilities.image_generation", True, id="images"),
        pytest.param({"spec.backend": "vllm", "spec.capabilities.toolCalling": False}, "capabilities.tool_calling",
                     False, id="a capability as said"),
    ],
)  # fmt: skip
def test_resolved(edits, path, value):
    assert read(spec_of(edits), path) == value


def test_what_the_user_wrote_stays():
    spec = spec_of({"spec.gpu": {}, "spec.backend": "llama_cpp"})
    before = msgspec.to_builtins(spec, enc_hook=str)
    defaults.resolve(spec)
    assert msgspec.to_builtins(spec, enc_hook=str) == before


def _leaves(node: schema.Node, path: str = "") -> Iterator[str]:
    for name, below in node["properties"].items():
        where = f"{path}.{name}" if path else name
        if "properties" in below and where not in ("secretRef", "quantize"):
            yield from _leaves(below, where)
        else:
            yield where


def test_every_field_stands_in_the_table():
    spec = schema.structural(Model)["properties"]["spec"]
    assert sorted(defaults.EFFECTIVE) == sorted(_leaves(spec))


@pytest.mark.parametrize(
    ("edits", "named"),
    [
        pytest.param({}, (), id="nothing"),
        pytest.param({"spec.gpu": {"vendor": "nvidia", "shared": "x", "priority": 5}},
                     ("spec.gpu.shared", "spec.gpu.priority"), id="sharing"),
        pytest.param({"spec.gpu": {"priority": 100}}, (), id="a default that is written out"),
        pytest.param({"spec.serverless": {"idleTimeout": "1m", "minReplicas": 1}}, (), id="what acts"),
        pytest.param({"spec.quantize": {"format": "GGUF"}, "spec.secretRef.name": "x"}, ("spec.quantize",),
                     id="an object"),
        pytest.param({"spec.kvCache.hostTierGiB": 4}, ("spec.kvCache.hostTierGiB",), id="a tier that llamacpp has not"),
        pytest.param({"spec.kvCache.hostTierGiB": 4, "spec.backend": "vllm"}, (), id="a tier of vllm"),
        pytest.param({"spec.source": "oci://host/repo:tag"}, ("spec.source",), id="an OCI source"),
        pytest.param({"spec.source": "oci://host/name"}, ("spec.source",), id="a registry"),
        pytest.param({"spec.source": "pvc://claim/x"}, (), id="a claim, or the folder that stands for it"),
        pytest.param({"spec.source": "org/name"}, (), id="a download for llamacpp"),
        pytest.param({"spec.source": "org/name", "spec.backend": "vllm"}, (), id="a download for vllm"),
        pytest.param({"spec.source": "ollama://llama3", "spec.backend": "ollama"}, (), id="a name that ollama fetches"),
        pytest.param({"spec.source": "http://10.0.0.1:8000", "spec.backend": "external"}, (), id="an address"),
    ],
)  # fmt: skip
def test_not_yet_effective(edits, named):
    assert defaults.not_yet_effective(spec_of(edits)) == named


def test_defaults_that_a_store_has_written_into_the_object_are_not_named():
    stored = {
        "apiVersion": "ai.flexinfer/v1alpha2",
        "kind": "Model",
        "metadata": {"name": "m"},
        "spec": {
            "backend": "llamacpp",
            "source": "file:///models/x.gguf",
            "gpu": {"shared": "g"},
            "slo": {},
            "cache": {"flashLoader": {"verifyIntegrity": True}, "compilationCache": {}},
            "kvCache": {"highWatermark": 0.9},
            "litellm": {"copilotAlias": "other"},
        },
    }
    assert admission.admit_stored(stored) == []
    assert stored["spec"]["gpu"]["swapCooldown"] == "5m"
    assert defaults.not_yet_effective(codec.from_object(stored).spec) == (
        "spec.gpu.shared",
        "spec.cache.flashLoader.verifyIntegrity",
        "spec.kvCache.highWatermark",
    )
