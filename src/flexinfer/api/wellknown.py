"""Names that FlexInfer shares with its users: labels, annotations, finalizers, conditions, backends.

A name is written here once, with its meaning; everything else refers to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

GROUP = "ai.flexinfer"

# Finalizers
MODEL_FINALIZER = "flexinfer.ai/model-cleanup"
"""Held by a Model until its processes or pods are gone."""
DEPLOYMENT_FINALIZER = "flexinfer.ai/cleanup"
"""Held by a ModelDeployment until its Model is gone."""

# Labels of the objects that are made for a Model
LABEL_MODEL = "flexinfer.ai/model"
"""The Model that a child, or a pod, belongs to."""
LABEL_BACKEND = "flexinfer.ai/backend"
"""The backend of the Model that a child belongs to."""
LABEL_GPU_GROUP = "flexinfer.ai/gpu-group"
"""The shared GPU group of the Model that a child belongs to."""
LABEL_REVISION = "flexinfer.ai/revision"
"""On ControllerRevisions: which revision of the spec of a Model it is, as the status names it."""
LABEL_SERVICE_NAME = "kubernetes.io/service-name"
"""The Service that an EndpointSlice belongs to."""
LABEL_SLICE_MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
"""Who writes an EndpointSlice; slices of our own lead to proxies, never to replicas."""
LABEL_HEADLESS = "service.kubernetes.io/headless"
"""On an EndpointSlice: kube-proxy leaves it alone."""

# Annotations
ANNOTATION_MANIFEST_FILE = "flexinfer.ai/manifest-file"
"""On Models of a machine: the file that says what they are; they change with it and in no other way."""
ANNOTATION_STOPPED_AT = "flexinfer.ai/stopped-at"
"""On Models: when somebody stopped it by hand (RFC 3339). It rests until `status.lastActiveTime` is later."""

ANNOTATION_MODEL = "flexinfer.ai/model"
"""On pods and other children: the whole name of their Model, which may be too long for a label."""
ANNOTATION_VRAM_ESTIMATE = "flexinfer.ai/gpu.vram-estimate-mb"
"""On pods: what the model needs of GPU memory, in MiB, for the scheduler extender."""
ANNOTATION_TEMPLATE = "flexinfer.ai/template"
"""On pods: digest of the template that they were made from."""
ANNOTATION_PLACE = "flexinfer.ai/place"
"""On Deployments: vendor, count, architecture and memory of the GPUs that their pods were made for, as JSON."""
ANNOTATION_ROLLOUT = "flexinfer.ai/rollout"
"""On Deployments: revision and digest of their template, the revision before it, and the one that failed, as JSON."""
ANNOTATION_SERVICE_LABELS = "flexinfer.ai/service-labels"
"""On Services and Deployments: `spec.serviceLabels`, with commas between them."""
ANNOTATION_LITELLM_NAME = "litellm.flexinfer.ai/served-model"
"""On Services and Deployments of Models with `spec.litellm`: the name that LiteLLM lists it by."""
ANNOTATION_LITELLM_ALIASES = "litellm.flexinfer.ai/aliases"
"""On the same: aliases and service labels, sorted, with commas between them."""
ANNOTATION_LITELLM_COPILOT = "litellm.flexinfer.ai/copilot-model"
"""On the same: `spec.litellm.copilotAlias`."""
ANNOTATION_LITELLM_CAPABILITIES = "litellm.flexinfer.ai/capabilities"
"""On the same: what the model can do, as JSON."""

# Claims and Jobs that bring a Model's bytes
LABEL_CONTENT = "flexinfer.ai/content"
"""On claims, Jobs and their pods: the key of what is fetched; Models that ask for the same have the same."""
LABEL_TASK = "flexinfer.ai/task"
"""On Jobs and their pods: `prefetch` or `check`."""
ANNOTATION_SOURCE = "flexinfer.ai/source"
"""On claims and Jobs: the source as a person reads it."""
ANNOTATION_CACHE_CLAIM = "flexinfer.ai/cache-claim"
"""On Jobs: the claim they work on."""
ANNOTATION_ATTEMPT = "flexinfer.ai/attempt"
"""On Jobs: how often it has been tried, this one included."""
ANNOTATION_RECIPE = "flexinfer.ai/recipe"
"""On Jobs: digest of all that decides what they do, besides the image."""
ANNOTATION_COPIES = "flexinfer.ai/copies"
"""On claims: which verified copies are on them and where, as JSON."""
ANNOTATION_RETAINED_FOR = "flexinfer.ai/retained-for"
"""On claims: names of Models that wanted them to outlive them (`spec.cache.retain`)."""

GPU_RESOURCES = ("nvidia.com/gpu", "amd.com/gpu", "gpu.intel.com/i915")
"""What device plugins count; `spec.gpu` asks for them, `spec.resources` must not."""

CONDITIONS: Mapping[str, str] = MappingProxyType(
    {
        "Cached": "The model's bytes are where the engine will read them.",
        "Loaded": "The engine has the model in memory.",
        "Ready": "Requests are served.",
        "Schedulable": "Some node, or this machine, can run it.",
        "ConfigValid": "spec.config holds only keys and values that the backend knows.",
        "RolledOut": "The pods are of the spec's revision; the message names the one that serves.",
        "ScalingLimited": "More replicas are wished for than spec.serverless.maxReplicas allows.",
        "NotYetEffective": "Fields are set that have no effect yet; the message names them.",
        "IgnoredLocally": "Fields are set that mean nothing on a single machine; the message names them.",
        "SingleNodeCache": "Several nodes need the cache, and its claim can be mounted on one; the message says more.",
        "EngineHasNoGPU": "A GPU was asked for and the engine computes on the CPU.",
    }
)
"""Condition types of a Model, with what True means; the tables of AGENTS.md are made from these names."""

BACKENDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "ollama": (),
        "vllm": (),
        "vllm-omni": ("vllm-diffusion", "vllm_omni"),
        "mlc-llm": ("mlc", "mlc_llm", "mlc-llm-chat"),
        "llamacpp": ("llama.cpp", "llama-cpp", "llama_cpp"),
        "diffusers": (),
        "comfyui": ("comfy", "comfy-ui", "comfy_ui"),
        "tensorrt-llm": ("tensorrt_llm",),
        "sglang": (),
        "tgi": (),
        "simulator": (),
        "external": (),
    }
)
"""Backend names and their aliases, as `spec.backend` takes them."""

BACKEND_NAMES: tuple[str, ...] = tuple(name for backend, aliases in BACKENDS.items() for name in (backend, *aliases))
IMAGE_BACKENDS = frozenset({"vllm-omni", "diffusers", "comfyui"})
"""Backends that make images: slow to load, so they idle longer."""

_CANONICAL = {name: backend for backend, aliases in BACKENDS.items() for name in (backend, *aliases)}


def backend_name(name: str) -> str:
    """The backend's name for a name or alias; an unknown one is returned as it is."""
    return _CANONICAL.get(name, name)
