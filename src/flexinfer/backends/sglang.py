"""SGLang: a checkpoint folder or a hub name, by the `sglang` executable of the machine.

Options are those of release 0.5. It drains by itself: after SIGTERM it looks every 5 s whether requests are open, and
exits when none is; the stop grace is above that. Rendered only: no run of it has been seen by this project.
"""

from __future__ import annotations

from flexinfer.api.v1alpha2.model import Model
from flexinfer.backends import checkpoint, config, devices
from flexinfer.backends.base import SETTLE_S, LaunchPlan, Reads, Serving, Site, Upstream, Vendor, writable
from flexinfer.backends.config import ConfigKey, fraction, integer, number, switch, text

name = "sglang"
aliases: tuple[str, ...] = ()
port = 30000
reads: Reads = "checkpoint"
vendors: tuple[Vendor, ...] = ("nvidia", "amd")
process = True
image_generation = False
runs_locally = True

DEFAULT_SLOTS = 128
STOP_GRACE_S = 30.0
_DRAIN_LOOKS_S = 15.0
"""It notices SIGTERM, and the end of its last request, within 5 s each."""

_SLOTS = integer("maxNumSeqs", "Requests computed at once (default 128)", "--max-running-requests", minimum=1)
_CONTEXT = integer("maxModelLen", "Tokens of context", "--context-length", minimum=1)
_SHARE = fraction("gpuMemoryUtilization", "Share of the GPU's memory for weights and KV cache", "--mem-fraction-static")
_PREFIX = switch("enablePrefixCaching", "Reuse the KV cache of equal beginnings (default true)")
_SERVED_NAME = text("servedModelName", "The name the engine gives the model")

_FLAGS: tuple[ConfigKey, ...] = (
    text("dtype", "Type of weights and activations", "--dtype"),
    _CONTEXT,
    _SHARE,
    switch("trustRemoteCode", "Run code that comes with the model", "--trust-remote-code"),
    text("quantization", "How the weights are quantized", "--quantization"),
    text("tokenizer", "Path of another tokenizer", "--tokenizer-path"),
    text("kvCacheDtype", "Type of the KV cache", "--kv-cache-dtype"),
    integer("maxNumBatchedTokens", "Tokens of one prefill batch", "--max-prefill-tokens", minimum=1),
    integer("chunkedPrefillSize", "Tokens of one piece of a prompt; -1: whole", "--chunked-prefill-size", minimum=-1),
    integer("maxTotalTokens", "Tokens of KV cache, instead of what fits", "--max-total-tokens", minimum=1),
    text("schedulingPolicy", "Order of requests", "--schedule-policy"),
    text("attentionBackend", "Attention kernels", "--attention-backend"),
    text("chatTemplate", "Name or path of the chat template", "--chat-template"),
    text("toolCallParser", "Parser of tool calls", "--tool-call-parser"),
    text("reasoningParser", "Parser of thoughts", "--reasoning-parser"),
    text("speculativeAlgorithm", "Kind of speculative decoding", "--speculative-algorithm"),
    text("speculativeDraftModel", "Model that drafts", "--speculative-draft-model-path"),
    integer("speculativeNumSteps", "Tokens to draft in each step", "--speculative-num-steps", minimum=1),
    switch("enableLora", "Serve adapters", "--enable-lora"),
    integer("maxLoras", "Adapters in one batch", "--max-loras-per-batch", minimum=1),
    integer("maxLoraRank", "Largest rank of an adapter", "--max-lora-rank", minimum=1),
    switch("embeddings", "Serve /v1/embeddings", "--is-embedding"),
    switch("enablePromptTokensDetails", "Cached tokens in the usage", "--enable-cache-report"),
    number("watchdogTimeout", "Seconds after which a stuck step ends the engine", "--watchdog-timeout", minimum=1),
)  # fmt: skip

config_keys: tuple[ConfigKey, ...] = (
    _SLOTS, *_FLAGS, _PREFIX, _SERVED_NAME, checkpoint.PIPELINE, config.EXTRA_ARGS, *config.DOWNLOAD,
)  # fmt: skip

_DENIED = {
    "--host": config.LISTENS,
    "--port": config.LISTENS,
    "--fastapi-root-path": "the proxy calls the known paths",
    "--grpc-mode": config.PLAIN_HTTP,
    "--model-path": config.SOURCE,
    "--model": config.SOURCE,
    "--revision": config.SOURCE,
    "--config": config.REPLACES,
    "--served-model-name": "config.servedModelName says which name",
    "--tensor-parallel-size": config.COUNT,
    "--tp-size": config.COUNT,
    "--tp": config.COUNT,
    "--pipeline-parallel-size": "config.pipelineParallelSize says how many",
    "--pp-size": "config.pipelineParallelSize says how many",
    "--nnodes": "one replica runs on one node",
    "--base-gpu-id": config.COUNT,
    "--max-running-requests": "config.maxNumSeqs says how many",
    "--api-key": config.KEYS,
    "--admin-api-key": config.KEYS,
    "--ssl-keyfile": config.PLAIN_HTTP,
    "--ssl-certfile": config.PLAIN_HTTP,
    "--tool-server": "it calls servers that the manifest does not name",
    "--custom-sigquit-handler": config.RUNS_CODE,
}


def plan(model: Model, site: Site) -> LaunchPlan:
    errors = config.wrong(model.spec.config, config_keys)
    if errors:
        raise errors[0]
    found = model.spec.config
    split = checkpoint.split(model, site)
    known = serving(model)
    args = ["serve", "--model-path", checkpoint.location(model, site), "--host", site.host, "--port", str(site.port)]
    args += ["--served-model-name", _served_name(model), "--enable-metrics"]
    args += ["--max-running-requests", str(known.slots)]
    if split.tensor > 1:
        args += ["--tensor-parallel-size", str(split.tensor)]
    if split.pipeline > 1:
        args += ["--pipeline-parallel-size", str(split.pipeline)]
    if not config.value(found, _PREFIX, True):
        args.append("--disable-radix-cache")
    if model.spec.kv_cache.max_block_size is not None:
        args += ["--page-size", str(model.spec.kv_cache.max_block_size)]
    host_tier = model.spec.kv_cache.host_tier_gib or model.spec.kv_cache.swap_space
    if host_tier and site.devices:
        args += ["--enable-hierarchical-cache", "--hicache-size", str(host_tier)]
    args += config.argv(found, _FLAGS) + config.extra_args(found, _DENIED)
    return LaunchPlan(
        program="sglang",
        args=tuple(args),
        install_hint="install SGLang (https://docs.sglang.io) and put `sglang` on PATH",
        env=devices.torch(site.devices) | ({"HF_HUB_OFFLINE": "1"} if site.artifact.path else {}),
        port=site.port,
        health_path="/health",
        metrics_path="/metrics",
        slots=known.slots,
        served_model=known.served_model,
        writable_paths=writable(site),
        shm_mib=checkpoint.shm_mib(len(site.devices)),
        devices=site.devices,
        memory=checkpoint.memory(site, float(config.value(found, _SHARE, 0.9))),
        stop_grace_s=max(STOP_GRACE_S, site.drain_s + _DRAIN_LOOKS_S),
        pre_stop_s=SETTLE_S,
    )


def serving(model: Model) -> Serving:
    found = model.spec.config
    longest = config.value(found, _CONTEXT, None)
    served = config.value(found, _SERVED_NAME, "")
    return Serving(
        slots=int(config.value(found, _SLOTS, DEFAULT_SLOTS)),
        served_model=served or None,
        context_tokens=None if longest is None else int(longest),
    )


def upstream(model: Model) -> Upstream | None:
    return None


def _served_name(model: Model) -> str:
    return serving(model).served_model or model.metadata.name
