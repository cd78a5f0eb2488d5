"""Engines that are known by name and not yet planned: a manifest that names one is told so.

Names, ports and vendors are facts that other packages use (image defaults, idle time-outs of image
backends); asking one for a plan is refused.
"""

from __future__ import annotations

import msgspec

from flexinfer.api.v1alpha2.model import Model
from flexinfer.backends.base import LaunchPlan, Reads, Serving, Site, Upstream, Vendor
from flexinfer.backends.config import ConfigKey
from flexinfer.errors import InvalidField


class Declared(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    aliases: tuple[str, ...] = ()
    port: int
    image_generation: bool = False
    vendors: tuple[Vendor, ...] = ("nvidia", "amd")
    reads: Reads = "checkpoint"
    config_keys: tuple[ConfigKey, ...] = ()
    process: bool = True
    runs_locally: bool = False

    def plan(self, model: Model, site: Site) -> LaunchPlan:
        raise InvalidField(
            "spec.backend", model.spec.backend, "a backend that runs here: this version does not start it yet"
        )

    def serving(self, model: Model) -> Serving:
        return Serving(slots=1)

    def upstream(self, model: Model) -> Upstream | None:
        return None


ENGINES: tuple[Declared, ...] = (
    Declared(name="vllm-omni", aliases=("vllm-diffusion", "vllm_omni"), port=8000, image_generation=True),
    Declared(name="mlc-llm", aliases=("mlc", "mlc_llm", "mlc-llm-chat"), port=8000),
    Declared(name="diffusers", port=8000, image_generation=True),
    Declared(name="comfyui", aliases=("comfy", "comfy-ui", "comfy_ui"), port=8188, image_generation=True),
    Declared(name="tensorrt-llm", aliases=("tensorrt_llm",), port=8000, vendors=("nvidia",)),
    Declared(name="sglang", port=30000),
    Declared(name="tgi", port=8080),
)
