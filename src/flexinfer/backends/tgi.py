"""Text Generation Inference: a checkpoint folder or a hub name, by `text-generation-launcher`.

Options are those of release 3.3, the last one. It takes any model name in a request. After SIGTERM the launcher gives
its web server 90 s to finish; the stop grace is above that. Rendered only: no run of it has been seen by this project.
"""

from __future__ import annotations

from flexinfer.api.v1alpha2.model import Model
from flexinfer.backends import checkpoint, config, devices
from flexinfer.backends.base import (
    SETTLE_S,
    TEMPORARY,
    LaunchPlan,
    Reads,
    Serving,
    Site,
    Upstream,
    Vendor,
    writable,
)
from flexinfer.backends.config import ConfigKey, fraction, integer, switch, text

name = "tgi"
aliases: tuple[str, ...] = ()
port = 8080
reads: Reads = "checkpoint"
vendors: tuple[Vendor, ...] = ("nvidia", "amd")
process = True
image_generation = False
runs_locally = True

DEFAULT_SLOTS = 128
STOP_GRACE_S = 100.0

_SLOTS = integer("maxNumSeqs", "Requests taken at once (default 128)", "--max-concurrent-requests", minimum=1)
_CONTEXT = integer("maxModelLen", "Tokens of prompt and answer together", "--max-total-tokens", minimum=2)
_SHARE = fraction("gpuMemoryUtilization", "Share of the GPU's memory to use", "--cuda-memory-fraction")
_GRAPHS = ConfigKey(name="cudagraphCaptureSizes", kinds=("list",), meaning="Batch sizes with a CUDA graph")
_PREFIX = switch("enablePrefixCaching", "Reuse the KV cache of equal beginnings")

_FLAGS: tuple[ConfigKey, ...] = (
    text("dtype", "Type of weights and activations", "--dtype", choices=("float16", "bfloat16")),
    _CONTEXT,
    integer("maxInputTokens", "Tokens of a prompt", "--max-input-tokens", minimum=1),
    _SHARE,
    switch("trustRemoteCode", "Run code that comes with the model", "--trust-remote-code"),
    text("quantization", "How the weights are quantized", "--quantize"),
    text("kvCacheDtype", "Type of the KV cache", "--kv-cache-dtype", choices=("fp8_e4m3fn", "fp8_e5m2")),
    integer("maxNumBatchedTokens", "Tokens of one prefill", "--max-batch-prefill-tokens", minimum=1),
    integer("maxTotalTokens", "Tokens of one batch, instead of what fits", "--max-batch-total-tokens", minimum=1),
    integer("speculate", "Tokens to draft in each step", "--speculate", minimum=0),
    text("tokenizerConfigPath", "File with another chat template", "--tokenizer-config-path"),
    switch("disableCustomKernels", "No kernels of TGI's own", "--disable-custom-kernels"),
)  # fmt: skip

config_keys: tuple[ConfigKey, ...] = (_SLOTS, *_FLAGS, _GRAPHS, _PREFIX, config.EXTRA_ARGS, *config.DOWNLOAD)

_DENIED = {
    "--hostname": config.LISTENS,
    "--port": config.LISTENS,
    "-p": config.LISTENS,
    "--shard-uds-path": config.LISTENS,
    "--model-id": config.SOURCE,
    "--revision": config.SOURCE,
    "--num-shard": config.COUNT,
    "--sharded": config.COUNT,
    "--max-concurrent-requests": "config.maxNumSeqs says how many",
    "--api-key": config.KEYS,
    "--ngrok": "it would open the engine to the world",
    "--ngrok-authtoken": "it would open the engine to the world",
    "--env": "it ends the engine",
    "-e": "it ends the engine",
    "--usage-stats": "nothing is sent home",
}


def plan(model: Model, site: Site) -> LaunchPlan:
    errors = config.wrong(model.spec.config, config_keys)
    if errors:
        raise errors[0]
    found = model.spec.config
    shards = checkpoint.count(model, site)
    known = serving(model)
    args = ["--model-id", checkpoint.location(model, site), "--hostname", site.host, "--port", str(site.port)]
    # Of two engines on one machine each needs a socket of its own.
    args += ["--shard-uds-path", f"{TEMPORARY}/text-generation-server-{site.port}", "--usage-stats", "off"]
    args += ["--max-concurrent-requests", str(known.slots)]
    if shards > 1:
        args += ["--sharded", "true", "--num-shard", str(shards)]
    args += config.argv(found, _FLAGS)
    graphs = config.value(found, _GRAPHS, None)
    if graphs is not None:
        args += ["--cuda-graphs", ",".join(config.written(size) for size in graphs)]
    args += config.extra_args(found, _DENIED)
    return LaunchPlan(
        program="text-generation-launcher",
        args=tuple(args),
        install_hint="TGI comes as a container image; on one machine put its text-generation-launcher on PATH",
        env=_env(model, site),
        port=site.port,
        health_path="/health",
        metrics_path="/metrics",
        slots=known.slots,
        writable_paths=writable(site),
        shm_mib=checkpoint.shm_mib(shards),
        devices=site.devices,
        memory=checkpoint.memory(site, float(config.value(found, _SHARE, 1.0))),
        stop_grace_s=STOP_GRACE_S,
        pre_stop_s=SETTLE_S,
    )


def serving(model: Model) -> Serving:
    found = model.spec.config
    longest = config.value(found, _CONTEXT, None)
    return Serving(
        slots=int(config.value(found, _SLOTS, DEFAULT_SLOTS)),
        context_tokens=None if longest is None else int(longest),
    )


def upstream(model: Model) -> Upstream | None:
    return None


def _env(model: Model, site: Site) -> dict[str, str]:
    env = devices.torch(site.devices)
    if site.artifact.path:
        env["HF_HUB_OFFLINE"] = "1"
    prefix = config.value(model.spec.config, _PREFIX, None)
    if prefix is not None:
        env["PREFIX_CACHING"] = "1" if prefix else "0"
    return env
