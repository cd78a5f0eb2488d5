"""Ollama: one `ollama serve` for one model, known to it by the tag of the source.

On one machine it pulls the tag before the model is Ready. In a cluster the tag lies on the cache volume already, in
Ollama's own layout, and the engine must not remove there what it does not know. It never unloads the model by itself:
that is FlexInfer's decision.
"""

from __future__ import annotations

import msgspec

from flexinfer.api.hosts import literal
from flexinfer.api.v1alpha2.model import Model
from flexinfer.artifacts import source
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

name = "ollama"
aliases: tuple[str, ...] = ()
port = 11434
reads: Reads = "registry"
vendors: tuple[Vendor, ...] = ("nvidia", "amd", "cpu")
process = True
image_generation = False
runs_locally = True

DEFAULT_PARALLEL = 4

_PARALLEL = integer("parallel", "Requests computed at once (default 4)", minimum=1)
_CONTEXT = integer("contextSize", "Tokens of context of one request", minimum=1)
_FLASH = switch("flashAttention", "Flash attention")
_CACHE_TYPE = text("kvCacheType", "Type of the KV cache", choices=("f16", "q8_0", "q4_0"))
config_keys: tuple[ConfigKey, ...] = (_PARALLEL, _CONTEXT, _FLASH, _CACHE_TYPE)


def plan(model: Model, site: Site) -> LaunchPlan:
    errors = config.wrong(model.spec.config, config_keys)
    if errors:
        raise errors[0]
    tag = _tag(model.spec.source)
    if tag is None:
        raise InvalidField("spec.source", model.spec.source, "a name of Ollama's registry, such as ollama://llama3:8b")
    known = serving(model)
    return LaunchPlan(
        program="ollama",
        command=("/bin/ollama",),
        args=("serve",),
        install_hint="install Ollama (https://ollama.com/download) and put `ollama` on PATH",
        env=_env(model, site),
        port=site.port,
        health_path="/",
        prepare=() if site.artifact.path else (("POST", "/api/pull", msgspec.json.encode({"model": tag})),),
        slots=known.slots,
        served_model=known.served_model,
        user=devices.user(site.devices),
        writable_paths=writable(site),
        devices=site.devices,
        memory=Memory(weights_mib=-(-site.artifact.size_bytes // 2**20)),
        stop_grace_s=10.0,
        # It drops what is open when it is told to stop: whoever stops it drains it first.
        pre_stop_s=SETTLE_S,
    )


def serving(model: Model) -> Serving:
    found = model.spec.config
    context = config.value(found, _CONTEXT, None)
    return Serving(
        slots=int(config.value(found, _PARALLEL, DEFAULT_PARALLEL)),
        served_model=_tag(model.spec.source),
        context_tokens=None if context is None else int(context),
    )


def upstream(model: Model) -> Upstream | None:
    return None


def _tag(text: str) -> str | None:
    """`llama3:8b` of `ollama://llama3:8b`; None for a source of another kind."""
    try:
        parsed = source.parse(text)
    except InvalidField:
        return None
    return parsed.model if isinstance(parsed, source.Ollama) else None


def _env(model: Model, site: Site) -> dict[str, str]:
    found = model.spec.config
    env = {"OLLAMA_HOST": f"{literal(site.host)}:{site.port}", "OLLAMA_KEEP_ALIVE": "-1"}
    env["OLLAMA_NUM_PARALLEL"] = str(serving(model).slots)
    env["OLLAMA_MAX_LOADED_MODELS"] = "1"
    if site.artifact.path:
        env |= {"OLLAMA_MODELS": site.artifact.path, "OLLAMA_NOPRUNE": "1"}
    context = config.value(found, _CONTEXT, None)
    if context is not None:
        env["OLLAMA_CONTEXT_LENGTH"] = str(int(context))
    if config.value(found, _FLASH, False):
        env["OLLAMA_FLASH_ATTENTION"] = "1"
    cache_type = config.value(found, _CACHE_TYPE, "")
    if cache_type:
        env["OLLAMA_KV_CACHE_TYPE"] = cache_type
    return env | _devices(site)


def _devices(site: Site) -> dict[str, str]:
    """Its ROCm library reads CUDA_VISIBLE_DEVICES too, and takes -1 for itself; it knows its architectures."""
    env = devices.visible(site.devices)
    if any(device.vendor == "amd" for device in site.devices):
        del env["CUDA_VISIBLE_DEVICES"]
        env["OLLAMA_LLM_LIBRARY"] = "rocm"
    return env
