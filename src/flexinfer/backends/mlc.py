"""MLC-LLM: a folder of compiled weights, by `mlc_llm serve`.

Its libraries are compiled for one architecture. On Maxwell and on AMD they are never compiled on the spot: the library
that lies beside the weights is taken (`maxwell-lib.so`, `lib_rocm_<arch>.so`), or the one that the manifest names.
The server holds one model and takes any name for it. Rendered only: no run of it has been seen by this project.
"""

from __future__ import annotations

import posixpath

from flexinfer.api.v1alpha2.model import Model
from flexinfer.backends import checkpoint, config, devices
from flexinfer.backends.base import SETTLE_S, LaunchPlan, Reads, Serving, Site, Upstream, Vendor, writable
from flexinfer.backends.config import ConfigKey, fraction, integer, switch, text

name = "mlc-llm"
aliases = ("mlc", "mlc_llm", "mlc-llm-chat")
port = 8000
reads: Reads = "checkpoint"
vendors: tuple[Vendor, ...] = ("nvidia", "amd")
process = True
image_generation = False
runs_locally = True

DEFAULT_SLOTS = 4
SERVER_SLOTS = 128
"""What the mode `server` has unless told otherwise; other modes have 4 and 1."""
STOP_GRACE_S = 30.0
GPU_SIZE_BYTES = 23_068_672_000
MAXWELL_SIZE_BYTES = 5_000_000_000

_MODE = text(
    "mode", "What the sizes are made for (default server)", "--mode", choices=("local", "interactive", "server")
)
_LIBRARY = text("modelLibPath", "Compiled library of the model")
_POLICY = text("jitPolicy", "Compile libraries on the spot or not", choices=("ON", "OFF", "REDO", "READONLY"))
_SIZE = integer("gpuMemoryBytes", "Memory of the GPU that the engine reckons with, in bytes", minimum=1)
_SEQUENCES = integer("maxNumSequence", "Requests computed at once", minimum=1)
_CONTEXT = integer("contextWindowSize", "Tokens of context", minimum=1)
_SHARE = fraction("gpuMemoryUtilization", "Share of the GPU's memory to use")
_OVERRIDES: tuple[tuple[ConfigKey, str], ...] = (
    (_SEQUENCES, "max_num_sequence"),
    (integer("maxTotalSeqLength", "Tokens of KV cache, all requests together", minimum=1), "max_total_seq_length"),
    (integer("prefillChunkSize", "Tokens of one piece of a prompt", minimum=1), "prefill_chunk_size"),
    (_SHARE, "gpu_memory_utilization"),
    (_CONTEXT, "context_window_size"),
    (integer("slidingWindowSize", "Tokens of a sliding window", minimum=-1), "sliding_window_size"),
    (integer("attentionSinkSize", "Tokens at the beginning that a window keeps", minimum=0), "attention_sink_size"),
)
_FLAGS: tuple[ConfigKey, ...] = (
    text("speculativeMode", "Kind of speculative decoding", "--speculative-mode",
         choices=("disable", "small_draft", "eagle", "medusa")),
    text("prefillMode", "How prompts are computed", "--prefill-mode", choices=("hybrid", "chunked")),
)  # fmt: skip
_PREFIX = switch("enablePrefixCaching", "Reuse the KV cache of equal beginnings (default true)")

config_keys: tuple[ConfigKey, ...] = (
    _MODE, _LIBRARY, _POLICY, _SIZE, *(key for key, _ in _OVERRIDES), *_FLAGS, _PREFIX, checkpoint.PIPELINE,
    config.EXTRA_ARGS, *config.DOWNLOAD,
)  # fmt: skip

_DENIED = {
    "--host": config.LISTENS,
    "--port": config.LISTENS,
    "--model-lib": "config.modelLibPath says which library",
    "--additional-models": "one engine serves one model",
    "--overrides": "each has a key of its own",
    "--device": config.COUNT,
    "--mode": "config.mode says which",
    "--enable-debug": "it opens calls that stop the engine",
}


def plan(model: Model, site: Site) -> LaunchPlan:
    errors = config.wrong(model.spec.config, config_keys)
    if errors:
        raise errors[0]
    found = model.spec.config
    folder = checkpoint.location(model, site)
    library = _library(model, site, folder)
    args = [
        "serve",
        folder,
        "--host",
        site.host,
        "--port",
        str(site.port),
        "--mode",
        config.value(found, _MODE, "server"),
    ]
    if library:
        args += ["--model-lib", library]
    overrides = _overrides(model, site)
    if overrides:
        args += ["--overrides", ";".join(overrides)]
    args += config.argv(found, _FLAGS)
    prefix = config.value(found, _PREFIX, None)
    if prefix is not None:
        args += ["--prefix-cache-mode", "radix" if prefix else "disable"]
    args += config.extra_args(found, _DENIED)
    return LaunchPlan(
        program="mlc_llm",
        args=tuple(args),
        install_hint="install MLC-LLM (https://llm.mlc.ai/docs/install/mlc_llm.html) and put `mlc_llm` on PATH",
        env=_env(model, site),
        port=site.port,
        health_path="/v1/models",
        slots=serving(model).slots,
        writable_paths=writable(site),
        shm_mib=checkpoint.shm_mib(len(site.devices)) if len(site.devices) > 1 else 0,
        devices=site.devices,
        memory=checkpoint.memory(site, float(config.value(found, _SHARE, 0.85))),
        stop_grace_s=max(STOP_GRACE_S, site.drain_s + 10.0),
        pre_stop_s=SETTLE_S,
    )


def serving(model: Model) -> Serving:
    found = model.spec.config
    by_mode = {"server": SERVER_SLOTS, "local": DEFAULT_SLOTS, "interactive": 1}
    longest = config.value(found, _CONTEXT, None)
    return Serving(
        slots=int(config.value(found, _SEQUENCES, by_mode[config.value(found, _MODE, "server")])),
        context_tokens=None if longest is None else int(longest),
    )


def upstream(model: Model) -> Upstream | None:
    return None


def _arch(site: Site) -> str:
    return site.devices[0].arch if site.devices else ""


def _compiled(site: Site) -> bool:
    """Whether only a library that was compiled before will do."""
    return _arch(site).startswith(("sm_5", "gfx"))


def _library(model: Model, site: Site, folder: str) -> str:
    named: str = config.value(model.spec.config, _LIBRARY, "")
    if named or not _compiled(site) or not site.artifact.path:
        return named
    arch = _arch(site)
    return posixpath.join(folder, "maxwell-lib.so" if arch.startswith("sm_5") else f"lib_rocm_{arch}.so")


def _overrides(model: Model, site: Site) -> list[str]:
    found = model.spec.config
    split = checkpoint.split(model, site)
    parts = [f"{option}={config.written(found[key.name])}" for key, option in _OVERRIDES if key.name in found]
    parts += [f"tensor_parallel_shards={split.tensor}"] if split.tensor > 1 else []
    return parts + ([f"pipeline_parallel_stages={split.pipeline}"] if split.pipeline > 1 else [])


def _env(model: Model, site: Site) -> dict[str, str]:
    arch = _arch(site)
    usual = MAXWELL_SIZE_BYTES if arch.startswith("sm_5") else GPU_SIZE_BYTES
    size = config.value(model.spec.config, _SIZE, usual)
    policy = config.value(model.spec.config, _POLICY, "READONLY" if _compiled(site) else "")
    env = {"MLC_GPU_SIZE_BYTES": str(size)} | ({"MLC_JIT_POLICY": policy} if policy else {})
    return env | devices.torch(site.devices)
