"""Container image of each backend and vendor: official ones, by tag, never `latest`.

A tag stands with the place it was read from and the date. None of them has been run by this project
yet, and no digest is given that nobody looked up; an installation overrides them by environment,
a Model by `spec.image` and `spec.imageDigest`.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from flexinfer.backends.base import Vendor


class Image(msgspec.Struct, frozen=True, kw_only=True):
    reference: str
    source: str
    seen: str
    """Date, YYYY-MM-DD."""


_VLLM = "https://docs.vllm.ai/en/stable/deployment/docker.html (tag scheme v<release>)"
_ROCM = "https://rocm.docs.amd.com (history of the vLLM image)"
_OLLAMA = "https://hub.docker.com/r/ollama/ollama (tag scheme <release>, <release>-rocm)"
_LLAMACPP = "https://github.com/ggml-org/llama.cpp/blob/master/docs/docker.md (tag scheme server-<kind>-b<build>)"
_SEEN = "2026-11-25"


def _image(reference: str, source: str) -> Image:
    return Image(reference=reference, source=source, seen=_SEEN)


IMAGES: Mapping[str, Mapping[Vendor, Image]] = {
    "ollama": {
        "nvidia": _image("ollama/ollama:0.12.6", _OLLAMA),
        "amd": _image("ollama/ollama:0.12.6-rocm", _OLLAMA),
        "cpu": _image("ollama/ollama:0.12.6", _OLLAMA),
    },
    "vllm": {
        "nvidia": _image("vllm/vllm-openai:v0.32.0", _VLLM),
        "amd": _image("rocm/vllm:rocm7.0.0_vllm_0.11.2_20251210", _ROCM),
    },
    "llamacpp": {
        "nvidia": _image("ghcr.io/ggml-org/llama.cpp:server-cuda-b6715", _LLAMACPP),
        "amd": _image("ghcr.io/ggml-org/llama.cpp:server-rocm-b6715", _LLAMACPP),
        "cpu": _image("ghcr.io/ggml-org/llama.cpp:server-b6715", _LLAMACPP),
    },
}
"""Backends that are not here have no image of others that we could name: the installation names one."""

_SUFFIX: Mapping[Vendor, str] = {"nvidia": "", "amd": "_AMD", "intel": "_INTEL", "cpu": "_CPU"}


def variable(backend: str, vendor: Vendor) -> str:
    """The environment variable that overrides an image: `DEFAULT_LLAMACPP_IMAGE_AMD`."""
    return f"DEFAULT_{backend.upper().replace('-', '_')}_IMAGE{_SUFFIX[vendor]}"


def image(backend: str, vendor: Vendor, environment: Mapping[str, str]) -> str:
    """The image to run; empty when nobody has named one. The vendor's variable comes before the backend's own."""
    for name in (variable(backend, vendor), variable(backend, "nvidia")):
        if environment.get(name):
            return environment[name]
    known = IMAGES.get(backend, {}).get(vendor)
    return known.reference if known is not None else ""
