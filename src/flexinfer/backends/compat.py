"""Which backend runs on which GPU architecture, and the reason when it does not.

The longest matching prefix of an architecture wins; one that is not listed is not refused, because
nobody has shown that it fails. "experimental" is started and said so.
"""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from flexinfer.api.v1alpha2.model import Model

Level = Literal["full", "experimental", "unsupported"]

CPU: dict[str, str | None] = {
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


_FULL = Verdict(level="full")
_MAXWELL = "Maxwell (compute capability 5.x) has no kernels for it"
_OLD = "it needs compute capability 7.0 or newer"

MATRIX: dict[str, dict[str, Verdict]] = {
    "sm_3": {
        "vllm": Verdict(level="unsupported", reason=_OLD),
        "vllm-omni": Verdict(level="unsupported", reason=_OLD),
        "sglang": Verdict(level="unsupported", reason=_OLD),
        "tgi": Verdict(level="unsupported", reason=_OLD),
        "tensorrt-llm": Verdict(level="unsupported", reason=_OLD),
    },
    "sm_5": {
        "vllm": Verdict(level="unsupported", reason=_MAXWELL),
        "vllm-omni": Verdict(level="unsupported", reason=_MAXWELL),
        "diffusers": Verdict(level="unsupported", reason=_MAXWELL),
        "comfyui": Verdict(level="unsupported", reason=_MAXWELL),
        "sglang": Verdict(level="unsupported", reason=_MAXWELL),
        "tgi": Verdict(level="unsupported", reason=_MAXWELL),
        "tensorrt-llm": Verdict(level="unsupported", reason=_MAXWELL),
        "ollama": _FULL,
        "llamacpp": _FULL,
        "mlc-llm": _FULL,
    },
    "sm_6": {
        "vllm": Verdict(level="unsupported", reason=_OLD),
        "vllm-omni": Verdict(level="unsupported", reason=_OLD),
        "sglang": Verdict(level="unsupported", reason=_OLD),
        "tgi": Verdict(level="unsupported", reason=_OLD),
        "tensorrt-llm": Verdict(level="unsupported", reason=_OLD),
    },
    "gfx110": dict.fromkeys(("vllm", "vllm-omni", "mlc-llm", "llamacpp", "ollama", "diffusers", "comfyui"), _FULL),
    "gfx906": {
        "diffusers": Verdict(level="experimental", reason="images on gfx906 may come out wrong"),
        "comfyui": Verdict(level="experimental", reason="images on gfx906 may come out wrong"),
        "mlc-llm": Verdict(level="experimental", reason="its gfx906 libraries are little used"),
    },
}

_HALF_PRECISION = re.compile(r"(?<![a-z0-9])(fp16|f16)(?![a-z0-9])", re.IGNORECASE)


def judge(backend: str, arch: str) -> Verdict:
    """How a backend does on an architecture (`sm_52`, `gfx1100`)."""
    prefixes = sorted((prefix for prefix in MATRIX if arch.startswith(prefix)), key=len, reverse=True)
    return MATRIX[prefixes[0]].get(backend, _FULL) if prefixes else _FULL


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
