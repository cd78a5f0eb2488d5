"""Model (`ai.flexinfer/v1alpha2`, short name `mdl`): one served model.

Every field is declared here once, with its bounds. From these types come decoding, the CRD schema
and its rules. None means "not written by the user"; defaults that depend on other fields are
resolved on reading by `api.defaults`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from flexinfer.api import bounds, sourcegrammar, wellknown
from flexinfer.api.bounds import Choice, Rule
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

_CPU_ONLY = "!has(self.vendor) || self.vendor != 'cpu' || "
_HOST_PATH = bounds.text(
    f"({sourcegrammar.ABSOLUTE_PATH}/?)?",
    "an absolute path without '..', spaces or shell characters",
    rules=(sourcegrammar.PATH_NOT_BELOW_SYSTEM,),
    about="A folder of the node; only where the installation allows it.",
)


class GPU(Struct, kw_only=True):
    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(_CPU_ONLY + "!has(self.count)", "no count with vendor cpu", "count"),
        Rule(_CPU_ONLY + "!has(self.vramEstimateMB)", "no vramEstimateMB with vendor cpu", "vramEstimateMB"),
        Rule(_CPU_ONLY + "!has(self.shared) || self.shared == ''", "no shared group with vendor cpu", "shared"),
    )
    vendor: Annotated[
        Vendor, bounds.about("auto takes what is there; nvidia and amd never fall back; cpu asks for no device.")
    ] = "auto"
    shared: Annotated[str, bounds.LABEL_VALUE] = ""
    """Models of one namespace with the same group compete for one GPU."""
    priority: Annotated[int, Meta(ge=0, le=1000, description="The higher one wins the shared GPU.")] = 100
    count: (
        Annotated[int, Meta(ge=1, le=8, description="GPUs of one replica; 1 if absent, none with vendor cpu.")] | None
    ) = None
    vram_estimate_mb: (
        Annotated[int, Meta(ge=0, description="Memory that the model needs on the device, for placement.")] | None
    ) = msgspec.field(name="vramEstimateMB", default=None)
    swap_cooldown: Annotated[Duration, bounds.about("Least time between two changes of the shared GPU.")] = Duration(
        "5m"
    )
    force_promotion: Annotated[bool, bounds.about("Wins the shared GPU at once.")] = False


class Serverless(Struct, kw_only=True):
    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.minReplicas) || !has(self.maxReplicas) || self.minReplicas <= self.maxReplicas",
            "no more than maxReplicas",
            "minReplicas",
        ),
    )
    enabled: Annotated[bool, bounds.about("Scale to zero when idle.")] = True
    min_replicas: Annotated[int, Meta(ge=0, le=10, description="1 or more keeps the model warm.")] = 0
    max_replicas: (
        Annotated[int, Meta(ge=1, le=100, description="Bound of kubectl scale, HPA, KEDA and our own scaler.")] | None
    ) = None
    target_in_flight: Annotated[
        int, Meta(ge=1, le=100_000, description="Requests in flight per replica that our scaler aims at.")
    ] = 8
    idle_timeout: (
        Annotated[
            Duration, bounds.about("Time without a request until it sleeps; 5m if absent, 10m for image backends.")
        ]
        | None
    ) = None
    cold_start_timeout: Annotated[
        Duration,
        bounds.ruled(
            Rule("duration(self) > duration('0s')", "a duration above zero"),
            about="How long a request waits for a model that is waking up.",
        ),
    ] = Duration("60s")


class SLO(Struct, kw_only=True):
    min_tokens_per_second: Annotated[float, Meta(gt=0, description="Tokens per second of a single stream.")] | None = (
        None
    )


class Benchmark(Struct, kw_only=True):
    enabled: bool = True
    warmup_iterations: Annotated[int, Meta(ge=0, le=1000)] = 2
    min_duration: Annotated[Duration, bounds.about("The benchmark ends after this time or the iterations.")] = Duration(
        "30s"
    )
    iterations: Annotated[int, Meta(ge=1, le=1000)] = 5
    batch_size: Annotated[int, Meta(ge=1, le=65536, description="Tokens per iteration.")] = 128


class CompilationCache(Struct, kw_only=True):
    enabled: Annotated[bool, bounds.about("If absent: true for a shared AMD GPU.")] | None = None
    host_path: Annotated[str, _HOST_PATH] = ""
    size_limit: Quantity = Quantity("2Gi")


class FlashLoader(Struct, kw_only=True):
    enabled: bool | None = None
    concurrency: Annotated[int, Meta(ge=1, le=32)] = 4
    tmpfs_size_limit: Quantity | None = None
    buffer_size_kb: Annotated[int, Meta(ge=32, le=16384)] = msgspec.field(name="bufferSizeKB", default=4096)
    verify_integrity: bool = False
    image: Annotated[str, bounds.IMAGE_REFERENCE] = ""


class Cache(Struct, kw_only=True):
    strategy: (
        Annotated[CacheStrategy, bounds.about("If absent: Memory for a shared GPU, otherwise SharedPVC.")] | None
    ) = None
    pvc_name: Annotated[str, bounds.OPTIONAL_OBJECT_NAME] = msgspec.field(name="pvcName", default="")
    storage_class: Annotated[str, bounds.OPTIONAL_OBJECT_NAME] = ""
    size: Quantity = Quantity("50Gi")
    retain: Annotated[bool, bounds.about("The claim outlives its Model.")] = False
    host_path: Annotated[str, _HOST_PATH] = "/var/lib/flexinfer/models"
    compilation_cache: CompilationCache = msgspec.field(default_factory=CompilationCache)
    flash_loader: FlashLoader = msgspec.field(default_factory=FlashLoader)


class SecretRef(Struct, kw_only=True):
    name: Annotated[str, bounds.OBJECT_NAME]
    """A Secret of the Model's own namespace with key HF_TOKEN or token."""


_RESOURCES = bounds.entries(
    rules=(
        bounds.QUALIFIED_KEYS,
        *(
            Rule(f"!('{name}' in self)", f"no {name}: ask for GPUs in spec.gpu", f"[{name}]")
            for name in wellknown.GPU_RESOURCES
        ),
    )
)


class ResourceRequirements(Struct, kw_only=True):
    limits: Annotated[dict[str, Quantity], _RESOURCES] = {}
    requests: Annotated[dict[str, Quantity], _RESOURCES] = {}


class Toleration(Struct, kw_only=True):
    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "(has(self.key) && self.key != '') || (has(self.operator) && self.operator == 'Exists')",
            "a key, or operator Exists",
            "key",
        ),
        Rule(
            "!has(self.operator) || self.operator != 'Exists' || !has(self.value) || self.value == ''",
            "no value with operator Exists",
            "value",
        ),
        Rule(
            "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
            "effect NoExecute with tolerationSeconds",
            "effect",
        ),
    )
    key: Annotated[
        str,
        bounds.optional_text(
            bounds.QUALIFIED_NAME, "a key such as example.com/name", longest=bounds.MAX_QUALIFIED_NAME
        ),
    ] = ""
    operator: Literal["", "Exists", "Equal"] = ""
    value: Annotated[str, bounds.LABEL_VALUE] = ""
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = ""
    toleration_seconds: int | None = None


class LiteLLM(Struct, kw_only=True):
    enabled: bool = True
    served_model_name: Annotated[str, bounds.OPTIONAL_CLIENT_NAME] = ""
    aliases: Annotated[list[Annotated[str, bounds.CLIENT_NAME]], bounds.items(unique=True)] = []
    copilot_alias: Annotated[str, bounds.OPTIONAL_CLIENT_NAME] = ""


class KVCache(Struct, kw_only=True):
    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.swapSpace) || !has(self.hostTierGiB) || self.swapSpace == self.hostTierGiB",
            "hostTierGiB alone: swapSpace is its old name",
            "swapSpace",
        ),
    )
    pressure_policy: PressurePolicy = "Observe"
    high_watermark: float | str = 0.85
    low_watermark: float | str = 0.60
    max_block_size: Annotated[int, Meta(ge=1, le=65536)] | None = None
    host_tier_gib: (
        Annotated[int, Meta(ge=0, le=65536, description="Host memory for evicted KV blocks, where the engine can.")]
        | None
    ) = msgspec.field(name="hostTierGiB", default=None)
    swap_space: Annotated[int, Meta(ge=0, le=65536, description="Old name of hostTierGiB.")] | None = None
    reconfigure_cooldown: Duration = Duration("5m")


class Capabilities(Struct, kw_only=True):
    """What is absent follows from the backend and its config."""

    tool_calling: bool | None = None
    vision: bool | None = None
    image_generation: bool | None = None


_ADDRESS = {"pattern": "^https?://"}
_EXTERNAL = {"enum": ["external"]}


class ModelSpec(Struct, kw_only=True):
    CHOICES: ClassVar[tuple[Choice, ...]] = (
        # Beside `config` a CEL rule would cost as much as config is big.
        Choice(
            (
                {"properties": {"backend": _EXTERNAL, "source": _ADDRESS}},
                {"properties": {"backend": {"not": _EXTERNAL}, "source": {"not": _ADDRESS}}},
            ),
            "source",
            "http(s)://host:port with backend external, and only there",
        ),
    )
    backend: Annotated[
        str,
        bounds.choice(wellknown.BACKEND_NAMES, shown=wellknown.BACKENDS, about="The engine, by name or alias."),
    ]
    source: Annotated[
        str,
        bounds.text(
            sourcegrammar.PATTERN,
            sourcegrammar.expected,
            longest=sourcegrammar.MAX_LENGTH,
            rules=sourcegrammar.RULES,
            about="Where the model's bytes are.",
        ),
    ]
    replicas: Annotated[int, Meta(ge=0, le=10, description="Replicas while awake.")] = 1
    gpu: Annotated[GPU, bounds.about("If absent the model runs on CPU.")] | None = None
    serverless: Serverless = msgspec.field(default_factory=Serverless)
    slo: SLO | None = None
    benchmark: Benchmark = msgspec.field(default_factory=Benchmark)
    cache: Cache = msgspec.field(default_factory=Cache)
    secret_ref: Annotated[SecretRef, bounds.about("Token for gated downloads.")] | None = None
    config: Annotated[
        dict[str, Any], bounds.entries(bounds.MAX_CONFIG_KEYS, about="Settings of the backend, passed on to it.")
    ] = {}
    resources: ResourceRequirements = msgspec.field(default_factory=ResourceRequirements)
    node_selector: Annotated[
        dict[str, Annotated[str, bounds.LABEL_VALUE]], bounds.entries(rules=(bounds.QUALIFIED_KEYS,))
    ] = {}
    tolerations: Annotated[list[Toleration], bounds.items()] = []
    litellm: LiteLLM | None = None
    service_labels: Annotated[
        list[Annotated[str, bounds.LABEL]],
        bounds.items(
            10, unique=True, about="What the model is good for; requests may name a label instead of a model."
        ),
    ] = []
    kv_cache: KVCache = msgspec.field(default_factory=KVCache)
    capabilities: Capabilities = msgspec.field(default_factory=Capabilities)
    quantize: QuantizationSpec | None = None
    image: Annotated[str, bounds.IMAGE_REFERENCE] = ""
    image_digest: Annotated[
        str, bounds.text("(sha256:)?[a-f0-9]{64}", "sha256: and 64 hexadecimal digits", longest=71)
    ] = ""


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
    message: Annotated[str, bounds.text(longest=bounds.MAX_MESSAGE)] = ""
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


class RolloutStatus(Struct, kw_only=True):
    """Revisions of the spec, as `flexinfer rollout history` names them."""

    revision: str = ""
    """Of the present spec."""
    serving: str = ""
    """The one that served last."""


class ModelStatus(Struct, kw_only=True):
    phase: Phase | None = None
    tier: Tier | None = None
    conditions: Annotated[list[Condition], bounds.items(keys=("type",))] = []
    observed_generation: int = 0
    replicas: int = 0
    selector: str = ""
    gpu: AllocatedGPU | None = None
    endpoint: str = ""
    last_active_time: datetime | None = None
    """Written by the proxy and by nobody else."""
    metrics: Metrics | None = None
    shared_group: SharedGroupStatus | None = None
    rollout: RolloutStatus | None = None
    cache: CacheStatus | None = None
    kv_cache: KVCacheStatus | None = None
    loading_substage: str = ""
    loading_progress: float | None = None
    """Share of the load that is done, 0 to 1, where the engine or the download tells it."""
    loading_progress_at: datetime | None = None
    loading_started_at: datetime | None = None
    loading_seconds_left: int | None = None
    """Until the download is complete, at its present rate."""
    message: Annotated[str, bounds.text(longest=bounds.MAX_MESSAGE)] = ""
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
