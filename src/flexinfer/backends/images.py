"""Container image of each backend, vendor and architecture: official ones, by tag, never `latest`.

A tag stands with the place it was read from and the date. None has been run by this project, and no digest is given
that nobody looked up. First match: `spec.image`, the installation's variable for the architecture, for the vendor, for
the backend, the table. `spec.imageDigest` pins whichever it is.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from flexinfer.api.v1alpha2.model import Model
from flexinfer.backends.base import Vendor
from flexinfer.errors import InvalidField


class Image(msgspec.Struct, frozen=True, kw_only=True):
    reference: str
    source: str
    seen: str
    """Date, YYYY-MM-DD."""
    archs: tuple[str, ...] = ()
    """Only for architectures that begin so."""
    not_archs: tuple[str, ...] = ()
    """No kernels for architectures that begin so."""


_SEEN = "2026-11-25"
_VLLM = "https://docs.vllm.ai/en/stable/deployment/docker/"
_VLLM_ROCM = "https://docs.vllm.ai/en/latest/getting_started/installation/gpu/ (AMD ROCm)"
_VLLM_XPU = "https://docs.vllm.ai/en/latest/getting_started/installation/gpu/ (Intel XPU)"
_VLLM_CPU = "https://docs.vllm.ai/en/latest/getting_started/installation/cpu/ (x86)"
_OMNI = "https://docs.vllm.ai/projects/vllm-omni/en/stable/getting_started/installation/gpu/"
_OLLAMA = "https://hub.docker.com/r/ollama/ollama/tags (<release>, <release>-rocm)"
_LLAMACPP = "https://github.com/ggml-org/llama.cpp/blob/master/docs/docker.md (server-<kind>-b<build>)"
_SGLANG = "https://docs.sglang.io/docs/get-started/install and https://hub.docker.com/r/lmsysorg/sglang/tags"
_TGI = "https://huggingface.co/docs/text-generation-inference (installation for NVIDIA, AMD, Intel)"
_OWN = "this repository: Dockerfile"

_OLD_AMD = ("gfx906",)


def _image(reference: str, source: str, *, archs: tuple[str, ...] = (), but: tuple[str, ...] = ()) -> Image:
    return Image(reference=reference, source=source, seen=_SEEN, archs=archs, not_archs=but)


IMAGES: Mapping[str, Mapping[Vendor, tuple[Image, ...]]] = {
    "ollama": {
        "nvidia": (_image("ollama/ollama:0.33.3", _OLLAMA),),
        "amd": (_image("ollama/ollama:0.33.3-rocm", _OLLAMA, but=_OLD_AMD),),
        "cpu": (_image("ollama/ollama:0.33.3", _OLLAMA),),
    },
    "vllm": {
        "nvidia": (_image("vllm/vllm-openai:v0.32.0", _VLLM, but=("sm_5", "sm_6")),),
        "amd": (_image("vllm/vllm-openai-rocm:v0.32.0", _VLLM_ROCM, but=_OLD_AMD),),
        "intel": (_image("vllm/vllm-openai-xpu:v0.32.0", _VLLM_XPU),),
        "cpu": (_image("vllm/vllm-openai-cpu:v0.32.0-x86_64", _VLLM_CPU),),
    },
    "vllm-omni": {
        "nvidia": (_image("vllm/vllm-omni:v0.28.0", _OMNI),),
    },
    "llamacpp": {
        "nvidia": (_image("ghcr.io/ggml-org/llama.cpp:server-cuda-b11243", _LLAMACPP),),
        "amd": (_image("ghcr.io/ggml-org/llama.cpp:server-rocm-b11243", _LLAMACPP, but=_OLD_AMD),),
        "intel": (_image("ghcr.io/ggml-org/llama.cpp:server-intel-b11243", _LLAMACPP),),
        "cpu": (_image("ghcr.io/ggml-org/llama.cpp:server-b11243", _LLAMACPP),),
    },
    "sglang": {
        "nvidia": (_image("lmsysorg/sglang:v0.5.18", _SGLANG),),
        "amd": (
            _image("lmsysorg/sglang:v0.5.18-rocm720-mi30x", _SGLANG, archs=("gfx94",)),
            _image("lmsysorg/sglang:v0.5.18-rocm720-mi35x", _SGLANG, archs=("gfx95",)),
        ),
        "cpu": (_image("lmsysorg/sglang:v0.5.18-xeon", _SGLANG),),
    },
    "tgi": {
        "nvidia": (_image("ghcr.io/huggingface/text-generation-inference:3.3.5", _TGI),),
        "amd": (_image("ghcr.io/huggingface/text-generation-inference:3.3.5-rocm", _TGI, but=_OLD_AMD),),
        "intel": (_image("ghcr.io/huggingface/text-generation-inference:3.3.5-intel-xpu", _TGI),),
        "cpu": (_image("ghcr.io/huggingface/text-generation-inference:3.3.5-intel-cpu", _TGI),),
    },
}
"""Backends that are not here have no image of their own project with a server in it: the installation names one.

Where several images of one vendor are listed, the first for the architecture counts.
"""

OWN_IMAGE = "FLEXINFER_IMAGE"
"""The variable that names the image FlexInfer itself runs from; the simulator runs from it too."""
DEFAULT_BACKEND_IMAGE = "DEFAULT_BACKEND_IMAGE"
"""The variable for ModelDeployments that name no backend: an image of Ollama."""

_VENDORS: Mapping[Vendor, str] = {"nvidia": "", "amd": "_AMD", "intel": "_INTEL", "cpu": "_CPU"}
_ARCHS: Mapping[str, str] = {"sm_5": "_MAXWELL", "gfx110": "_GFX1100", "gfx906": "_GFX906"}


def variables(backend: str, vendor: Vendor, arch: str = "") -> tuple[str, ...]:
    """The environment variables that name an image, the first that is set counts: `DEFAULT_VLLM_IMAGE_GFX1100`, …"""
    stem = f"DEFAULT_{backend.upper().replace('-', '_')}_IMAGE"
    suffixes = [suffix for prefix, suffix in _ARCHS.items() if arch.startswith(prefix)]
    return tuple(dict.fromkeys(stem + suffix for suffix in (*suffixes, _VENDORS[vendor], "")))


def image(backend: str, vendor: Vendor, arch: str, environment: Mapping[str, str]) -> str:
    """The image an installation runs; empty where nobody has named one and the table has none."""
    for name in variables(backend, vendor, arch):
        if environment.get(name):
            return environment[name]
    if backend == "simulator":
        return environment.get(OWN_IMAGE, "")
    known = IMAGES.get(backend, {}).get(vendor, ())
    return next((one.reference for one in known if _fits(one, arch)), "")


def resolve(model: Model, backend: str, vendor: Vendor, arch: str, environment: Mapping[str, str]) -> str:
    """The image of one Model, with its digest where it gives one. `backend` is the canonical name.

    Raises InvalidField where nobody names an image.
    """
    found = model.spec.image or image(backend, vendor, arch, environment)
    if not found:
        where = f"{vendor} ({arch})" if arch else vendor
        raise InvalidField("spec.image", model.spec.image, _expected(backend, where, variables(backend, vendor, arch)))
    digest = model.spec.image_digest
    return pinned(found, digest) if digest else found


def pinned(reference: str, digest: str) -> str:
    """`repository:tag@sha256:…`; a digest that the reference has is replaced."""
    return f"{reference.partition('@')[0]}@sha256:{digest.removeprefix('sha256:')}"


def default_backend_image(environment: Mapping[str, str]) -> str:
    """What a ModelDeployment without a backend runs."""
    return environment.get(DEFAULT_BACKEND_IMAGE) or image("ollama", "nvidia", "", environment)


def _fits(one: Image, arch: str) -> bool:
    if one.archs and arch and not arch.startswith(one.archs):
        return False
    return not (one.not_archs and arch.startswith(one.not_archs))


def _expected(backend: str, where: str, names: tuple[str, ...]) -> str:
    if backend == "simulator":
        return f"an image of FlexInfer: {OWN_IMAGE} names none"
    known = f"no image of {backend} for {where} is known" if backend in IMAGES else f"{backend} has no official image"
    return f"an image of yours: {known}, and the installation sets none of {', '.join(names)}"
