"""ComfyUI: image workflows, in an image that you bring, whose working directory is ComfyUI's own folder.

Its project publishes no image. The source is a folder laid out like ComfyUI's `models` (checkpoints, loras, vae, …).
Rendered only: no run of it has been seen by this project.
"""

from __future__ import annotations

from flexinfer.api.v1alpha2.model import Model
from flexinfer.backends import checkpoint, config, devices
from flexinfer.backends.base import SETTLE_S, LaunchPlan, Reads, Serving, Site, Upstream, Vendor, writable
from flexinfer.backends.config import ConfigKey, integer, switch, text
from flexinfer.errors import InvalidField

name = "comfyui"
aliases = ("comfy", "comfy-ui", "comfy_ui")
port = 8188
reads: Reads = "checkpoint"
vendors: tuple[Vendor, ...] = ("nvidia", "amd")
process = True
image_generation = True
runs_locally = False

DEFAULT_SLOTS = 1
STOP_GRACE_S = 30.0

_SLOTS = integer("slots", "Workflows queued at once (default 1)", minimum=1)
_CORS = switch("enableCORS", "Let web pages of any origin call it", "--enable-cors-header")
_MODELS = text("modelsPath", "Folder of models (default: the source)")
_CUSTOM_NODES = text("customNodesPath", "Folder of further nodes; it must be called custom_nodes")
_OUTPUT = text("outputDirectory", "Folder that images are written to")

config_keys: tuple[ConfigKey, ...] = (
    _SLOTS, _CORS, _MODELS, _CUSTOM_NODES, _OUTPUT, config.EXTRA_ARGS, *config.DOWNLOAD,
)  # fmt: skip

_DENIED = {
    "--listen": config.LISTENS,
    "--port": config.LISTENS,
    "--tls-keyfile": config.PLAIN_HTTP,
    "--tls-certfile": config.PLAIN_HTTP,
    "--models-directory": "config.modelsPath says which folder",
    "--base-directory": "config.customNodesPath says which folder",
    "--output-directory": "config.outputDirectory says which folder",
    "--cuda-device": config.COUNT,
    "--auto-launch": "there is no browser",
    "--front-end-version": "it downloads code",
}


def plan(model: Model, site: Site) -> LaunchPlan:
    errors = config.wrong(model.spec.config, config_keys)
    if errors:
        raise errors[0]
    found = model.spec.config
    args = ["--listen", site.host, "--port", str(site.port)]
    args += ["--models-directory", config.value(found, _MODELS, "") or checkpoint.location(model, site)]
    nodes = config.value(found, _CUSTOM_NODES, "")
    if nodes:
        args += ["--base-directory", _parent(nodes)]
    output = config.value(found, _OUTPUT, "") or (f"{site.state_dir}/output" if site.state_dir else "")
    if output:
        args += ["--output-directory", output]
    if site.state_dir:
        args += [
            "--temp-directory",
            f"{site.state_dir}/temp",
            "--database-url",
            f"sqlite:///{site.state_dir}/comfyui.db",
        ]
    args += config.argv(found, (_CORS,)) + config.extra_args(found, _DENIED)
    return LaunchPlan(
        program="comfyui",
        args=tuple(args),
        command=("python", "main.py"),
        install_hint="put a program named comfyui on PATH that starts main.py of your ComfyUI with its arguments",
        env=devices.torch(site.devices) | {"DO_NOT_TRACK": "1"},
        port=site.port,
        health_path="/system_stats",
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


def _parent(nodes: str) -> str:
    """The base directory whose `custom_nodes` it is. Raises InvalidField for a folder of another name."""
    parent, _, last = nodes.rstrip("/").rpartition("/")
    if last != "custom_nodes":
        raise InvalidField(f"spec.config.{_CUSTOM_NODES.name}", nodes, "a folder that is called custom_nodes")
    return parent or "/"
