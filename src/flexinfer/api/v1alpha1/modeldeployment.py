"""ModelDeployment (`ai.flexinfer/v1alpha1`): one served model in the words of the first generation.

It is kept by making and owning a Model; `api.v1alpha1.conversion` says what each field becomes.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from flexinfer.api import bounds, sourcegrammar, wellknown
from flexinfer.api.meta import Condition, ObjectKey, ObjectMeta, Struct
from flexinfer.api.quantity import MAX_DURATION_H, Quantity
from flexinfer.api.v1alpha2.model import SLO, Benchmark, LiteLLM, SecretRef

API_VERSION = "ai.flexinfer/v1alpha1"
KIND = "ModelDeployment"

Phase = Literal["Pending", "Running", "Failed", "Terminating"]

_LONGEST_S = MAX_DURATION_H * 3600
_OLLAMA_PATTERN = sourcegrammar.FORMS["ollama"].pattern.removeprefix("ollama://")
"""The name of a model as Ollama's users write it, without a scheme."""


def _model_expected(text: str) -> str:
    if "://" not in text and "/" not in text:
        return "a model such as llama3:8b (backend ollama), org/name, or a source such as pvc://claim/path"
    return sourcegrammar.expected(text)


class ResourceRequirements(Struct, kw_only=True):
    """GPUs are asked for here, as in a pod."""

    limits: Annotated[dict[str, Quantity], bounds.entries(rules=(bounds.QUALIFIED_KEYS,))] = {}
    requests: Annotated[dict[str, Quantity], bounds.entries(rules=(bounds.QUALIFIED_KEYS,))] = {}


class MLCOverrides(Struct, kw_only=True):
    prefill_chunk_size: Annotated[int, Meta(ge=64, le=8192)] = 512
    max_total_seq_length: Annotated[int, Meta(ge=256, le=131072)] = 16384
    context_window_size: Annotated[int, Meta(ge=1)] | None = None
    raw: Annotated[str, bounds.text(about="Further overrides as MLC writes them: key=value;key=value.")] = ""


class MLCCompileOptions(Struct, kw_only=True):
    use_cutlass: bool | None = None
    use_flash_infer: bool | None = None
    use_cublas_gemm: bool | None = None
    use_cuda_graph: bool | None = None


class MLCLLM(Struct, kw_only=True):
    mode: Literal["local", "server", "interactive"] | None = None
    model_lib_path: str = ""
    gpu_memory_bytes: Annotated[int, Meta(ge=0)] | None = None
    jit_policy: Literal["ON", "OFF", "REDO", "READONLY"] | None = None
    overrides: MLCOverrides | None = None
    compile_options: MLCCompileOptions | None = None


class ModelDeploymentSpec(Struct, kw_only=True):
    backend: (
        Annotated[
            str,
            bounds.choice(
                wellknown.BACKEND_NAMES,
                shown=wellknown.BACKENDS,
                about="The engine, by name or alias. If absent: Ollama, in the image DEFAULT_BACKEND_IMAGE.",
            ),
        ]
        | None
    ) = None
    model: Annotated[
        str,
        bounds.text(
            f"{_OLLAMA_PATTERN}|{sourcegrammar.PATTERN}",
            _model_expected,
            longest=sourcegrammar.MAX_LENGTH,
            rules=sourcegrammar.RULES,
            about="A model as the backend names it (llama3:8b, org/name), or a source as Model has it.",
        ),
    ]
    replicas: Annotated[int, Meta(ge=0, description="Replicas while awake; a Model has at most 10.")] = 1
    min_replicas: Annotated[int, Meta(ge=0, description="1 or more keeps the model warm.")] = 0
    idle_timeout_seconds: Annotated[
        int, Meta(ge=0, le=_LONGEST_S, description="Time without a request until it sleeps.")
    ] = 300
    cold_start_timeout_seconds: (
        Annotated[int, Meta(ge=1, le=_LONGEST_S, description="How long a request waits for a model that is waking up.")]
        | None
    ) = None
    resources: ResourceRequirements = msgspec.field(default_factory=ResourceRequirements)
    node_selector: Annotated[
        dict[str, Annotated[str, bounds.LABEL_VALUE]], bounds.entries(rules=(bounds.QUALIFIED_KEYS,))
    ] = {}
    benchmark: Benchmark = msgspec.field(default_factory=Benchmark)
    slo: SLO | None = None
    secret_ref: Annotated[SecretRef, bounds.about("Token for gated downloads.")] | None = None
    model_cache_ref: Annotated[str, bounds.OPTIONAL_OBJECT_NAME] = ""
    gpu_group_ref: Annotated[str, bounds.OPTIONAL_OBJECT_NAME] = ""
    litellm: LiteLLM | None = None
    service_labels: Annotated[list[Annotated[str, bounds.LABEL]], bounds.items(10, unique=True)] = []
    mlcllm: Annotated[MLCLLM, bounds.about("Settings of backend mlc-llm, and of no other.")] | None = None


class AllocatedGPU(Struct, kw_only=True):
    node: str = ""
    device: str = ""
    type: str = ""
    memory_mb: int = msgspec.field(name="memoryMB", default=0)


class Endpoints(Struct, kw_only=True):
    internal: str = ""
    external: str = ""


class Metrics(Struct, kw_only=True):
    """Numbers as text, so that `kubectl get` prints them as they are."""

    tokens_per_second: str = ""
    avg_model_load_time: str = ""
    avg_latency_ms: str = ""
    error_rate: str = ""


class ModelDeploymentStatus(Struct, kw_only=True):
    phase: Phase | None = None
    conditions: Annotated[list[Condition], bounds.items(keys=("type",))] = []
    observed_generation: int = 0
    replicas: int = 0
    selector: str = ""
    allocated_gpu: AllocatedGPU | None = msgspec.field(name="allocatedGPU", default=None)
    endpoints: Endpoints | None = None
    last_access_time: datetime | None = None
    metrics: Metrics | None = None
    tokens_per_second: str = ""


class ModelDeployment(Struct, kw_only=True):
    api_version: str = API_VERSION
    kind: str = KIND
    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)
    spec: ModelDeploymentSpec
    status: ModelDeploymentStatus = msgspec.field(default_factory=ModelDeploymentStatus)

    @property
    def key(self) -> ObjectKey:
        return ObjectKey(self.metadata.namespace or "default", self.metadata.name)

    def condition(self, kind: str) -> Condition | None:
        return next((condition for condition in self.status.conditions if condition.type == kind), None)
