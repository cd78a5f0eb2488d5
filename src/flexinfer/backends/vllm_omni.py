"""vLLM-Omni: images, speech and video from a checkpoint, by `vllm serve --omni`.

It is vLLM with further options; those here are of release 0.28. Rendered only: no run of it has been seen by this
project.
"""

from __future__ import annotations

from flexinfer.api.v1alpha2.model import Model
from flexinfer.backends import checkpoint, config, devices
from flexinfer.backends.base import SETTLE_S, LaunchPlan, Reads, Serving, Site, Upstream, Vendor, writable
from flexinfer.backends.config import ConfigKey, either, fraction, integer, json_text, switch, text

name = "vllm-omni"
aliases = ("vllm-diffusion", "vllm_omni")
port = 8000
reads: Reads = "checkpoint"
vendors: tuple[Vendor, ...] = ("nvidia", "amd")
process = True
image_generation = True
runs_locally = True

DEFAULT_SLOTS = 4
"""An image takes the whole GPU; more only wait in the engine."""
STOP_GRACE_S = 30.0

_SLOTS = integer("maxNumSeqs", "Requests sent at once (default 4)", minimum=1)
_SHARE = fraction("gpuMemoryUtilization", "Share of the GPU's memory to use", "--gpu-memory-utilization")
_SERVED_NAME = text("servedModelName", "A further name of the model")

_FLAGS: tuple[ConfigKey, ...] = (
    text("dtype", "Type of weights and activations", "--dtype"),
    integer("maxModelLen", "Tokens of context", "--max-model-len", minimum=1),
    _SHARE,
    switch("trustRemoteCode", "Run code that comes with the model", "--trust-remote-code"),
    either("enforceEager", "No CUDA graphs", "--enforce-eager"),
    text("quantization", "How the weights are quantized", "--quantization"),
    text("taskType", "What the model is started for", "--task-type"),
    integer("ulyssesDegree", "Devices that share the sequence of one image", "--ulysses-degree", minimum=1),
    text("modelClassName", "Pipeline, instead of the checkpoint's own", "--model-class-name"),
    text("diffusionLoadFormat", "How the pipeline is loaded", "--diffusion-load-format"),
    json_text("diffusionQuantizationConfig", "How a diffusion model is quantized", "--diffusion-quantization-config"),
    json_text("diffusersLoadKwargs", "Arguments of DiffusionPipeline.from_pretrained", "--diffusers-load-kwargs"),
    json_text("diffusersCallKwargs", "Arguments of each call of the pipeline", "--diffusers-call-kwargs"),
    text("deployConfig", "File that says the stages of a model", "--deploy-config"),
    json_text("stageOverrides", "Changes to the stages of a model", "--stage-overrides"),
    integer("initTimeout", "Seconds until all stages must be there", "--init-timeout", minimum=1),
)  # fmt: skip

config_keys: tuple[ConfigKey, ...] = (_SLOTS, *_FLAGS, _SERVED_NAME, config.EXTRA_ARGS, *config.DOWNLOAD)

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
    "--num-gpus": config.COUNT,
    "--data-parallel-size": "vLLM-Omni does not take it",
    "--api-key": config.KEYS,
    "--ssl-keyfile": config.PLAIN_HTTP,
    "--ssl-certfile": config.PLAIN_HTTP,
    "--headless": "it serves no requests",
    "--omni-master-address": "one replica runs on one node",
    "--ray-address": "one replica runs on one node",
    "--middleware": config.RUNS_CODE,
    "--worker-extension-cls": config.RUNS_CODE,
    "--custom-pipeline-args": config.RUNS_CODE,
    "--allowed-local-media-path": "it lets clients read files",
    "--log-file": "the log is kept by FlexInfer",
}


def plan(model: Model, site: Site) -> LaunchPlan:
    errors = config.wrong(model.spec.config, config_keys)
    if errors:
        raise errors[0]
    found = model.spec.config
    count = checkpoint.count(model, site)
    args = ["serve", checkpoint.location(model, site), "--omni", "--host", site.host, "--port", str(site.port)]
    args += ["--served-model-name", *_served_names(model)]
    if count > 1:
        args += ["--tensor-parallel-size", str(count)]
    args += config.argv(found, _FLAGS) + config.extra_args(found, _DENIED)
    env = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"} | devices.torch(site.devices)
    return LaunchPlan(
        program="vllm",
        args=tuple(args),
        install_hint="install vLLM and vLLM-Omni of the same release (https://docs.vllm.ai/projects/vllm-omni) "
        "and put `vllm` on PATH",
        env=env | ({"HF_HUB_OFFLINE": "1"} if site.artifact.path else {}),
        port=site.port,
        health_path="/health",
        metrics_path="/metrics",
        slots=serving(model).slots,
        writable_paths=writable(site),
        shm_mib=checkpoint.shm_mib(count),
        devices=site.devices,
        memory=checkpoint.memory(site, float(config.value(found, _SHARE, 0.9))),
        stop_grace_s=max(STOP_GRACE_S, site.drain_s + 10.0),
        pre_stop_s=SETTLE_S,
    )


def serving(model: Model) -> Serving:
    return Serving(slots=int(config.value(model.spec.config, _SLOTS, DEFAULT_SLOTS)))


def upstream(model: Model) -> Upstream | None:
    return None


def _served_names(model: Model) -> tuple[str, ...]:
    return checkpoint.names(model, config.value(model.spec.config, _SERVED_NAME, ""))
