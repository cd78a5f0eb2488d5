"""Models that must be refused: what is written, and at which paths the errors are.

One table for `admission`, for the CRD and, once there is one, for a real API server.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

ABSENT = object()


class Bad(NamedTuple):
    id: str
    edits: dict[str, Any]
    paths: tuple[str, ...]
    unknown: bool = False
    """An unknown field: an API server drops it, `validate` refuses it."""


def model(**spec: Any) -> dict[str, Any]:
    """A Model that is admitted."""
    return {
        "apiVersion": "ai.flexinfer/v1alpha2",
        "kind": "Model",
        "metadata": {"name": "demo"},
        "spec": {"backend": "llamacpp", "source": "file:///models/demo.gguf", **spec},
    }


def edited(edits: dict[str, Any]) -> dict[str, Any]:
    """The good Model with values set (or taken away, `ABSENT`) at dotted paths."""
    obj = copy.deepcopy(model())
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


def _unknown(sentence: str, path: str, value: Any) -> Bad:
    return Bad(sentence, {path: value}, (path,), unknown=True)


KIND = (
    _one("another apiVersion", "apiVersion", "inference.flexinfer.ai/v1"),
    _one("another kind", "kind", "Pod"),
    _one("no kind", "kind", ABSENT),
)

NAMES = (
    _one("no name", "metadata.name", ABSENT),
    _one("an empty name", "metadata.name", ""),
    _one("a name with capitals", "metadata.name", "Llama"),
    _one("a name with an underscore", "metadata.name", "llama_3"),
    _one("a name that begins with a dash", "metadata.name", "-llama"),
    _one("a name that ends with a dot", "metadata.name", "llama."),
    _one("a name with two dots in a row", "metadata.name", "llama-3..1"),
    _one("a name with a slash", "metadata.name", "team/llama"),
    _one("a name that climbs", "metadata.name", "../llama"),
    _one("a name with a line end behind it", "metadata.name", "llama\n"),
    _one("a name of 254 characters", "metadata.name", "a" * 254),
    _one("a name that is a number", "metadata.name", 7),
    _one("a namespace with a dot", "metadata.namespace", "team.a"),
    _one("a namespace of 64 characters", "metadata.namespace", "a" * 64),
    _one("a label value that is a boolean", "metadata.labels", {"x": True}, "metadata.labels[x]"),
    _one("a label value with a space", "metadata.labels", {"x": "a b"}, "metadata.labels[x]"),
    _one("a label key with a space", "metadata.labels", {"a b": "x"}, "metadata.labels[a b]"),
    _one("an annotation that is a number", "metadata.annotations", {"x": 1}, "metadata.annotations[x]"),
    _one("labels that are a list", "metadata.labels", ["x"]),
    _one("metadata that is text", "metadata", "demo"),
    _one("an owner that is text", "metadata.ownerReferences", ["x"]),
    _one("an owner without a uid", "metadata.ownerReferences", [{"apiVersion": "v1", "kind": "Pod", "name": "x"}]),
    _one("a generation that is text", "metadata.generation", "x"),
    _one("a finalizer that is a number", "metadata.finalizers", [1]),
)

REQUIRED = (
    _one("no spec", "spec", ABSENT),
    _one("a spec that is a list", "spec", []),
    _one("no backend", "spec.backend", ABSENT),
    _one("no source", "spec.source", ABSENT),
    _one("a source that is null", "spec.source", None),
    _one("a secretRef without a name", "spec.secretRef", {}, "spec.secretRef.name"),
    _one("a quantize without a format", "spec.quantize", {}, "spec.quantize.format"),
)

TYPES = (
    _one("a backend that nobody knows", "spec.backend", "vlm"),
    _one("a backend in capitals", "spec.backend", "VLLM"),
    _one("a backend that is empty", "spec.backend", ""),
    _one("a backend that is a list", "spec.backend", ["vllm"]),
    _one("replicas as text", "spec.replicas", "1"),
    _one("replicas with a fraction", "spec.replicas", 1.5),
    _one("replicas that are a boolean", "spec.replicas", True),
    _one("a flag as text", "spec.serverless.enabled", "yes"),
    _one("a flag as a number", "spec.serverless.enabled", 1),
    _one("a config that is a list", "spec.config", ["--privileged"]),
    _one("a config that is text", "spec.config", "--privileged"),
    _one("a gpu that is a name", "spec.gpu", "nvidia"),
    _one("service labels as one text", "spec.serviceLabels", "code,fast"),
    _one("a duration that is a number", "spec.serverless.idleTimeout", 300),
    _one("tolerations that are a map", "spec.tolerations", {"key": "x"}),
    _one("an image that is a map", "spec.image", {"name": "x"}),
)

RANGES = (
    _one("eleven replicas", "spec.replicas", 11),
    _one("replicas below zero", "spec.replicas", -1),
    _one("no GPU at all in a gpu", "spec.gpu.count", 0),
    _one("nine GPUs", "spec.gpu.count", 9),
    _one("a priority above 1000", "spec.gpu.priority", 1001),
    _one("a priority below zero", "spec.gpu.priority", -1),
    _one("memory below zero", "spec.gpu.vramEstimateMB", -1),
    _one("a vendor that nobody knows", "spec.gpu.vendor", "intel"),
    _one("eleven pinned replicas", "spec.serverless.minReplicas", 11),
    _one("at most zero replicas", "spec.serverless.maxReplicas", 0),
    Bad(
        "more pinned replicas than allowed ones",
        {"spec.serverless.minReplicas": 3, "spec.serverless.maxReplicas": 2},
        ("spec.serverless.minReplicas",),
    ),
    _one("zero requests in flight", "spec.serverless.targetInFlight", 0),
    _one("a duration without a unit", "spec.serverless.idleTimeout", "300"),
    _one("a duration below zero", "spec.serverless.idleTimeout", "-5m"),
    _one("a duration in days", "spec.serverless.idleTimeout", "1d"),
    _one("a duration that is empty", "spec.gpu.swapCooldown", ""),
    _one("a duration with a line end", "spec.serverless.idleTimeout", "5m\n"),
    _one("a duration of more than ten years", "spec.serverless.idleTimeout", "87601h"),
    _one("a duration that overflows", "spec.serverless.idleTimeout", "999999999999h"),
    _one("a cold start of no time", "spec.serverless.coldStartTimeout", "0s"),
    _one("a cold start of 0h0m", "spec.serverless.coldStartTimeout", "0h0m"),
    _one("an SLO of zero", "spec.slo.minTokensPerSecond", 0),
    _one("an SLO as text", "spec.slo.minTokensPerSecond", "20"),
    _one("a benchmark without iterations", "spec.benchmark.iterations", 0),
    _one("a benchmark of an empty batch", "spec.benchmark.batchSize", 0),
    _one("a cache size below zero", "spec.cache.size", "-1Gi"),
    _one("a cache size below zero, as a number", "spec.cache.size", -1),
    _one("a cache size with a unit of its own", "spec.cache.size", "50GB"),
    _one("a cache size with a space", "spec.cache.size", "50 Gi"),
    _one("a cache size that is a fraction", "spec.cache.size", 1.5),
    _one("a strategy that nobody knows", "spec.cache.strategy", "Ephemeral"),
    _one("33 loader threads", "spec.cache.flashLoader.concurrency", 33),
    _one("a loader buffer of 31 KB", "spec.cache.flashLoader.bufferSizeKB", 31),
    _one("a watermark above one", "spec.kvCache.highWatermark", 1.01),
    _one("a watermark as a percentage", "spec.kvCache.lowWatermark", "60%"),
    _one("a watermark that is a boolean", "spec.kvCache.lowWatermark", True),
    _one("a watermark that is a list", "spec.kvCache.lowWatermark", [0.5]),
    _one("a watermark that is a map", "spec.kvCache.highWatermark", {"value": 0.5}),
    _one("a pressure policy that nobody knows", "spec.kvCache.pressurePolicy", "Drop"),
    Bad(
        "the old and the new name with two values",
        {"spec.kvCache.hostTierGiB": 4, "spec.kvCache.swapSpace": 8},
        ("spec.kvCache.swapSpace",),
    ),
    _one("a format that nobody knows", "spec.quantize.format", "gguf"),
    Bad("a time limit below five minutes", {"spec.quantize": {"format": "AWQ", "timeoutSeconds": 299}},
        ("spec.quantize.timeoutSeconds",)),
    Bad("a calibration of one sample", {"spec.quantize": {"format": "AWQ", "calibration": {"maxSamples": 1}}},
        ("spec.quantize.calibration.maxSamples",)),
    Bad("a data set with shell characters",
        {"spec.quantize": {"format": "AWQ", "calibration": {"dataset": "x; rm -rf /"}}},
        ("spec.quantize.calibration.dataset",)),
)  # fmt: skip

TOGETHER = (
    Bad("vendor cpu with a count", {"spec.gpu": {"vendor": "cpu", "count": 1}}, ("spec.gpu.count",)),
    Bad("vendor cpu with an estimate", {"spec.gpu": {"vendor": "cpu", "vramEstimateMB": 0}},
        ("spec.gpu.vramEstimateMB",)),
    Bad("vendor cpu in a shared group", {"spec.gpu": {"vendor": "cpu", "shared": "desk"}}, ("spec.gpu.shared",)),
    Bad("vendor cpu with all three", {"spec.gpu": {"vendor": "cpu", "count": 1, "vramEstimateMB": 1, "shared": "x"}},
        ("spec.gpu.count", "spec.gpu.vramEstimateMB", "spec.gpu.shared")),
    _one("a GPU among the limits", "spec.resources.limits", {"nvidia.com/gpu": 1},
         "spec.resources.limits[nvidia.com/gpu]"),
    _one("an AMD GPU among the requests", "spec.resources.requests", {"amd.com/gpu": "1"},
         "spec.resources.requests[amd.com/gpu]"),
    _one("an Intel GPU among the limits", "spec.resources.limits", {"gpu.intel.com/i915": 1},
         "spec.resources.limits[gpu.intel.com/i915]"),
    _one("a limit below zero", "spec.resources.limits", {"cpu": "-1"}, "spec.resources.limits[cpu]"),
    _one("a limit that is not a quantity", "spec.resources.limits", {"cpu": "two"}, "spec.resources.limits[cpu]"),
    _one("a limit of a resource with a space", "spec.resources.limits", {"a b": 1}, "spec.resources.limits"),
    _one("a toleration of nothing", "spec.tolerations", [{"effect": "NoSchedule"}], "spec.tolerations[0].key"),
    _one("a toleration that exists with a value", "spec.tolerations",
         [{"key": "x", "operator": "Exists", "value": "y"}], "spec.tolerations[0].value"),
    _one("a toleration that ends without NoExecute", "spec.tolerations",
         [{"key": "x", "operator": "Exists", "tolerationSeconds": 5}], "spec.tolerations[0].effect"),
    _one("a toleration with an operator that nobody knows", "spec.tolerations",
         [{"key": "x", "operator": "In"}], "spec.tolerations[0].operator"),
    _one("eleven service labels", "spec.serviceLabels", [f"l{n}" for n in range(11)]),
    _one("a service label twice", "spec.serviceLabels", ["code", "code"], "spec.serviceLabels[1]"),
    _one("a service label with a space", "spec.serviceLabels", ["a b"], "spec.serviceLabels[0]"),
    _one("a service label that is empty", "spec.serviceLabels", [""], "spec.serviceLabels[0]"),
    _one("an alias twice", "spec.litellm.aliases", ["a", "a"], "spec.litellm.aliases[1]"),
    _one("an alias with a line end", "spec.litellm.aliases", ["a\nb"], "spec.litellm.aliases[0]"),
    _one("a shared group that is no label value", "spec.gpu.shared", "desk/one"),
    _one("a shared group of 64 characters", "spec.gpu.shared", "a" * 64),
    _one("a node selector with a bad key", "spec.nodeSelector", {"/x": "y"}, "spec.nodeSelector"),
    _one("a node selector with a prefix in capitals", "spec.nodeSelector", {"Example.com/x": "y"},
         "spec.nodeSelector"),
    _one("a node selector with a key of 64 characters", "spec.nodeSelector", {"a" * 64: "y"}, "spec.nodeSelector"),
    _one("a node selector with a bad value", "spec.nodeSelector", {"x": "-"}, "spec.nodeSelector[x]"),
    _one("a node selector with a number", "spec.nodeSelector", {"x": 1}, "spec.nodeSelector[x]"),
    _one("65 node selectors", "spec.nodeSelector", {f"k{n}": "v" for n in range(65)}),
)  # fmt: skip

SOURCES = tuple(
    _one(f"source {source[:60]!r}", "spec.source", source)
    for source in (
        "", "demo.gguf", "/models/demo.gguf", "./demo.gguf", "org/name/extra", "org/name@main", "-org/name",
        ".org/name",
        "HF:/org/name", "HF://org", "HF://org/", "HF://-org/name", "HF://org/.name", "HF://org/na me", "HF://org/name@",
        "HF://org/name@a/b", "HF://org/name?x=1", "HF://org/name#x", "HF://user:pw@org/name", "Hf://org/name",
        "HF://org/" + "n" * 97, "HF://org/$(id)", "HF://org/name;id", "HF://org/`id`", "HF://org/name\n",
        "ollama://", "ollama://registry.example/llama3", "ollama://host:5000/x/llama3", "ollama://a/b/c",
        "ollama://llama3:", "ollama://-llama3", "ollama://llama3:8b:x",
        "pvc://claim", "pvc://claim/", "pvc://Claim/x", "pvc://claim/../x", "pvc://claim/a/../../etc", "pvc://claim//x",
        "pvc://claim/a b", "pvc:///x", "pvc://team-b:claim/x", "pvc://" + "c" * 254 + "/x",
        "oci://host", "oci://host/", "oci://host/Repo", "oci://host/repo@sha256:abc", "oci://host/repo:tag@sha256:abc",
        "oci://user@host/repo", "oci://host:99999/repo", "oci://127.1/repo", "oras://host/repo",
        "file://", "file:///", "file://host/x", "file:///../x", "file:///models/../etc/passwd", "file:///models/./x",
        "file:///models//x", "file:////x", "file:///models/%2e%2e/x", "file:///models/a b", "file:///models/$HOME",
        "file:///models/a;b", "file:///models/a\x00b", "file:///models/a\u202eb", "file:///models/*", "file:///models/~",
        "file:///etc", "file:///etc/", "file:///etc/passwd", "file:///proc/self/environ", "file:///sys/x",
        "file:///dev/mem", "file:///run/secrets/x", "file:///var/run/docker.sock", "FILE:///models/x", "file:/models/x",
        "http://10.0.0.1:8000", "https://example.com", "s3://bucket/x", "gs://bucket/x", "ftp://host/x",
        "javascript:alert(1)", "a" * 2049,
    )
)  # fmt: skip

ADDRESSES = tuple(
    Bad(f"address {source[:60]!r}", {"spec.backend": "external", "spec.source": source}, ("spec.source",))
    for source in (
        "org/name", "file:///models/x", "ollama://llama3", "http://", "http://user@10.0.0.1", "http://u:p@10.0.0.1",
        "http://10.0.0.1/v1", "http://10.0.0.1:8000/", "http://10.0.0.1?x", "http://10.0.0.1#x", "http://10.0.0.1:0",
        "http://10.0.0.1:65536", "http://10.0.0.1:", "http://10.0.0", "http://127.1", "http://2130706433",
        "http://0x7f000001", "http://0177.0.0.1", "http://256.0.0.1", "http://10.0.0.1.", "http://10.0.0.1\\@evil",
        "http://::1", "http://[::1", "http://[fe80::1%25eth0]", "http://[1::2::3]", "http://[::ffff:10.0.0.256]",
        "http://exa mple", "http://exa_mple", "http://-host", "http://host..x", "http:///x", "HTTP://10.0.0.1",
        "http://10.0.0.1:8000\n", "unix:///run/x.sock", "ws://10.0.0.1",
    )
)  # fmt: skip

ELSEWHERE = (
    _one("a claim of another namespace", "spec.cache.pvcName", "team-b/models"),
    _one("a claim in capitals", "spec.cache.pvcName", "Models"),
    _one("a storage class with a slash", "spec.cache.storageClass", "a/b"),
    _one("a Secret of another namespace", "spec.secretRef.name", "team-b/token"),
    _one("a Secret that climbs", "spec.secretRef.name", "../token"),
    _one("a host folder that is relative", "spec.cache.hostPath", "models"),
    _one("a host folder that climbs", "spec.cache.hostPath", "/var/lib/../../etc"),
    _one("a host folder of the system", "spec.cache.hostPath", "/etc/kubernetes"),
    _one("the root as host folder", "spec.cache.hostPath", "/"),
    _one("a compile cache in the container socket", "spec.cache.compilationCache.hostPath", "/run/containerd"),
    _one("an image with a space", "spec.image", "evil --privileged"),
    _one("an image with a line end", "spec.image", "a\nb"),
    _one("a digest that is too short", "spec.imageDigest", "sha256:abc"),
    _one("a digest in capitals", "spec.imageDigest", "sha256:" + "A" * 64),
    _one("a digest that is empty", "spec.imageDigest", ""),
    _one("a served name with a line end", "spec.litellm.servedModelName", "a\nb"),
    _one("a served name with a quote", "spec.litellm.servedModelName", 'a"b'),
)

UNKNOWN = (
    _unknown("a pod's hostNetwork", "spec.hostNetwork", True),
    _unknown("a pod's securityContext", "spec.securityContext", {"privileged": True}),
    _unknown("a pod's service account", "spec.serviceAccountName", "admin"),
    _unknown("a pod's volumes", "spec.volumes", [{"hostPath": {"path": "/"}}]),
    _unknown("a pod's containers", "spec.template", {"spec": {}}),
    _unknown("an env beside the config", "spec.env", {"LD_PRELOAD": "/x.so"}),
    _unknown("a mistyped gpu field", "spec.gpu.cout", 1),
    _unknown("a gpu field in small letters", "spec.gpu.vramEstimateMb", 1),
    _unknown("a Secret's namespace", "spec.secretRef", {"name": "token", "namespace": "team-b"})._replace(
        paths=("spec.secretRef.namespace",)
    ),
    _unknown("a toleration's field", "spec.tolerations", [{"key": "x", "vallue": "y"}])._replace(
        paths=("spec.tolerations[0].vallue",)
    ),
    _unknown("a field beside the spec", "data", {"x": 1}),
    _unknown("a field in metadata", "metadata.ownerreferences", []),
)

ROWS: tuple[Bad, ...] = (
    *KIND, *NAMES, *REQUIRED, *TYPES, *RANGES, *TOGETHER, *SOURCES, *ADDRESSES, *ELSEWHERE, *UNKNOWN,
)  # fmt: skip
