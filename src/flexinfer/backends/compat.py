"""Which backend runs on which GPU architecture, and the reason when it does not.

The longest matching prefix of an architecture wins. A backend that is not in that row is not refused, because nobody
has shown that it fails. "experimental" is started and said so: it needs a build that the engine's own project does not
offer, or that its documents do not name. What was read where is in docs/engines.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

import msgspec

from flexinfer.api.v1alpha2.model import Model

Level = Literal["full", "experimental", "unsupported"]

CPU: Mapping[str, str | None] = {
    "llamacpp": None,
    "ollama": None,
    "vllm": None,
    "simulator": None,
    "external": None,
    "vllm-omni": "it needs a GPU",
    "mlc-llm": "its libraries are compiled for GPUs",
    "diffusers": "an image would take minutes",
    "comfyui": "an image would take minutes",
    "tensorrt-llm": "TensorRT runs on NVIDIA GPUs only",
    "sglang": "its CPU build is for servers with AMX and has not been tried",
    "tgi": "its CPU build has not been tried",
}
"""Backend -> None when it serves without a GPU, else the reason. vLLM needs its build for CPUs."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    level: Level
    reason: str = ""


def _no(reason: str) -> Verdict:
    return Verdict(level="unsupported", reason=reason)


def _try(reason: str) -> Verdict:
    return Verdict(level="experimental", reason=reason)


_FULL = Verdict(level="full")
_MAXWELL = _no("Maxwell (compute capability 5.x) has no kernels for it")
_OLD = _no("it needs compute capability 7.0 or newer")
_AMPERE = _no("its list of hardware begins with Ampere (compute capability 8.0)")
_FLASHINFER = _no("its attention kernels need compute capability 7.5 or newer")
_CUDA13 = _try("builds with CUDA 13 have no kernels for Volta")
_TORCH = _try("builds of PyTorch with CUDA 12.8 or newer have no kernels for it")
_CUDA12 = _try("builds with CUDA 12 have no kernels for it")
_NOT_LISTED = _try("its list of hardware does not name it")
_ROCM_GONE = _try("the images of its project have no kernels for it any more: name one of your own")
_INSTINCT = _try("its images are built for MI300 and MI350 only: name one of your own")
_IMAGES = _try("images on gfx906 may come out wrong")

_BELOW_VOLTA: Mapping[str, Verdict] = dict.fromkeys(("vllm", "vllm-omni", "sglang", "tgi", "tensorrt-llm"), _OLD)

MATRIX: Mapping[str, Mapping[str, Verdict]] = {
    # Kepler
    "sm_3": {
        **_BELOW_VOLTA,
        "ollama": _no("it needs compute capability 5.0 or newer"),
        "llamacpp": _CUDA12,
        "diffusers": _TORCH,
        "comfyui": _TORCH,
    },
    # Maxwell
    "sm_5": {
        **dict.fromkeys(("vllm", "vllm-omni", "diffusers", "comfyui", "sglang", "tgi", "tensorrt-llm"), _MAXWELL),
        **dict.fromkeys(("ollama", "llamacpp", "mlc-llm"), _FULL),
    },
    # Pascal
    "sm_6": {**_BELOW_VOLTA, "diffusers": _TORCH, "comfyui": _TORCH},
    # Volta
    "sm_7": {
        "vllm": _CUDA13, "vllm-omni": _CUDA13, "sglang": _FLASHINFER, "tgi": _NOT_LISTED, "tensorrt-llm": _AMPERE,
    },
    # Turing
    "sm_75": {"tensorrt-llm": _AMPERE},
    # Ampere, Ada, Hopper: nothing is refused.
    "sm_8": {},
    "sm_9": {},
    # Blackwell, for servers and for desktops
    "sm_10": {"tgi": _NOT_LISTED},
    "sm_12": {"tgi": _NOT_LISTED},
    # MI50, MI60, Radeon VII
    "gfx906": {
        **dict.fromkeys(("vllm", "vllm-omni", "llamacpp", "ollama"), _ROCM_GONE),
        "sglang": _INSTINCT,
        "tgi": _NOT_LISTED,
        "diffusers": _IMAGES,
        "comfyui": _IMAGES,
        "mlc-llm": _try("its gfx906 libraries are little used"),
    },
    # MI210, MI250
    "gfx90a": {"sglang": _INSTINCT},
    # MI300
    "gfx94": {},
    # MI350, MI355
    "gfx95": {"tgi": _NOT_LISTED},
    # RDNA 2
    "gfx103": {"vllm": _NOT_LISTED, "vllm-omni": _NOT_LISTED, "sglang": _INSTINCT, "tgi": _NOT_LISTED},
    # RDNA 3, RDNA 3.5, RDNA 4
    "gfx110": {"sglang": _INSTINCT, "tgi": _NOT_LISTED},
    "gfx115": {"sglang": _INSTINCT, "tgi": _NOT_LISTED},
    "gfx120": {"sglang": _INSTINCT, "tgi": _NOT_LISTED},
}  # fmt: skip

_HALF_PRECISION = re.compile(r"(?<![a-z0-9])(fp16|f16)(?![a-z0-9])", re.IGNORECASE)


def judge(backend: str, arch: str) -> Verdict:
    """How a backend does on an architecture (`sm_52`, `gfx1100`)."""
    row = max((prefix for prefix in MATRIX if arch.startswith(prefix)), key=len, default="")
    return MATRIX[row].get(backend, _FULL) if row else _FULL


def refusal(backend: str, arch: str, model: Model) -> str | None:
    """Why this model cannot run on this architecture, or None."""
    verdict = judge(backend, arch)
    if verdict.level == "unsupported":
        return f"{backend} does not run on {arch}: {verdict.reason}"
    if arch.startswith("sm_5"):
        return _maxwell(backend, arch, model)
    return None


def _maxwell(backend: str, arch: str, model: Model) -> str | None:
    if _HALF_PRECISION.search(model.spec.source):
        return f"{arch} (Maxwell) computes no half precision, and the source {model.spec.source} is of that type"
    if backend != "mlc-llm":
        return None
    library = model.spec.config.get("modelLibPath")
    if isinstance(library, str) and library.startswith("/models/"):
        return None
    if model.spec.source.startswith("file:///models/"):
        return None
    return f"mlc-llm on {arch} (Maxwell) needs a library compiled in FP32: set config.modelLibPath"
