"""llama.cpp: one GGUF file, by a `llama-server` on PATH or by our own process around the wheel.

The wheel computes on the CPU. A model that asks for a GPU by name therefore takes `llama-server`
only and is Ready when the log says that layers went to the device; with `auto` a CPU will do.
`contextSize` is the context of all slots together; one slot has `contextSize / parallel`.
"""

from __future__ import annotations

import posixpath

from flexinfer.api.v1alpha2.model import Model
from flexinfer.artifacts import memory
from flexinfer.artifacts.memory import Memory
from flexinfer.backends import config, devices
from flexinfer.backends.base import (
    SETTLE_S,
    LaunchPlan,
    Reads,
    Serving,
    Site,
    Upstream,
    Vendor,
    writable,
)
from flexinfer.backends.config import ConfigKey, integer, switch, text
from flexinfer.errors import InvalidField

name = "llamacpp"
aliases = ("llama.cpp", "llama-cpp", "llama_cpp")
port = 8080
reads: Reads = "gguf"
vendors: tuple[Vendor, ...] = ("nvidia", "amd", "cpu")
process = True
image_generation = False
runs_locally = True

DEFAULT_PARALLEL = 4
CONTEXT_PER_SLOT = 4096
ALL_LAYERS = 999
TINY_WEIGHTS_BYTES = 64 * 2**20
READY_LOG = r"offloaded [1-9][0-9]*/[0-9]+ layers to GPU"
CPU_LOG = r"offloaded 0/[0-9]+ layers to GPU|no usable GPU found"

_CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")

_PARALLEL = integer("parallel", "Requests computed at once (default 4)", minimum=1)
_CONTEXT = integer("contextSize", "Tokens of context, shared by all slots (default 4096 for each slot)", minimum=0)
_LAYERS = integer("nGPULayers", "Layers on the GPU (default all; 0 without a GPU)", minimum=-1)
_THREADS = integer("threads", "Threads for generation (default: fitted to the cores)", minimum=1)
_FLASH = ConfigKey(
    name="flashAttention", kinds=("boolean", "text"), choices=("on", "off", "auto"), meaning="Flash attention"
)
_MMPROJ = text("mmproj", "Vision projector: a path, or a file beside the model")
_EMBEDDINGS = switch("embeddings", "Serve /v1/embeddings instead of chat")
_POOLING = text("pooling", "Pooling of embeddings (default mean)", choices=("mean", "cls", "last", "none", "rank"))
_METRICS = switch("metrics", "Serve /metrics (default true)")
_FIT_OFF = switch("fitOff", "Take the sizes as they are given, do not shrink them to the free memory")
_DEVICE = ConfigKey(
    name="device", kinds=("text", "integer"), minimum=0, meaning="Device of the engine's list, or its number"
)
_ORDINAL = integer("gpuDeviceOrdinal", "Number of the device among those the model was given", minimum=0)

_UBATCH = integer("ubatchSize", "Tokens of one physical batch", "--ubatch-size", minimum=1)
_CACHE_K = text("cacheTypeK", "Type of the K cache", "--cache-type-k", choices=_CACHE_TYPES)
_CACHE_V = text("cacheTypeV", "Type of the V cache", "--cache-type-v", choices=_CACHE_TYPES)

_PLAIN = (
    integer("batchSize", "Tokens of one logical batch", "--batch-size", minimum=1),
    _UBATCH,
    text("chatTemplate", "Name or text of the chat template", "--chat-template"),
    switch("jinja", "Use the model's own chat template (tool calls need it)", "--jinja", "--no-jinja"),
    _CACHE_K,
    _CACHE_V,
    text("reasoningFormat", "Where thoughts go in the answer", "--reasoning-format"),
    integer("reasoningBudget", "Tokens of thought; -1 no limit, 0 none", "--reasoning-budget", minimum=-1),
    text("slotSavePath", "Folder for saved slots", "--slot-save-path"),
    text("specType", "Kind of speculative decoding", "--spec-type"),
    integer("draftMax", "Tokens to draft at most", "--spec-draft-n-max", minimum=0),
    integer("draftMin", "Tokens to draft at least", "--spec-draft-n-min", minimum=0),
)

config_keys: tuple[ConfigKey, ...] = (
    _CONTEXT, _LAYERS, _THREADS, _FLASH, _MMPROJ, _EMBEDDINGS, _POOLING, _METRICS, _FIT_OFF, _DEVICE, _ORDINAL,
    _PARALLEL, *_PLAIN, config.EXTRA_ARGS, *config.DOWNLOAD,
)  # fmt: skip

_DENIED = {
    "--host": config.LISTENS,
    "--port": config.LISTENS,
    "--reuse-port": config.LISTENS,
    "--model": config.SOURCE,
    "-m": config.SOURCE,
    "--model-url": config.SOURCE,
    "-mu": config.SOURCE,
    "--hf-repo": config.SOURCE,
    "-hf": config.SOURCE,
    "-hfr": config.SOURCE,
    "--hf-file": config.SOURCE,
    "-hff": config.SOURCE,
    "--hf-token": config.GATED,
    "-hft": config.GATED,
    "--docker-repo": config.SOURCE,
    "-dr": config.SOURCE,
    "--models-dir": "one engine serves one model",
    "--models-preset": "one engine serves one model",
    "--alias": config.NAME,
    "-a": config.NAME,
    "--api-key": config.KEYS,
    "--api-key-file": config.KEYS,
    "--api-prefix": "the proxy calls the known paths",
    "--ssl-key-file": config.PLAIN_HTTP,
    "--ssl-cert-file": config.PLAIN_HTTP,
    "--rpc": "it would send the model to another machine",
    "--tools": "it lets clients read files and run commands",
    "--agent": "it lets clients read files and run commands",
    "--mcp-servers-config": "it lets clients run commands",
    "--mcp-servers-json": "it lets clients run commands",
    "--media-path": "it lets clients read files",
    "--path": "it serves a folder of this machine",
    "--log-disable": "readiness is read from the log",
    "--log-file": "the log is kept by FlexInfer",
    "--parallel": "config.parallel says how many",
    "-np": "config.parallel says how many",
    "--ctx-size": "config.contextSize says how long",
    "-c": "config.contextSize says how long",
}


def plan(model: Model, site: Site) -> LaunchPlan:
    _check(model, site)
    wanted = model.spec.gpu.vendor if model.spec.gpu is not None else "cpu"
    on_gpu = wanted in ("nvidia", "amd") or bool(site.devices)
    must_use_gpu = wanted in ("nvidia", "amd")
    return LaunchPlan(
        program="llama-server",
        command=("/app/llama-server",),
        image_command=("/app/llama-server",),
        args=tuple(_args(model, site, on_gpu=on_gpu)),
        fallback=() if must_use_gpu else ("engine",),
        install_hint=_hint(wanted),
        env={"GGML_NO_BACKTRACE": "1"} | devices.visible(site.devices),
        port=site.port,
        health_path="/health",
        metrics_path="/metrics" if config.value(model.spec.config, _METRICS, True) else "",
        ready_log=READY_LOG if must_use_gpu else "",
        cpu_log=CPU_LOG if on_gpu else "",
        slots=_slots(model),
        user=devices.user(site.devices),
        writable_paths=writable(site),
        devices=site.devices,
        memory=estimate(model, site, gpu=on_gpu),
        stop_grace_s=10.0,
        # It drops what is open when it is told to stop: whoever stops it drains it first.
        pre_stop_s=SETTLE_S,
    )


def serving(model: Model) -> Serving:
    slots = _slots(model)
    return Serving(slots=slots, context_tokens=context_size(model) // slots or None)


def upstream(model: Model) -> Upstream | None:
    return None


def context_size(model: Model) -> int:
    """Tokens of KV cache, all slots together. 0: as long as the model was trained for."""
    return int(config.value(model.spec.config, _CONTEXT, CONTEXT_PER_SLOT * _slots(model)))


def _slots(model: Model) -> int:
    return int(config.value(model.spec.config, _PARALLEL, DEFAULT_PARALLEL))


def estimate(model: Model, site: Site, *, gpu: bool) -> Memory:
    """Memory of one replica; of the weights alone where the header has not been read."""
    facts = site.artifact.gguf
    if facts is None:
        return Memory(weights_mib=-(-site.artifact.size_bytes // 2**20))
    return memory.estimate(facts, use(model, gpu=gpu))


def use(model: Model, *, gpu: bool) -> memory.Use:
    """How the engine will be run, as far as memory goes."""
    found = model.spec.config
    return memory.Use(
        context=context_size(model),
        parallel=_slots(model),
        cache_type_k=config.value(found, _CACHE_K, "f16"),
        cache_type_v=config.value(found, _CACHE_V, "f16"),
        ubatch=int(config.value(found, _UBATCH, 512)),
        gpu=gpu,
    )


def threads(cores: int, weights_bytes: int) -> int:
    """Threads that help: llama.cpp's spin, so a tiny model gets one, and from four cores on one core is left free."""
    if 0 < weights_bytes <= TINY_WEIGHTS_BYTES:
        return 1
    return cores - 1 if cores >= 4 else max(cores, 1)


def _check(model: Model, site: Site) -> None:
    errors = config.wrong(model.spec.config, config_keys)
    if errors:
        raise errors[0]
    if model.spec.source.lower().startswith("ollama://"):
        raise InvalidField("spec.source", model.spec.source, "a GGUF file: llamacpp cannot read Ollama's registry")
    if not site.artifact.path:
        raise InvalidField(
            "spec.source", model.spec.source, "a GGUF file on this machine, such as file:///models/X.gguf"
        )


def _args(model: Model, site: Site, *, on_gpu: bool) -> list[str]:
    found = model.spec.config
    weights = site.artifact.size_bytes
    fitted = threads(site.cores, weights)
    layers = config.value(found, _LAYERS, ALL_LAYERS if on_gpu else 0)
    args = ["--model", site.artifact.path, "--host", site.host, "--port", str(site.port)]
    args += ["--alias", model.metadata.name]
    args += ["--ctx-size", str(context_size(model)), "--parallel", str(_slots(model))]
    args += ["--n-gpu-layers", str(int(layers))]
    args += ["--threads", str(int(config.value(found, _THREADS, fitted)))]
    args += ["--threads-batch", str(int(config.value(found, _THREADS, 1 if fitted == 1 else max(site.cores, 1))))]
    if config.value(found, _METRICS, True):
        args.append("--metrics")
    if config.value(found, _EMBEDDINGS, False):
        args += ["--embeddings", "--pooling", config.value(found, _POOLING, "mean")]
    flash = config.value(found, _FLASH, None)
    if flash is not None:
        args += ["--flash-attn", flash if isinstance(flash, str) else "on" if flash else "off"]
    projector = config.value(found, _MMPROJ, "")
    if projector:
        beside = posixpath.join(posixpath.dirname(site.artifact.path), projector)
        args += ["--mmproj", site.artifact.mmproj or beside]
    if config.value(found, _FIT_OFF, False):
        args += ["--fit", "off"]
    device = config.value(found, _DEVICE, config.value(found, _ORDINAL, None))
    if device is not None:
        args += ["--device", device] if isinstance(device, str) else ["--main-gpu", str(int(device))]
    args += config.argv(found, _PLAIN)
    return args + config.extra_args(found, _DENIED)


def _hint(vendor: str) -> str:
    if vendor == "nvidia":
        return "install a llama-server built for CUDA (https://github.com/ggml-org/llama.cpp) and put it on PATH"
    if vendor == "amd":
        return (
            "install a llama-server built for ROCm or Vulkan (https://github.com/ggml-org/llama.cpp) and put it on PATH"
        )
    return "pip install 'flexinfer[local]', or put llama-server (https://github.com/ggml-org/llama.cpp) on PATH"
