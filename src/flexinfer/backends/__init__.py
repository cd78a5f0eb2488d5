"""Which process serves a model: the registry of backends, by name and alias."""

from __future__ import annotations

from flexinfer.api.v1alpha2.model import Model
from flexinfer.backends import (
    comfyui,
    config,
    diffusers,
    external,
    llamacpp,
    mlc,
    ollama,
    sglang,
    simulator,
    tensorrt_llm,
    tgi,
    vllm,
    vllm_omni,
)
from flexinfer.backends.base import Backend, Serving
from flexinfer.errors import FlexInferError, InvalidField

REGISTRY: tuple[Backend, ...] = (
    llamacpp, ollama, vllm, sglang, tgi, mlc, tensorrt_llm, vllm_omni, diffusers, comfyui, simulator, external,
)  # fmt: skip

_BY_NAME: dict[str, Backend] = {name: backend for backend in REGISTRY for name in (backend.name, *backend.aliases)}


class UnknownBackend(FlexInferError):
    """No backend has this name; the message has the nearest one."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"unknown backend {name!r}{config.hint(name, _BY_NAME)}")


def get(name: str) -> Backend:
    """The backend of a name or alias. Raises UnknownBackend."""
    try:
        return _BY_NAME[name]
    except KeyError:
        raise UnknownBackend(name) from None


def serving(model: Model) -> Serving:
    """What the proxy must know of the model's engine. Raises UnknownBackend."""
    return get(model.spec.backend).serving(model)


def check_config(model: Model) -> tuple[InvalidField, ...]:
    """What is wrong with `spec.config`: values of a wrong type first, then keys that nobody reads.

    Empty for a backend that is not known: that is another error.
    """
    backend = _BY_NAME.get(model.spec.backend)
    if backend is None or not backend.config_keys:
        return ()
    found = model.spec.config
    return config.wrong(found, backend.config_keys) + config.unknown(found, backend.config_keys)
