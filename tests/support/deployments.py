"""ModelDeployments that are admitted and that are refused, as changes of one: for `admission`, CRD and API server."""

from __future__ import annotations

import copy
from typing import Any

from tests.support.bad_models import ABSENT, Bad
from tests.support.good_models import Good


def deployment(**spec: Any) -> dict[str, Any]:
    """A ModelDeployment that is admitted."""
    return {
        "apiVersion": "ai.flexinfer/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": "demo"},
        "spec": {"model": "llama3:8b", **spec},
    }


def edited(edits: dict[str, Any]) -> dict[str, Any]:
    """The good one with values set (or taken away, `ABSENT`) at dotted paths."""
    obj = copy.deepcopy(deployment())
    for path, value in edits.items():
        *parents, last = path.split(".")
        node = obj
        for name in parents:
            node = node.setdefault(name, {})
        if value is ABSENT:
            del node[last]
        else:
            node[last] = value
    return obj


def _one(sentence: str, path: str, value: Any, at: str = "") -> Bad:
    return Bad(sentence, {path: value}, (at or path,))


BAD = (
    _one("the version of the Model", "apiVersion", "ai.flexinfer/v1alpha2"),
    _one("no model", "spec.model", ABSENT),
    _one("an empty model", "spec.model", ""),
    _one("a model with a space", "spec.model", "llama3 8b"),
    _one("a model with a shell character", "spec.model", "llama3;reboot"),
    _one("a path as the model", "spec.model", "/models/x"),
    _one("a scheme nobody knows", "spec.model", "ftp://x/y"),
    _one("a file of the system", "spec.model", "file:///etc/passwd"),
    _one("a claim whose name is too long", "spec.model", "pvc://" + "c" * 254 + "/x"),
    _one("a backend nobody knows", "spec.backend", "vlm"),
    _one("an empty backend", "spec.backend", ""),
    _one("fewer than no replicas", "spec.replicas", -1),
    _one("replicas as text", "spec.replicas", "2"),
    _one("fewer than no pinned replicas", "spec.minReplicas", -1),
    _one("a negative idle time", "spec.idleTimeoutSeconds", -1),
    _one("an idle time with a unit", "spec.idleTimeoutSeconds", "5m"),
    _one("an idle time beyond ten years", "spec.idleTimeoutSeconds", 315_360_001),
    _one("no time to start in", "spec.coldStartTimeoutSeconds", 0),
    _one("a resource that is no quantity", "spec.resources", {"limits": {"cpu": "two"}}, "spec.resources.limits[cpu]"),
    _one("a resource name with a space", "spec.resources", {"limits": {"a b": 1}}, "spec.resources.limits"),
    _one("a request name with a space", "spec.resources", {"requests": {"a b": 1}}, "spec.resources.requests"),
    _one("a selector that is no label", "spec.nodeSelector", {"a b": "x"}),
    _one("a selector with a bad value", "spec.nodeSelector", {"a": "x y"}, "spec.nodeSelector[a]"),
    _one("no iterations", "spec.benchmark", {"iterations": 0}, "spec.benchmark.iterations"),
    _one("an empty batch", "spec.benchmark", {"batchSize": 0}, "spec.benchmark.batchSize"),
    _one("a benchmark without a unit", "spec.benchmark", {"minDuration": "30"}, "spec.benchmark.minDuration"),
    _one("a benchmark beyond ten years", "spec.benchmark", {"minDuration": "87601h"}, "spec.benchmark.minDuration"),
    _one("no throughput", "spec.slo", {"minTokensPerSecond": 0}, "spec.slo.minTokensPerSecond"),
    _one("a secret without a name", "spec.secretRef", {}, "spec.secretRef.name"),
    _one("a cache with a bad name", "spec.modelCacheRef", "My Cache"),
    _one("a group with a bad name", "spec.gpuGroupRef", "group/one"),
    _one("an alias twice", "spec.litellm", {"aliases": ["a", "a"]}, "spec.litellm.aliases[1]"),
    _one("eleven labels", "spec.serviceLabels", [f"l{number}" for number in range(11)]),
    _one("a mode of MLC nobody knows", "spec.mlcllm", {"mode": "fast"}, "spec.mlcllm.mode"),
    _one("a policy of MLC nobody knows", "spec.mlcllm", {"jitPolicy": "on"}, "spec.mlcllm.jitPolicy"),
    _one("a chunk that is too small", "spec.mlcllm", {"overrides": {"prefillChunkSize": 63}},
         "spec.mlcllm.overrides.prefillChunkSize"),
    _one("a chunk that is too big", "spec.mlcllm", {"overrides": {"prefillChunkSize": 8193}},
         "spec.mlcllm.overrides.prefillChunkSize"),
    _one("a sequence that is too short", "spec.mlcllm", {"overrides": {"maxTotalSeqLength": 255}},
         "spec.mlcllm.overrides.maxTotalSeqLength"),
    _one("a sequence that is too long", "spec.mlcllm", {"overrides": {"maxTotalSeqLength": 131073}},
         "spec.mlcllm.overrides.maxTotalSeqLength"),
    _one("a phase nobody knows", "status", {"phase": "Ready"}, "status.phase"),
)  # fmt: skip
UNKNOWN = (
    Bad("a field of the Model", {"spec.source": "org/name"}, ("spec.source",), unknown=True),
    Bad("a mistyped field", {"spec.idleTimeout": 5}, ("spec.idleTimeout",), unknown=True),
    Bad("a mistyped field further down", {"spec.mlcllm": {"mod": "local"}}, ("spec.mlcllm.mod",), unknown=True),
)

GOOD = (
    Good("the least that there is", {}),
    Good("a backend by its alias", {"spec.backend": "llama.cpp", "spec.model": "org/name"}),
    Good("a source of the second generation", {"spec.model": "pvc://models/llama"}),
    Good("a library of Ollama's", {"spec.model": "library/llama3:8b-instruct-q4_0"}),
    Good("a GPU in the resources", {"spec.resources": {"limits": {"nvidia.com/gpu": 1, "memory": "8Gi"}}}),
    Good("more replicas than a Model may have", {"spec.replicas": 11}),
    Good("no replicas", {"spec.replicas": 0}),
    Good("no idle time", {"spec.idleTimeoutSeconds": 0}),
    Good("a null is an absent field", {"spec.backend": None, "spec.mlcllm": None}),
    Good("references", {"spec.modelCacheRef": "cache", "spec.gpuGroupRef": "group"}),
    Good("all of MLC", {"spec.backend": "mlc", "spec.model": "org/name", "spec.mlcllm": {
        "mode": "interactive", "modelLibPath": "/lib/x.so", "gpuMemoryBytes": 23068672000, "jitPolicy": "READONLY",
        "overrides": {"prefillChunkSize": 64, "maxTotalSeqLength": 131072, "contextWindowSize": 1, "raw": "a=b;c=d"},
        "compileOptions": {"useCutlass": True, "useFlashInfer": False, "useCublasGemm": True, "useCudaGraph": True},
    }}),
    Good("a status", {"status": {"phase": "Terminating", "allocatedGPU": {"node": "n", "memoryMB": 1}}}),
)  # fmt: skip
