"""TensorRT-LLM: a checkpoint or a folder with a compiled engine, by `trtllm-serve`, in an image that you bring.

NVIDIA's images stand behind its own terms, so none is a default. Options are those of release 1. Rendered only: no run
of it has been seen by this project.
"""

from __future__ import annotations

from flexinfer.api.v1alpha2.model import Model
from flexinfer.backends import checkpoint, config, devices
from flexinfer.backends.base import SETTLE_S, LaunchPlan, Reads, Serving, Site, Upstream, Vendor, writable
from flexinfer.backends.config import ConfigKey, fraction, integer, switch, text

name = "tensorrt-llm"
aliases = ("tensorrt_llm",)
port = 8000
reads: Reads = "checkpoint"
vendors: tuple[Vendor, ...] = ("nvidia",)
process = True
image_generation = False
runs_locally = True

DEFAULT_SLOTS = 256
STOP_GRACE_S = 40.0
"""Its launcher gives its child 10 s to end, and 10 s more when it does not."""

_SLOTS = integer("maxNumSeqs", "Requests computed at once (default 256)", "--max_batch_size", minimum=1)
_CONTEXT = integer("maxModelLen", "Tokens of prompt and answer together", "--max_seq_len", minimum=1)
_SHARE = fraction("gpuMemoryUtilization", "Share of the free memory for the KV cache", "--free_gpu_memory_fraction")

_FLAGS: tuple[ConfigKey, ...] = (
    _CONTEXT,
    _SHARE,
    switch("trustRemoteCode", "Run code that comes with the model", "--trust_remote_code"),
    text("engineBackend", "What computes", "--backend", choices=("pytorch", "tensorrt", "_autodeploy")),
    text("tokenizer", "Path of another tokenizer", "--tokenizer"),
    integer("maxNumBatchedTokens", "Tokens of one step", "--max_num_tokens", minimum=1),
    integer("maxBeamWidth", "Beams of a search", "--max_beam_width", minimum=1),
    switch("enableChunkedPrefill", "Split long prompts over steps", "--enable_chunked_prefill"),
    text("chatTemplate", "Text or path of the chat template", "--chat_template"),
    text("reasoningParser", "Parser of thoughts", "--reasoning_parser"),
    text("toolCallParser", "Parser of tool calls", "--tool_parser"),
    text("extraLlmApiOptions", "YAML file with further settings", "--extra_llm_api_options"),
)  # fmt: skip

config_keys: tuple[ConfigKey, ...] = (_SLOTS, *_FLAGS, checkpoint.PIPELINE, config.EXTRA_ARGS, *config.DOWNLOAD)

_DENIED = {
    "--host": config.LISTENS,
    "--port": config.LISTENS,
    "--grpc": config.PLAIN_HTTP,
    "--revision": config.SOURCE,
    "--config": "config.extraLlmApiOptions says which file",
    "--tensor-parallel-size": config.COUNT,
    "--tp-size": config.COUNT,
    "--pipeline-parallel-size": "config.pipelineParallelSize says how many",
    "--pp-size": "config.pipelineParallelSize says how many",
    "--gpus-per-node": config.COUNT,
    "--max-batch-size": "config.maxNumSeqs says how many",
    "--custom-module-dirs": config.RUNS_CODE,
    "--custom-tokenizer": config.RUNS_CODE,
    "--server-role": "one engine serves alone",
    "--disagg-cluster-uri": "one engine serves alone",
    "--metadata-server-config-file": "one engine serves alone",
}


def plan(model: Model, site: Site) -> LaunchPlan:
    errors = config.wrong(model.spec.config, config_keys)
    if errors:
        raise errors[0]
    found = model.spec.config
    split = checkpoint.split(model, site)
    known = serving(model)
    args = ["serve", checkpoint.location(model, site), "--host", site.host, "--port", str(site.port)]
    args += ["--max_batch_size", str(known.slots)]
    if split.tensor > 1:
        args += ["--tp_size", str(split.tensor)]
    if split.pipeline > 1:
        args += ["--pp_size", str(split.pipeline)]
    args += config.argv(found, _FLAGS) + config.extra_args(found, _DENIED)
    return LaunchPlan(
        program="trtllm-serve",
        args=tuple(args),
        install_hint="install TensorRT-LLM (https://nvidia.github.io/TensorRT-LLM) and put `trtllm-serve` on PATH",
        env=devices.torch(site.devices) | ({"HF_HUB_OFFLINE": "1"} if site.artifact.path else {}),
        port=site.port,
        health_path="/health",
        slots=known.slots,
        writable_paths=writable(site),
        shm_mib=checkpoint.shm_mib(len(site.devices)),
        devices=site.devices,
        memory=checkpoint.memory(site, float(config.value(found, _SHARE, 0.9))),
        stop_grace_s=max(STOP_GRACE_S, site.drain_s + 10.0),
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
