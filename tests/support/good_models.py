"""Model objects that are admitted, as changes of the one that `bad_models` changes too."""

from __future__ import annotations

from typing import Any, NamedTuple


class Good(NamedTuple):
    id: str
    edits: dict[str, Any]


ROWS = [
    Good("the least that there is", {}),
    Good("a name of 253 characters", {"metadata.name": "a" * 253}),
    Good("a claim of 253 characters", {"spec.source": "pvc://" + "c" * 253 + "/x"}),
    Good("a name with dots that begins with a digit", {"metadata.name": "3b.llama-3.1"}),
    Good("any GPU", {"spec.gpu": {}}),
    Good("vendor cpu alone", {"spec.gpu": {"vendor": "cpu"}}),
    Good("vendor cpu and no group", {"spec.gpu": {"vendor": "cpu", "shared": ""}}),
    Good("a shared GPU", {"spec.gpu": {"shared": "desk", "priority": 0, "count": 8}}),
    Good("a null is an absent field", {"spec.gpu": None}),
    Good("a rule does not see a null", {"spec.serverless": {"minReplicas": 1, "maxReplicas": None}}),
    Good("a whole number written with a point", {"spec.replicas": 2.0}),
    Good("durations", {"spec.serverless": {"coldStartTimeout": "1h30m", "idleTimeout": "0s"}}),
    Good("ten years", {"spec.serverless.idleTimeout": "87600h"}),
    Good("quantities of both types", {"spec.resources": {"limits": {"cpu": 2, "memory": "8Gi"}}}),
    Good("a resource that is no GPU", {"spec.resources.limits": {"example.com/fpga": "1"}}),
    Good("watermarks of both types", {"spec.kvCache": {"highWatermark": 0.9, "lowWatermark": "0.5"}}),
    Good("watermarks at their bounds", {"spec.kvCache": {"highWatermark": 1, "lowWatermark": 0}}),
    Good("both names of the host tier, agreeing", {"spec.kvCache": {"hostTierGiB": 4, "swapSpace": 4}}),
    Good("any config", {"spec.config": {"a": {"b": [1, None, {"c": True}]}, "x y": 1}}),
    Good("a toleration of everything", {"spec.tolerations": [{"operator": "Exists"}]}),
    Good("a claim and a cache", {"spec.source": "pvc://models/llama", "spec.cache": {"strategy": "Memory"}}),
    Good("node selectors", {"spec.nodeSelector": {"kubernetes.io/arch": "amd64", "x": ""}}),
    Good("a digest without its algorithm", {"spec.imageDigest": "a" * 64}),
    Good("aliases with a slash", {"spec.litellm": {"aliases": ["gpt-4o", "openai/gpt"]}}),
    Good("a name that will be made", {"metadata.generateName": "demo-"}),
    Good("a status", {"status": {"phase": "Ready", "conditions": []}}),
]
