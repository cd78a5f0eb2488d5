"""ModelDeployment: the verdict on its objects, and the Model that each becomes."""

from __future__ import annotations

import pytest
from tests.support import deployments
from tests.support.bad_models import Bad
from tests.support.deployments import deployment, edited
from tests.support.good_models import Good

from flexinfer import backends
from flexinfer.api import admission, codec
from flexinfer.api.v1alpha1.conversion import Conversion, convert
from flexinfer.api.v1alpha1.modeldeployment import ModelDeployment
from flexinfer.errors import InvalidManifest


@pytest.mark.parametrize("bad", [pytest.param(row, id=row.id) for row in (*deployments.BAD, *deployments.UNKNOWN)])
def test_refused_at_its_path(bad: Bad):
    assert tuple(error.path for error in admission.admit(edited(bad.edits))) == bad.paths


@pytest.mark.parametrize("good", [pytest.param(row, id=row.id) for row in deployments.GOOD])
def test_admitted(good: Good):
    assert admission.admit(edited(good.edits)) == []


@pytest.mark.parametrize(
    "good", [pytest.param(row, id=row.id) for row in deployments.GOOD if "status" not in row.edits]
)
def test_comes_back_as_it_was_stored(good: Good):
    stored = admission.prune(edited(good.edits))
    once = codec.decode(stored)
    assert isinstance(once, ModelDeployment)
    assert codec.deployment_from_object(codec.to_object(once)) == once


def test_defaults_are_written_into_what_is_stored():
    obj = deployment(benchmark={}, mlcllm={"overrides": {}})
    assert admission.admit_stored(obj) == []
    assert obj["spec"] == {
        "model": "llama3:8b",
        "replicas": 1,
        "minReplicas": 0,
        "idleTimeoutSeconds": 300,
        "benchmark": {
            "enabled": True, "warmupIterations": 2, "minDuration": "30s", "iterations": 5, "batchSize": 128,
        },
        "mlcllm": {"overrides": {"prefillChunkSize": 512, "maxTotalSeqLength": 16384}},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("model", "said"),
    [
        pytest.param("llama 3", "a model such as llama3:8b (backend ollama), org/name, or a source such as "
                     "pvc://claim/path", id="no name of a model"),
        pytest.param("/models/x", "a file as file:///absolute/path; did you mean 'file:///models/x'?", id="a path"),
    ],
)  # fmt: skip
def test_a_wrong_model_is_explained(model, said):
    with pytest.raises(InvalidManifest) as refused:
        codec.decode(deployment(model=model))
    assert [(error.path, error.expected) for error in refused.value.errors] == [("spec.model", said)]


def converted(spec: dict[str, object], default_image: str = "") -> Conversion:
    found = codec.decode(edited({f"spec.{name}": value for name, value in spec.items()}))
    assert isinstance(found, ModelDeployment)
    return convert(found, default_image)


OLLAMA_NAME = "a name as Ollama has it, such as llama3:8b or namespace/name:tag"
ADDRESS = "http(s)://host:port with backend external, and only there"
OLLAMA = {
    "backend": "ollama", "source": "ollama://llama3:8b", "gpu": {}, "serverless": {"idleTimeout": "300s"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "made"),
    [
        pytest.param({}, OLLAMA, id="nothing but a model is Ollama's, on whatever there is"),
        pytest.param({"replicas": 0, "minReplicas": 2}, {**OLLAMA, "replicas": 0,
                     "serverless": {"minReplicas": 2, "idleTimeout": "300s"}}, id="replicas"),
        pytest.param({"idleTimeoutSeconds": 0, "coldStartTimeoutSeconds": 90}, {**OLLAMA,
                     "serverless": {"idleTimeout": "0s", "coldStartTimeout": "90s"}}, id="times"),
        pytest.param({"backend": "vllm", "model": "org/name"},
                     {**OLLAMA, "backend": "vllm", "source": "org/name"}, id="a repository of the hub"),
        pytest.param({"backend": "ollama", "model": "org/name:tag"},
                     {**OLLAMA, "source": "ollama://org/name:tag"}, id="a namespace of Ollama's"),
        pytest.param({"model": "pvc://models/llama"},
                     {**OLLAMA, "source": "pvc://models/llama"}, id="a source as it is"),
        pytest.param({"backend": "external", "model": "http://10.0.0.5:8000"}, {"backend": "external",
                     "source": "http://10.0.0.5:8000", "serverless": {"idleTimeout": "300s"}}, id="an address"),
        pytest.param({"resources": {"limits": {"nvidia.com/gpu": 2, "memory": "8Gi"}, "requests": {"cpu": "1"}}},
                     {**OLLAMA, "gpu": {"vendor": "nvidia", "count": 2},
                      "resources": {"limits": {"memory": "8Gi"}, "requests": {"cpu": "1"}}}, id="two of NVIDIA's"),
        pytest.param({"resources": {"requests": {"amd.com/gpu": "1"}}},
                     {**OLLAMA, "gpu": {"vendor": "amd", "count": 1}}, id="one of AMD's, by request"),
        pytest.param({"resources": {"limits": {"nvidia.com/gpu": 0}}},
                     {**OLLAMA, "gpu": {"vendor": "cpu"}}, id="none by name is the CPU"),
        pytest.param({"litellm": {"servedModelName": "gpt", "aliases": ["a"]}, "serviceLabels": ["chat"],
                      "slo": {"minTokensPerSecond": 20}, "benchmark": {"iterations": 3}, "secretRef": {"name": "hub"},
                      "nodeSelector": {"a": "b"}},
                     {**OLLAMA, "litellm": {"servedModelName": "gpt", "aliases": ["a"]}, "serviceLabels": ["chat"],
                      "slo": {"minTokensPerSecond": 20}, "benchmark": {"iterations": 3}, "secretRef": {"name": "hub"},
                      "nodeSelector": {"a": "b"}}, id="what a Model has too"),
        pytest.param({"backend": "mlc", "model": "org/name", "mlcllm": {
                        "mode": "server", "modelLibPath": "/l.so", "gpuMemoryBytes": 5, "jitPolicy": "OFF",
                        "overrides": {"contextWindowSize": 4096, "raw": "max_num_sequence=4; sliding_window_size=-1"}}},
                     {**OLLAMA, "backend": "mlc", "source": "org/name", "config": {
                        "mode": "server", "modelLibPath": "/l.so", "gpuMemoryBytes": 5, "jitPolicy": "OFF",
                        "prefillChunkSize": 512, "maxTotalSeqLength": 16384, "contextWindowSize": 4096,
                        "maxNumSequence": 4, "slidingWindowSize": -1}}, id="MLC"),
        pytest.param({"backend": "mlc", "model": "org/name", "mlcllm": {"mode": "local"}},
                     {**OLLAMA, "backend": "mlc", "source": "org/name", "config": {"mode": "local"}},
                     id="MLC without overrides"),
    ],
)  # fmt: skip
def test_becomes(spec, made):
    found = converted(spec)
    assert (found.not_yet, found.ignored, found.wrong) == ((), {}, ())
    obj = codec.to_object(found.model)
    assert obj == {
        "apiVersion": "ai.flexinfer/v1alpha2",
        "kind": "Model",
        "metadata": {"name": "demo"},
        "spec": made,
    }
    assert admission.admit(obj) == []
    assert list(backends.check_config(found.model)) == []


def test_only_who_names_no_backend_gets_the_installations_image():
    image = "harbor.lan/ollama:1"
    assert converted({}, image).model.spec.image == image
    assert converted({"backend": "ollama"}, image).model.spec.image == ""


def test_labels_come_along_and_what_kubectl_noted_does_not():
    noted = {"kubectl.kubernetes.io/last-applied-configuration": "{}", "note": "x"}
    found = codec.decode(edited({"metadata": {"name": "demo", "labels": {"a": "b"}, "annotations": noted}}))
    assert isinstance(found, ModelDeployment)
    assert codec.to_object(convert(found).model)["metadata"] == {
        "name": "demo", "labels": {"a": "b"}, "annotations": {"note": "x"},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "wrong"),
    [
        pytest.param({"replicas": 11}, ["spec.replicas: 11: expected at most 10"], id="more than ten replicas"),
        pytest.param({"minReplicas": 12}, ["spec.minReplicas: 12: expected at most 10"], id="more than ten pinned"),
        pytest.param({"backend": "vllm"},
                     ["spec.model: 'llama3:8b': expected org/name, or a source, with backend vllm"],
                     id="a name that only Ollama knows"),
        pytest.param({"model": "or.g/name"},
                     [f"spec.model: 'or.g/name': expected {OLLAMA_NAME}"],
                     id="a repository of the hub with Ollama"),
        pytest.param({"backend": "external", "model": "org/name"},
                     [f"spec.model: 'org/name': expected {ADDRESS}"],
                     id="no address for a server elsewhere"),
        pytest.param({"backend": "vllm", "model": "http://10.0.0.5"},
                     [f"spec.model: 'http://10.0.0.5': expected {ADDRESS}"],
                     id="an address for an engine"),
        pytest.param({"resources": {"limits": {"nvidia.com/gpu": 1, "amd.com/gpu": 1}}},
                     ["spec.resources: 'nvidia.com/gpu, amd.com/gpu': expected GPUs of one vendor"],
                     id="two vendors"),
        pytest.param({"resources": {"limits": {"nvidia.com/gpu": "500m"}}},
                     ["spec.resources[nvidia.com/gpu]: '500m': expected a whole number of GPUs, at most 8"],
                     id="half a GPU"),
        pytest.param({"resources": {"limits": {"nvidia.com/gpu": 9}}},
                     ["spec.resources[nvidia.com/gpu]: '9': expected a whole number of GPUs, at most 8"],
                     id="nine GPUs"),
        pytest.param({"resources": {"limits": {"gpu.intel.com/i915": 1}}},
                     ["spec.resources[gpu.intel.com/i915]: '1': expected one of nvidia.com/gpu, amd.com/gpu"],
                     id="one of Intel's"),
    ],
)  # fmt: skip
def test_what_no_model_can_have_is_told_by_the_fields_that_were_written(spec, wrong):
    assert [str(error) for error in converted(spec).wrong] == wrong


@pytest.mark.parametrize(
    ("spec", "not_yet", "ignored"),
    [
        pytest.param({"modelCacheRef": "c", "gpuGroupRef": "g"}, ("spec.modelCacheRef", "spec.gpuGroupRef"), {},
                     id="references to kinds that do not act yet"),
        pytest.param({"mlcllm": {"mode": "local"}}, (),
                     {"spec.mlcllm": "these are settings of mlc-llm, the backend is ollama"},
                     id="MLC's settings with another backend"),
        pytest.param({"backend": "mlc", "model": "org/name", "mlcllm": {"compileOptions": {"useCutlass": True}}}, (),
                     {"spec.mlcllm.compileOptions":
                      "they are chosen when the model's library is compiled, not by a server"},
                     id="options of a compiler"),
        pytest.param({"backend": "mlc", "model": "org/name",
                      "mlcllm": {"overrides": {"raw": "x=1;prefill_chunk_size=y"}}}, (),
                     {"spec.mlcllm.overrides.raw": "a Model has no key for x=1, prefill_chunk_size=y"},
                     id="overrides that nobody knows"),
    ],
)  # fmt: skip
def test_what_has_no_effect_is_named(spec, not_yet, ignored):
    found = converted(spec)
    assert (found.not_yet, found.ignored, found.wrong) == (not_yet, ignored, ())
