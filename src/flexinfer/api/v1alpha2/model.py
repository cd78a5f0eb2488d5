"""Model (`ai.flexinfer/v1alpha2`, short name `mdl`): one served model.

Every field is declared here once, with its bounds. From these types come decoding, the CRD schema
and its rules. None means "not written by the user"; defaults that depend on other fields are
resolved on reading by `api.defaults`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from flexinfer.api.meta import Condition, ObjectKey, ObjectMeta, Struct
from flexinfer.api.quantity import Duration, Quantity
from flexinfer.api.v1alpha2.quantization import QuantizationSpec, QuantizationStatus

API_VERSION = "ai.flexinfer/v1alpha2"
KIND = "Model"

Phase = Literal["Idle", "Pending", "Loading", "Ready", "Preempted", "Failed"]
Tier = Literal["hot", "sleeping", "cached", "cold"]
Vendor = Literal["auto", "nvidia", "amd", "cpu"]
CacheStrategy = Literal["Memory", "SharedPVC", "Local", "None"]
PressurePolicy = Literal["Observe", "Reconfigure", "Evict"]


class GPU(Struct, kw_only=True):
    vendor: Vendor = "auto"
    shared: str = ""
    priority: Annotated[int, Meta(ge=0, le=1000)] = 100
    count: Annotated[int, Meta(ge=1, le=8)] | None = None
    vram_estimate_mb: Annotated[int, Meta(ge=0)] | None = msgspec.field(name="vramEstimateMB", default=None)
    swap_cooldown: Duration = Duration("5m")
    force_promotion: bool = False


class Serverless(Struct, kw_only=True):
    enabled: bool = True
    min_replicas: Annotated[int, Meta(ge=0, le=10)] = 0
    max_replicas: Annotated[int, Meta(ge=1, le=100)] | None = None
    target_in_flight: Annotated[int, Meta(ge=1)] = 8
    idle_timeout: Duration | None = None
    cold_start_timeout: Duration = Duration("60s")


class SLO(Struct, kw_only=True):
    min_tokens_per_second: Annotated[float, Meta(gt=0)] | None = None


class Benchmark(Struct, kw_only=True):
    enabled: bool = True
    warmup_iterations: Annotated[int, Meta(ge=0)] = 2
    min_duration: Duration = Duration("30s")
    iterations: Annotated[int, Meta(ge=1)] = 5
    batch_size: Annotated[int, Meta(ge=1)] = 128


class CompilationCache(Struct, kw_only=True):
    enabled: bool | None = None
    host_path: str = ""
    size_limit: Quantity = Quantity("2Gi")


class FlashLoader(Struct, kw_only=True):
    enabled: bool | None = None
    concurrency: Annotated[int, Meta(ge=1, le=32)] = 4
    tmpfs_size_limit: Quantity | None = None
    buffer_size_kb: Annotated[int, Meta(ge=32, le=16384)] = msgspec.field(name="bufferSizeKB", default=4096)
    verify_integrity: bool = False
    image: str = ""


class Cache(Struct, kw_only=True):
    strategy: CacheStrategy | None = None
    pvc_name: str = msgspec.field(name="pvcName", default="")
    storage_class: str = ""
    size: Quantity = Quantity("50Gi")
    retain: bool = False
    host_path: str = "/var/lib/flexinfer/models"
    compilation_cache: CompilationCache = msgspec.field(default_factory=CompilationCache)
    flash_loader: FlashLoader = msgspec.field(default_factory=FlashLoader)


class SecretRef(Struct, kw_only=True):
    name: str


class ResourceRequirements(Struct, kw_only=True):
    limits: dict[str, Quantity] = {}
    requests: dict[str, Quantity] = {}


class Toleration(Struct, kw_only=True):
    key: str = ""
    operator: Literal["", "Exists", "Equal"] = ""
    value: str = ""
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = ""
    toleration_seconds: int | None = None


class LiteLLM(Struct, kw_only=True):
    enabled: bool = True
    served_model_name: str = ""
    aliases: list[str] = []
    copilot_alias: str = ""


class KVCache(Struct, kw_only=True):
    pressure_policy: PressurePolicy = "Observe"
    high_watermark: float | str = 0.85
    low_watermark: float | str = 0.60
    max_block_size: Annotated[int, Meta(ge=1)] | None = None
    host_tier_gib: Annotated[int, Meta(ge=0)] | None = msgspec.field(name="hostTierGiB", default=None)
    swap_space: Annotated[int, Meta(ge=0)] | None = None
    reconfigure_cooldown: Duration = Duration("5m")


class Capabilities(Struct, kw_only=True):
    tool_calling: bool | None = None
    vision: bool | None = None
    image_generation: bool | None = None


class ModelSpec(Struct, kw_only=True):
    backend: str
    source: str
    replicas: Annotated[int, Meta(ge=0, le=10)] = 1
    gpu: GPU | None = None
    serverless: Serverless = msgspec.field(default_factory=Serverless)
    slo: SLO | None = None
    benchmark: Benchmark = msgspec.field(default_factory=Benchmark)
    cache: Cache = msgspec.field(default_factory=Cache)
    secret_ref: SecretRef | None = None
    config: dict[str, Any] = {}
    resources: ResourceRequirements = msgspec.field(default_factory=ResourceRequirements)
    node_selector: dict[str, str] = {}
    tolerations: list[Toleration] = []
    litellm: LiteLLM | None = None
    service_labels: list[str] = []
    kv_cache: KVCache = msgspec.field(default_factory=KVCache)
    capabilities: Capabilities = msgspec.field(default_factory=Capabilities)
    quantize: QuantizationSpec | None = None
    image: str = ""
    image_digest: str = ""


class AllocatedGPU(Struct, kw_only=True):
    node: str = ""
    device: str = ""
    vendor: str = ""
    architecture: str = ""
    memory_mb: int = msgspec.field(name="memoryMB", default=0)


class Metrics(Struct, kw_only=True):
    """Numbers as text, so that `kubectl get` prints them as they are."""

    tokens_per_second: str = ""
    load_time_seconds: str = ""
    avg_latency_ms: str = ""


class SharedGroupStatus(Struct, kw_only=True):
    group_name: str = ""
    state: Literal["", "Active", "Queued", "Preempted"] = ""
    queue_position: int = 0
    preempted_by: str = ""
    preempted_at: datetime | None = None


class CacheStatus(Struct, kw_only=True):
    strategy: str = ""
    ready: bool = False
    pvc_name: str = msgspec.field(name="pvcName", default="")
    job_name: str = ""
    job_phase: Literal["", "Pending", "Running", "Succeeded", "Failed"] = ""
    message: str = ""
    size_bytes: int = 0
    quantization: QuantizationStatus | None = None


class KVCacheStatus(Struct, kw_only=True):
    utilization: str = ""
    pressure: str = ""
    last_pressure_time: datetime | None = None
    last_action: str = ""
    reconfigured: bool = False
    reconfigured_at: datetime | None = None
    original_max_num_seqs: int = 0
    reconfigured_max_num_seqs: int = 0
    evicted: bool = False
    evicted_at: datetime | None = None


class ModelStatus(Struct, kw_only=True):
    phase: Phase | None = None
    tier: Tier | None = None
    conditions: list[Condition] = []
    observed_generation: int = 0
    replicas: int = 0
    selector: str = ""
    gpu: AllocatedGPU | None = None
    endpoint: str = ""
    last_active_time: datetime | None = None
    """Written by the proxy and by nobody else."""
    metrics: Metrics | None = None
    shared_group: SharedGroupStatus | None = None
    cache: CacheStatus | None = None
    kv_cache: KVCacheStatus | None = None
    loading_substage: str = ""
    loading_progress: float | None = None
    """Share of the load that is done, 0 to 1, where the engine or the download tells it."""
    loading_progress_at: datetime | None = None
    loading_started_at: datetime | None = None
    message: str = ""
    backend: str = ""
    """The runtime that was resolved: a backend's name, without aliases."""


class Model(Struct, kw_only=True):
    api_version: str = API_VERSION
    kind: str = KIND
    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)
    spec: ModelSpec
    status: ModelStatus = msgspec.field(default_factory=ModelStatus)

    @property
    def key(self) -> ObjectKey:
        return ObjectKey(self.metadata.namespace or "default", self.metadata.name)

    def condition(self, kind: str) -> Condition | None:
        return next((condition for condition in self.status.conditions if condition.type == kind), None)
