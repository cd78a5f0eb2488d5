"""What each backend's container runs: on one GPU of each vendor, on several, and on the CPU where it can."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from flexinfer import backends
from flexinfer.api.meta import ObjectMeta
from flexinfer.api.v1alpha2.model import GPU, KVCache, Model, ModelSpec
from flexinfer.backends import compat
from flexinfer.backends.base import Artifact, Backend, Device, LaunchPlan, Site

FOLDER = Path(__file__).parent / "pods"
RTX = Device(vendor="nvidia", index=0, product="RTX 4090", arch="sm_89", vram_mib=24564)
MAXWELL = Device(vendor="nvidia", index=0, product="GTX 980 Ti", arch="sm_52", vram_mib=6144)
MI300 = Device(vendor="amd", index=0, product="MI300X", arch="gfx942", vram_mib=196592)
RADEON = Device(vendor="amd", index=0, product="RX 7900 XTX", arch="gfx1100", vram_mib=24560)
PLACES: Mapping[str, tuple[Device, int]] = {
    "one NVIDIA GPU": (RTX, 1),
    "four NVIDIA GPUs": (RTX, 4),
    "one Maxwell GPU": (MAXWELL, 1),
    "one Instinct": (MI300, 1),
    "eight Instincts": (MI300, 8),
    "one Radeon": (RADEON, 1),
}
CONFIG: Mapping[str, Mapping[str, Any]] = {
    "llamacpp": {"parallel": 2, "contextSize": 8192, "flashAttention": True, "extraArgs": ["--seed", "7"]},
    "ollama": {"parallel": 2, "contextSize": 8192, "flashAttention": True},
    "vllm": {
        "maxModelLen": 8192, "maxNumSeqs": 64, "gpuMemoryUtilization": "0.85", "enablePrefixCaching": True,
        "quantization": "awq", "enableToolCalling": True, "enableLora": True, "maxLoras": 2, "maxLoraRank": 16,
        "pipelineParallelSize": 1, "extraArgs": ["--seed", "7"],
    },
    "sglang": {
        "maxModelLen": 8192, "maxNumSeqs": 64, "gpuMemoryUtilization": 0.85, "enablePrefixCaching": False,
        "kvCacheDtype": "fp8_e5m2", "toolCallParser": "qwen", "extraArgs": ["--random-seed", "7"],
    },
    "tgi": {
        "maxModelLen": 8192, "maxInputTokens": 7000, "quantization": "awq", "enablePrefixCaching": True,
        "cudagraphCaptureSizes": [1, 2, 4], "extraArgs": ["--json-output"],
    },
    "mlc-llm": {"mode": "server", "maxNumSequence": 8, "contextWindowSize": 8192, "gpuMemoryUtilization": "0.8"},
    "tensorrt-llm": {"maxModelLen": 8192, "maxNumSeqs": 64, "gpuMemoryUtilization": 0.8, "engineBackend": "pytorch"},
    "vllm-omni": {"enforceEager": True, "diffusersCallKwargs": {"guidance_scale": 7.5}},
    "diffusers": {"numInferenceSteps": 30, "guidanceScale": 7.5, "useFp16": True, "negativePrompt": "blurry"},
    "comfyui": {"enableCORS": True, "customNodesPath": "/models/own/custom_nodes", "extraArgs": ["--lowvram"]},
    "simulator": {"engine": "vllm", "slots": 8, "loadSeconds": 2, "decodeRate": 40},
    "external": {"slots": 8, "servedModelName": "llama"},
}  # fmt: skip


def artifact(backend: Backend) -> Artifact:
    """The bytes where a pod sees them."""
    match backend.reads:
        case "gguf":
            return Artifact(path="/models/copy/m-q4_k_m.gguf", size_bytes=4 * 2**30)
        case "checkpoint":
            return Artifact(path="/models/copy", model_id="org/name", size_bytes=14 * 2**30)
        case "registry":
            return Artifact(path="/models/ollama", model_id="llama3:8b", size_bytes=5 * 2**30)
    return Artifact()


def model(backend: Backend, gpu: GPU | None) -> Model:
    by_reads = {"registry": "ollama://llama3:8b", "nothing": "HF://org/name"}
    source = "https://llm.example:8443" if backend.name == "external" else by_reads.get(backend.reads, "HF://org/name")
    spec = ModelSpec(backend=backend.name, source=source, gpu=gpu, config=dict(CONFIG[backend.name]))
    if gpu is not None:
        spec.kv_cache = KVCache(host_tier_gib=16)
    return Model(metadata=ObjectMeta(name="chat", namespace="team"), spec=spec)


def plan(backend: Backend, devices: tuple[Device, ...]) -> LaunchPlan:
    """As a pod has it: its devices are counted from 0 and have no UUID."""
    vendor: Any = devices[0].vendor if devices else "cpu"
    gpu = GPU(vendor=vendor, count=len(devices)) if devices else None
    site = Site(
        host="0.0.0.0",
        port=backend.port,
        artifact=artifact(backend),
        devices=devices,
        cores=8,
        state_dir="/var/lib/engine",
        drain_s=20.0,
    )
    return backend.plan(model(backend, gpu), site)


def plans(backend: Backend) -> dict[str, LaunchPlan]:
    """By place; each backend has those of its vendors."""
    found = {}
    for place, (device, count) in PLACES.items():
        if not backend.process or device.vendor not in backend.vendors:
            continue
        if compat.judge(backend.name, device.arch).level == "unsupported":
            continue
        devices = tuple(msgspec.structs.replace(device, index=index) for index in range(count))
        found[place] = plan(backend, devices)
    if "cpu" in backend.vendors:
        found["CPU"] = plan(backend, ())
    return found


@pytest.mark.parametrize("backend", backends.REGISTRY, ids=lambda backend: backend.name)
def test_the_container_of_a_backend_is_as_written(backend: Backend, golden: Callable[[Path, str], None]):
    written = {place: _told(one) for place, one in plans(backend).items()}
    text = msgspec.json.format(msgspec.json.encode(written, order="deterministic"), indent=2).decode() + "\n"
    golden(FOLDER / f"{backend.name}.json", text)


def _told(one: LaunchPlan) -> dict[str, Any]:
    """Without the devices themselves, and with what a container's command says."""
    fields = msgspec.to_builtins(one)
    del fields["devices"]
    return {**fields, "container_command": list(one.container_command)}
