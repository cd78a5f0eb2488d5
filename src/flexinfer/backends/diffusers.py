"""diffusers: images from a pipeline of Hugging Face diffusers, by a server that you bring as an image.

The library has no server of its own. The image's entry point reads everything from its environment: MODEL_ID (a folder
or a hub name), MODEL (the name in answers), HOST, PORT, and the settings below. It answers `GET /health` and
`POST /v1/images/generations`. Rendered only.
"""

from __future__ import annotations

from flexinfer.api.v1alpha2.model import Model
from flexinfer.backends import checkpoint, config, devices
from flexinfer.backends.base import SETTLE_S, LaunchPlan, Reads, Serving, Site, Upstream, Vendor, writable
from flexinfer.backends.config import ConfigKey, integer, number, switch, text

name = "diffusers"
aliases: tuple[str, ...] = ()
port = 8000
reads: Reads = "checkpoint"
vendors: tuple[Vendor, ...] = ("nvidia", "amd")
process = True
image_generation = True
runs_locally = False

DEFAULT_SLOTS = 1
STOP_GRACE_S = 30.0

_SLOTS = integer("slots", "Images computed at once (default 1)", minimum=1)
_ENV: tuple[tuple[ConfigKey, str], ...] = (
    (integer("numInferenceSteps", "Steps of one image", minimum=1), "DEFAULT_NUM_INFERENCE_STEPS"),
    (number("guidanceScale", "How closely the prompt is followed", minimum=0), "DEFAULT_GUIDANCE_SCALE"),
    (text("scheduler", "Scheduler of the steps"), "DEFAULT_SCHEDULER"),
    (text("negativePrompt", "What images should not show"), "DEFAULT_NEGATIVE_PROMPT"),
    (switch("useFp16", "Compute in half precision"), "USE_FP16"),
    (text("vaePath", "Path of another VAE"), "VAE_PATH"),
    (text("vaeRepo", "Hub name of another VAE"), "VAE_REPO"),
    (text("pipelineMode", "What the pipeline does (text2img, img2img, …)"), "PIPELINE_MODE"),
    (number("strength", "How far an image is changed", minimum=0), "DEFAULT_STRENGTH"),
    (number("imageGuidanceScale", "How closely an image is followed", minimum=0), "DEFAULT_IMAGE_GUIDANCE_SCALE"),
    (switch("skipWarmup", "No image before the first request"), "SKIP_WARMUP"),
    (integer("warmupWidth", "Width of that image", minimum=1), "WARMUP_WIDTH"),
    (integer("warmupHeight", "Height of that image", minimum=1), "WARMUP_HEIGHT"),
    (switch("cpuOffload", "Keep parts in host memory"), "USE_CPU_OFFLOAD"),
)
"""Key and variable."""

config_keys: tuple[ConfigKey, ...] = (_SLOTS, *(key for key, _ in _ENV), config.EXTRA_ARGS, *config.DOWNLOAD)


def plan(model: Model, site: Site) -> LaunchPlan:
    errors = config.wrong(model.spec.config, config_keys)
    if errors:
        raise errors[0]
    found = model.spec.config
    env = {
        "MODEL_ID": checkpoint.location(model, site),
        "MODEL": model.metadata.name,
        "HOST": site.host,
        "PORT": str(site.port),
    }
    env |= {variable: config.written(found[key.name]) for key, variable in _ENV if key.name in found}
    if site.artifact.path:
        env["HF_HUB_OFFLINE"] = "1"
    return LaunchPlan(
        program="diffusers-server",
        args=tuple(config.extra_args(found, {})),
        image_starts=True,
        install_hint="diffusers has no server of its own: put a program of that name on PATH, docs/engines.md says "
        "what it reads",
        env=env | devices.torch(site.devices),
        port=site.port,
        health_path="/health",
        slots=serving(model).slots,
        writable_paths=writable(site),
        devices=site.devices,
        memory=checkpoint.memory(site, 0.0),
        stop_grace_s=max(STOP_GRACE_S, site.drain_s + 10.0),
        pre_stop_s=SETTLE_S,
    )


def serving(model: Model) -> Serving:
    return Serving(slots=int(config.value(model.spec.config, _SLOTS, DEFAULT_SLOTS)))


def upstream(model: Model) -> Upstream | None:
    return None
