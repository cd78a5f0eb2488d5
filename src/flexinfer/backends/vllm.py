"""vLLM: a checkpoint folder or a hub name, by the `vllm` executable of the machine.

Options are those of release 0.32; what a release no longer has is reported by `check_config` and
never passed on. Every name that clients may use goes into `--served-model-name`, so that requests
need no rewriting. Two facts set the stop grace: with an open stream, or while it imports, vLLM can
ignore SIGTERM for ever; and a clean end takes up to 6 s. Told to (`--shutdown-timeout`), it finishes
its streams first.
"""

from __future__ import annotations

from flexinfer.api.v1alpha2.model import Model
from flexinfer.backends import checkpoint, config, devices
from flexinfer.backends.base import SETTLE_S, LaunchPlan, Reads, Serving, Site, Upstream, Vendor, writable
from flexinfer.backends.config import ConfigKey, Kind, either, fraction, integer, json_text, number, switch, text

name = "vllm"
aliases: tuple[str, ...] = ()
port = 8000
reads: Reads = "checkpoint"
vendors: tuple[Vendor, ...] = ("nvidia", "amd", "cpu")
process = True
image_generation = False
runs_locally = True

DEFAULT_SLOTS = 256
STOP_GRACE_S = 30.0
ENDING_S = 10.0
"""From its last stream to its exit, and room."""
RELEASE = "vLLM 0.32"


def _gone(key: str, kind: Kind, meaning: str) -> ConfigKey:
    return ConfigKey(name=key, kinds=(kind,), meaning=meaning, gone=RELEASE)


_MAX_NUM_SEQS = integer("maxNumSeqs", "Requests computed at once (default 256)", "--max-num-seqs", minimum=1)
_GPU_MEMORY = fraction("gpuMemoryUtilization", "Share of the GPU's memory to use", "--gpu-memory-utilization")
_MAX_LEN = ConfigKey(
    name="maxModelLen", kinds=("integer", "text"), meaning="Tokens of context", flag="--max-model-len", minimum=-1
)
_GRAPH_SIZES = ConfigKey(
    name="cudagraphCaptureSizes",
    kinds=("list",),
    meaning="Batch sizes with a CUDA graph",
    flag="--cudagraph-capture-sizes",
)
_COMPILATION = ConfigKey(
    name="compilationConfig",
    kinds=("object", "integer", "text"),
    meaning="How torch.compile is used",
    flag="--compilation-config",
)
_SERVED_NAME = text("servedModelName", "A further name of the model")
_TOOLS = switch("enableToolCalling", "Let the model choose tools")
_TOOL_PARSER = text("toolCallParser", "Parser of tool calls (default hermes)")
_SHUTDOWN = integer(
    "shutdownTimeout", "Seconds for open streams after SIGTERM; 0: for a release without the option", minimum=0
)
_CPU_CACHE = integer("cpuKvCacheGiB", "GiB of KV cache on a CPU (the engine's default is 4)", minimum=1)
_HIP_DEVICES = text("hipVisibleDevices", "Devices to use, in place of those FlexInfer chose")

_FLAGS: tuple[ConfigKey, ...] = (
    text("dtype", "Type of weights and activations", "--dtype"),
    _MAX_LEN,
    _GPU_MEMORY,
    switch("trustRemoteCode", "Run code that comes with the model", "--trust-remote-code"),
    _MAX_NUM_SEQS,
    integer("maxNumBatchedTokens", "Tokens of one step", "--max-num-batched-tokens", minimum=1),
    either("enforceEager", "No CUDA graphs", "--enforce-eager"),
    text("quantization", "How the weights are quantized", "--quantization"),
    text("tokenizer", "Path or name of another tokenizer", "--tokenizer"),
    text("kvCacheDtype", "Type of the KV cache", "--kv-cache-dtype"),
    switch("disableLogStats", "No statistics in the log", "--disable-log-stats"),
    integer("numGpuBlocksOverride", "Blocks of KV cache, instead of what fits", "--num-gpu-blocks-override", minimum=1),
    number("cpuOffloadGb", "GiB of weights in host memory", "--cpu-offload-gb", minimum=0),
    text("offloadBackend", "How weights are offloaded", "--offload-backend"),
    either("enablePrefixCaching", "Reuse the KV cache of equal beginnings", "--enable-prefix-caching"),
    text("reasoningParser", "Parser of thoughts", "--reasoning-parser"),
    json_text("speculativeConfig", "Speculative decoding", "--speculative-config"),
    json_text("limitMmPerPrompt", "Images, videos, audio a prompt may hold", "--limit-mm-per-prompt"),
    json_text("mmProcessorKwargs", "Arguments of the multimodal processor", "--mm-processor-kwargs"),
    json_text("hfOverrides", "Changes to the model's own configuration", "--hf-overrides"),
    json_text("defaultChatTemplateKwargs", "Arguments of the chat template", "--default-chat-template-kwargs"),
    either("enablePromptTokensDetails", "Cached tokens in the usage", "--enable-prompt-tokens-details"),
    either("enableSleepMode", "Let the engine sleep", "--enable-sleep-mode"),
    either("languageModelOnly", "Leave out the vision part", "--language-model-only"),
    either("enableLora", "Serve adapters", "--enable-lora"),
    integer("maxLoras", "Adapters in one batch", "--max-loras", minimum=1),
    integer("maxLoraRank", "Largest rank of an adapter", "--max-lora-rank", minimum=1),
    either("enableChunkedPrefill", "Split long prompts over steps", "--enable-chunked-prefill"),
    _gone("maxNumPartialPrefills", "integer", "Prompts prefilled in pieces at once"),
    _gone("maxLongPartialPrefills", "integer", "Long prompts prefilled at once"),
    integer("longPrefillTokenThreshold", "From when a prompt is long", "--long-prefill-token-threshold", minimum=0),
    either("schedulerReserveFullISL", "Admit a prompt only when all of it fits", "--scheduler-reserve-full-isl"),
    text("schedulingPolicy", "Order of requests", "--scheduling-policy", choices=("fcfs", "priority")),
    _GRAPH_SIZES,
    integer("maxCudagraphCaptureSize", "Largest batch with a CUDA graph", "--max-cudagraph-capture-size", minimum=0),
    _COMPILATION,
    either("cudagraphMetrics", "Metrics of CUDA graphs", "--cudagraph-metrics"),
    either("disableSlidingWindow", "Keep the whole context in every layer", "--disable-sliding-window"),
    either("disableHybridKVCacheManager", "One KV cache layout for all layers", "--disable-hybrid-kv-cache-manager"),
    text("attentionBackend", "Attention kernels", "--attention-backend"),
    text("gdnPrefillBackend", "Kernels of gated delta nets", "--gdn-prefill-backend"),
    text("mambaCacheMode", "How states are cached", "--mamba-cache-mode"),
    text("mambaSsmCacheDtype", "Type of cached states", "--mamba-ssm-cache-dtype"),
    _gone("calculateKvScales", "boolean", "Compute the scales of an FP8 KV cache"),
    either("kvCacheMetrics", "Metrics of KV blocks", "--kv-cache-metrics"),
    fraction("kvCacheMetricsSample", "Share of KV blocks that are measured", "--kv-cache-metrics-sample"),
    _gone("kvCacheCodec", "text", "How the KV cache is packed"),
    either("failOnEnvironValidation", "Refuse unknown VLLM_ variables", "--fail-on-environ-validation"),
)  # fmt: skip

_ENV: tuple[tuple[ConfigKey, str, str, str], ...] = (
    (switch("enableFlashAttention", "ROCm: flash attention of CK"), "VLLM_USE_TRITON_FLASH_ATTN", "0", "1"),
    (switch("rocmUseAiter", "ROCm: AITER kernels"), "VLLM_ROCM_USE_AITER", "1", "0"),
    (switch("enableAiter", "Old name of `rocmUseAiter`"), "VLLM_ROCM_USE_AITER", "1", "0"),
    (switch("disableAiter", "ROCm: no AITER kernels"), "VLLM_ROCM_USE_AITER", "0", "1"),
    (switch("rocmCustomPagedAttn", "ROCm: own paged attention"), "VLLM_ROCM_CUSTOM_PAGED_ATTN", "1", "0"),
    (text("disabledKernels", "Kernels not to use, comma-separated"), "VLLM_DISABLED_KERNELS", "", ""),
    (text("pytorchCudaAllocConf", "CUDA allocator"), "PYTORCH_CUDA_ALLOC_CONF", "", ""),
)
"""Key, variable, and what true and false are written as; text is written as it stands."""

config_keys: tuple[ConfigKey, ...] = (
    *_FLAGS, _SERVED_NAME, _TOOLS, _TOOL_PARSER, _HIP_DEVICES, _SHUTDOWN, _CPU_CACHE, *(key for key, *_ in _ENV),
    checkpoint.PIPELINE, config.EXTRA_ARGS, *config.DOWNLOAD,
)  # fmt: skip

_DENIED = {
    "--host": config.LISTENS,
    "--port": config.LISTENS,
    "--uds": config.LISTENS,
    "--root-path": "the proxy calls the known paths",
    "--model": config.SOURCE,
    "--config": config.REPLACES,
    "--served-model-name": "the names come from the manifest",
    "--tensor-parallel-size": config.COUNT,
    "-tp": config.COUNT,
    "--pipeline-parallel-size": "config.pipelineParallelSize says how many",
    "-pp": "config.pipelineParallelSize says how many",
    "--max-num-seqs": "config.maxNumSeqs says how many",
    "--shutdown-timeout": "config.shutdownTimeout says how long",
    "--api-key": config.KEYS,
    "--ssl-keyfile": config.PLAIN_HTTP,
    "--ssl-certfile": config.PLAIN_HTTP,
    "--hf-token": config.GATED,
    "--headless": "it serves no requests",
    "--grpc": "the proxy speaks HTTP to engines",
    "--middleware": config.RUNS_CODE,
    "--worker-extension-cls": config.RUNS_CODE,
    "--tool-parser-plugin": config.RUNS_CODE,
    "--reasoning-parser-plugin": config.RUNS_CODE,
    "--allowed-local-media-path": "it lets clients read files",
    "--swap-space": f"{RELEASE} has no such option; use spec.kvCache.hostTierGiB",
}


def plan(model: Model, site: Site) -> LaunchPlan:
    errors = config.wrong(model.spec.config, config_keys)
    if errors:
        raise errors[0]
    found = model.spec.config
    return LaunchPlan(
        program="vllm",
        args=("serve", checkpoint.location(model, site), *_args(model, site)),
        install_hint="install vLLM (https://docs.vllm.ai; without a GPU its build for CPUs) and put `vllm` on PATH",
        env=_env(model, site),
        port=site.port,
        health_path="/health",
        metrics_path="/metrics",
        slots=serving(model).slots,
        writable_paths=writable(site),
        shm_mib=checkpoint.shm_mib(len(site.devices)),
        devices=site.devices,
        memory=checkpoint.memory(site, float(config.value(found, _GPU_MEMORY, 0.9))),
        stop_grace_s=max(STOP_GRACE_S, _shutdown_s(model, site) + ENDING_S),
        pre_stop_s=SETTLE_S,
    )


def serving(model: Model) -> Serving:
    found = model.spec.config
    longest = config.value(found, _MAX_LEN, None)
    return Serving(
        slots=int(config.value(found, _MAX_NUM_SEQS, DEFAULT_SLOTS)),
        # -1, and text such as 32k or auto, leave it to the engine.
        context_tokens=int(longest) if isinstance(longest, int | float) and longest > 0 else None,
    )


def upstream(model: Model) -> Upstream | None:
    return None


def served_names(model: Model) -> tuple[str, ...]:
    """Every name that a client may call the model by; the Model's own comes first."""
    return checkpoint.names(model, config.value(model.spec.config, _SERVED_NAME, ""))


def _args(model: Model, site: Site) -> list[str]:
    found, spec = model.spec.config, model.spec
    args = ["--host", site.host, "--port", str(site.port), "--served-model-name", *served_names(model)]
    split = checkpoint.split(model, site)
    if split.tensor > 1:
        args += ["--tensor-parallel-size", str(split.tensor)]
    if split.pipeline > 1:
        args += ["--pipeline-parallel-size", str(split.pipeline)]
    if shutdown_s := _shutdown_s(model, site):
        args += ["--shutdown-timeout", str(shutdown_s)]
    args += config.argv(found, _FLAGS)
    if config.value(found, _TOOLS, False):
        args += ["--enable-auto-tool-choice", "--tool-call-parser", config.value(found, _TOOL_PARSER, "hermes")]
    if spec.kv_cache.max_block_size is not None:
        args += ["--block-size", str(spec.kv_cache.max_block_size)]
    host_tier = spec.kv_cache.host_tier_gib if spec.kv_cache.host_tier_gib is not None else spec.kv_cache.swap_space
    if host_tier and site.devices:
        args += ["--kv-offloading-size", str(host_tier)]
    return args + config.extra_args(found, _DENIED)


def _shutdown_s(model: Model, site: Site) -> int:
    return int(config.value(model.spec.config, _SHUTDOWN, site.drain_s))


def _env(model: Model, site: Site) -> dict[str, str]:
    found = model.spec.config
    env = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    if site.artifact.path:
        env["HF_HUB_OFFLINE"] = "1"
    env |= devices.torch(site.devices)
    cpu_cache = config.value(found, _CPU_CACHE, None)
    if cpu_cache is not None and not site.devices:
        env["VLLM_CPU_KVCACHE_SPACE"] = str(int(cpu_cache))
    for key, variable, true, false in _ENV:
        value = config.value(found, key, None)
        if isinstance(value, str):
            env[variable] = value
        elif value is not None:
            env[variable] = true if value else false
    hip = config.value(found, _HIP_DEVICES, "")
    if hip:
        env |= {"HIP_VISIBLE_DEVICES": hip, "CUDA_VISIBLE_DEVICES": hip}
    if config.value(found, _ENABLE_LORA, False):
        env["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "True"
    return env


_ENABLE_LORA = next(key for key in _FLAGS if key.name == "enableLora")
