"""Names that FlexInfer shares with its users: labels, annotations, finalizers, conditions, reasons, backends.

A name is written here once, with its meaning; everything else refers to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

GROUP = "ai.flexinfer"
MANAGED_BY = "flexinfer"

# Finalizers
MODEL_FINALIZER = "flexinfer.ai/model-cleanup"
"""Held by a Model until its processes or pods are gone."""

# Labels of the objects that are made for a Model
LABEL_NAME = "app.kubernetes.io/name"
"""Always `model`."""
LABEL_INSTANCE = "app.kubernetes.io/instance"
"""The Model's name, cut with a hash where it is too long for a label."""
LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
"""Always `flexinfer`."""
LABEL_MODEL = "flexinfer.ai/model"
"""The Model that a child, or a pod, belongs to."""
LABEL_BACKEND = "flexinfer.ai/backend"
"""The backend's name, without aliases."""
LABEL_GPU_GROUP = "flexinfer.ai/gpu-group"
"""The shared GPU group, where the Model is in one."""
LABEL_SERVICE_NAME = "kubernetes.io/service-name"
"""The Service that an EndpointSlice belongs to."""
LABEL_SLICE_MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
"""Who writes an EndpointSlice; slices of our own lead to proxies, never to replicas."""

# Annotations
ANNOTATION_MODEL = "flexinfer.ai/model"
"""On pods: the whole name of the Model, which a label may have cut."""
ANNOTATION_BACKEND = "flexinfer.ai/backend"
ANNOTATION_VRAM_ESTIMATE_MB = "flexinfer.ai/gpu.vram-estimate-mb"
"""On pods: the memory that placement must find on the device."""
ANNOTATION_SERVICE_LABELS = "flexinfer.ai/service-labels"
ANNOTATION_ROUTING = "flexinfer.ai/routing"
"""On Models: the routing strategy of its replicas."""
ANNOTATION_MANIFEST_FILE = "flexinfer.ai/manifest-file"
"""On Models of a machine: the file that says what they are; they change with it and in no other way."""
ANNOTATION_STOPPED_AT = "flexinfer.ai/stopped-at"
"""On Models: when somebody stopped it by hand (RFC 3339). It rests until `status.lastActiveTime` is later."""
ANNOTATION_SOURCE = "flexinfer.ai/source"
"""On prefetch Jobs: the source they fetch; another source means another Job."""
ANNOTATION_ACTIVE_SERVICES = "ai.flexinfer/active-services"
"""On Services of a shared group: the service labels that lead to this member now."""
ANNOTATION_LITELLM_MODEL = "litellm.flexinfer.ai/served-model"
ANNOTATION_LITELLM_ALIASES = "litellm.flexinfer.ai/aliases"
ANNOTATION_LITELLM_COPILOT = "litellm.flexinfer.ai/copilot-model"
ANNOTATION_LITELLM_CAPABILITIES = "litellm.flexinfer.ai/capabilities"

GPU_RESOURCES = ("nvidia.com/gpu", "amd.com/gpu", "gpu.intel.com/i915")
"""What device plugins count; `spec.gpu` asks for them, `spec.resources` must not."""

CONDITIONS: Mapping[str, str] = MappingProxyType(
    {
        "Cached": "The model's bytes are where the engine will read them.",
        "Loaded": "The engine has the model in memory.",
        "Ready": "Requests are served.",
        "Schedulable": "Some node, or this machine, can run it.",
        "ConfigValid": "spec.config holds only keys and values that the backend knows.",
        "SLOMet": "The benchmark reached spec.slo.",
        "NotYetEffective": "Fields are set that have no effect yet; the message names them.",
        "IgnoredLocally": "Fields are set that mean nothing on a single machine; the message names them.",
        "EngineHasNoGPU": "A GPU was asked for and the engine computes on the CPU.",
    }
)
"""Condition types of a Model, with what True means."""

REASONS: Mapping[str, str] = MappingProxyType(
    {
        "NoMatchingNodes": "No node has what the Model asks for.",
        "AmbiguousGPUVendor": "Not set any more: with two vendors one is chosen.",
        "BackendUnsupported": "The backend does not run on this hardware, or this version does not know it.",
        "VRAMInsufficient": "No device has enough free memory.",
        "MemoryInsufficient": "The machine's memory is too small, or taken.",
        "Schedulable": "A place was found.",
        "CacheNotReady": "The model's bytes are still on their way.",
        "CacheIgnored": "The source is a claim of its own, so spec.cache is not used.",
        "WaitingForActivation": "Idle: a request will start it.",
        "StartingBackend": "The engine has been started and is not ready yet.",
        "BackendReady": "The engine answers.",
        "ScalingDown": "New requests are held back while the replicas go.",
        "Preempted": "Another member of the shared group holds the GPU.",
        "AliasConflict": "Another Model uses the same alias.",
        "ConfigValid": "Every key of spec.config is known.",
        "PrefetchRunning": "The download runs.",
        "PrefetchSucceeded": "The download is complete.",
        "PrefetchFailed": "The download failed for good.",
        "PrefetchPending": "The download has not started.",
        "CacheCheckRunning": "The claim is being looked into.",
        "CacheCheckSucceeded": "The path exists in the claim.",
        "CacheCheckFailed": "The path does not exist in the claim, or is empty.",
        "CacheCheckPending": "The look into the claim has not started.",
        "PVCBound": "The claim is bound.",
        "PVCProvisioning": "The claim waits for its volume.",
        "NoCacheJob": "Nothing has to be fetched.",
    }
)
"""Reasons of those conditions, with their meaning."""

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
