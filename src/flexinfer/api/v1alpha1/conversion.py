"""ModelDeployment -> Model: what each field of the first generation becomes, and what has no equal.

The first generation asked for GPUs in `resources` as a pod does; who asks for none there leaves the
choice to the system, so `gpu.vendor` is auto. A model's name is written as its backend knows it:
`llama3:8b` with Ollama, `org/name` elsewhere, or a source as Model has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import msgspec

from flexinfer.api import sourcegrammar, wellknown
from flexinfer.api.meta import ObjectMeta
from flexinfer.api.quantity import Duration, Quantity
from flexinfer.api.v1alpha1.modeldeployment import MLCLLM, ModelDeployment, ModelDeploymentSpec
from flexinfer.api.v1alpha2.model import GPU, Model, ModelSpec, ResourceRequirements, Serverless, Vendor
from flexinfer.errors import InvalidField

LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"
MAX_REPLICAS: Final = 10
MAX_GPUS: Final = 8

_VENDOR_OF: Final[Mapping[str, Vendor]] = MappingProxyType({"nvidia.com/gpu": "nvidia", "amd.com/gpu": "amd"})


_MLC_KEYS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "max_num_sequence": "maxNumSequence",
        "max_total_seq_length": "maxTotalSeqLength",
        "prefill_chunk_size": "prefillChunkSize",
        "context_window_size": "contextWindowSize",
        "sliding_window_size": "slidingWindowSize",
        "attention_sink_size": "attentionSinkSize",
    }
)
"""MLC's own names of what `overrides.raw` may hold -> keys of a Model's config; all are whole numbers."""


class Conversion(msgspec.Struct, frozen=True, kw_only=True):
    model: Model
    """As far as it can be made; not to be used where something is `wrong`."""
    not_yet: tuple[str, ...] = ()
    """Fields that do not act yet."""
    ignored: Mapping[str, str] = {}
    """Fields that a Model has no place for -> why."""
    wrong: tuple[InvalidField, ...] = ()
    """Values that no Model can have."""


def convert(deployment: ModelDeployment, default_image: str = "") -> Conversion:
    """`default_image` is the installation's image for those that name no backend; empty: the one we know."""
    spec = deployment.spec
    backend = spec.backend or "ollama"
    wrong: list[InvalidField] = []
    ignored: dict[str, str] = {}
    converted = ModelSpec(
        backend=backend,
        source=_source(spec, backend, wrong),
        replicas=_replicas("spec.replicas", spec.replicas, wrong),
        gpu=None if backend == "external" else _gpu(spec, wrong),
        serverless=_serverless(spec, wrong),
        slo=spec.slo,
        benchmark=spec.benchmark,
        secret_ref=spec.secret_ref,
        config=_config(spec.mlcllm, backend, ignored),
        resources=_resources(spec),
        node_selector=spec.node_selector,
        litellm=spec.litellm,
        service_labels=spec.service_labels,
        image="" if spec.backend else default_image,
    )
    references = {"modelCacheRef": spec.model_cache_ref, "gpuGroupRef": spec.gpu_group_ref}
    return Conversion(
        model=Model(metadata=_metadata(deployment.metadata), spec=converted),
        not_yet=tuple(f"spec.{name}" for name, value in references.items() if value),
        ignored=ignored,
        wrong=tuple(wrong),
    )


def _metadata(meta: ObjectMeta) -> ObjectMeta:
    annotations = {name: value for name, value in meta.annotations.items() if name != LAST_APPLIED}
    return ObjectMeta(name=meta.name, namespace=meta.namespace, labels=meta.labels, annotations=annotations)


def _source(spec: ModelDeploymentSpec, backend: str, wrong: list[InvalidField]) -> str:
    if "://" in spec.model or backend == "external":
        address = spec.model.startswith(("http://", "https://"))
        if address != (backend == "external"):
            expected = "http(s)://host:port with backend external, and only there"
            wrong.append(InvalidField("spec.model", spec.model, expected))
        return spec.model
    if wellknown.backend_name(backend) == "ollama":
        found, expected = f"ollama://{spec.model}", "a name as Ollama has it, such as llama3:8b or namespace/name:tag"
    else:
        found, expected = spec.model, f"org/name, or a source, with backend {backend}"
    if not sourcegrammar.matches(found):
        wrong.append(InvalidField("spec.model", spec.model, expected))
    return found


def _replicas(path: str, number: int, wrong: list[InvalidField]) -> int:
    if number > MAX_REPLICAS:
        wrong.append(InvalidField(path, number, f"at most {MAX_REPLICAS}"))
    return min(number, MAX_REPLICAS)


def _serverless(spec: ModelDeploymentSpec, wrong: list[InvalidField]) -> Serverless:
    found = Serverless(
        min_replicas=_replicas("spec.minReplicas", spec.min_replicas, wrong),
        idle_timeout=Duration(f"{spec.idle_timeout_seconds}s"),
    )
    if spec.cold_start_timeout_seconds is not None:
        found.cold_start_timeout = Duration(f"{spec.cold_start_timeout_seconds}s")
    return found


def _asked(spec: ModelDeploymentSpec) -> dict[str, Quantity]:
    """GPUs by resource name; a limit counts before a request, as for pods."""
    both = {**spec.resources.requests, **spec.resources.limits}
    return {name: both[name] for name in wellknown.GPU_RESOURCES if name in both}


def _gpu(spec: ModelDeploymentSpec, wrong: list[InvalidField]) -> GPU:
    asked = _asked(spec)
    if not asked:
        return GPU()
    counts: dict[str, int] = {}
    for name, amount in asked.items():
        path, value = f"spec.resources[{name}]", amount.value
        if value != value.to_integral_value() or value > MAX_GPUS:
            wrong.append(InvalidField(path, str(amount), f"a whole number of GPUs, at most {MAX_GPUS}"))
        elif value and name not in _VENDOR_OF:
            wrong.append(InvalidField(path, str(amount), f"one of {', '.join(_VENDOR_OF)}"))
        elif value:
            counts[name] = int(value)
    if len(counts) > 1:
        wrong.append(InvalidField("spec.resources", ", ".join(counts), "GPUs of one vendor"))
    for name, count in counts.items():
        return GPU(vendor=_VENDOR_OF[name], count=count)
    return GPU(vendor="cpu")


def _resources(spec: ModelDeploymentSpec) -> ResourceRequirements:
    limits, requests = (
        {name: amount for name, amount in amounts.items() if name not in wellknown.GPU_RESOURCES}
        for amounts in (spec.resources.limits, spec.resources.requests)
    )
    return ResourceRequirements(limits=limits, requests=requests)


def _config(mlc: MLCLLM | None, backend: str, ignored: dict[str, str]) -> dict[str, Any]:
    if mlc is None:
        return {}
    if wellknown.backend_name(backend) != "mlc-llm":
        ignored["spec.mlcllm"] = f"these are settings of mlc-llm, the backend is {backend}"
        return {}
    if mlc.compile_options is not None:
        ignored["spec.mlcllm.compileOptions"] = "they are chosen when the model's library is compiled, not by a server"
    overrides = mlc.overrides
    found: dict[str, Any] = {
        "mode": mlc.mode,
        "modelLibPath": mlc.model_lib_path or None,
        "gpuMemoryBytes": mlc.gpu_memory_bytes or None,
        "jitPolicy": mlc.jit_policy,
    }
    if overrides is not None:
        found |= {
            "prefillChunkSize": overrides.prefill_chunk_size,
            "maxTotalSeqLength": overrides.max_total_seq_length,
            "contextWindowSize": overrides.context_window_size,
        } | _raw(overrides.raw, ignored)
    return {name: value for name, value in found.items() if value is not None}


def _raw(text: str, ignored: dict[str, str]) -> dict[str, int]:
    """`key=value;key=value`; what a Model has no key for is left out."""
    found: dict[str, int] = {}
    lost: list[str] = []
    for part in filter(None, (part.strip() for part in text.split(";"))):
        name, _, value = part.partition("=")
        key, digits = _MLC_KEYS.get(name.strip()), value.strip()
        if key is None or not digits.removeprefix("-").isdecimal():
            lost.append(part)
        else:
            found[key] = int(digits)
    if lost:
        ignored["spec.mlcllm.overrides.raw"] = f"a Model has no key for {', '.join(lost)}"
    return found
