"""What an engine takes besides weights and KV cache.

llama.cpp's compute buffer follows from the model: logits and activations of one physical batch.
What vLLM's profiling run takes does not follow from the model alone: its version and its limits of
tokens and sequences per batch decide, and measurements of one version differ by a factor of three.
So there is a band and a middle, from the rows of `tests/data/calibration/vram_measured.csv`:

    low    least measured / SPREAD      middle  median      high   most measured * SPREAD

SPREAD is the smallest factor, to one decimal, with which the band made of all other rows of a
version holds each row in turn (tests/unit/artifacts/test_calibration.py computes it again).
"""

from __future__ import annotations

import msgspec

from flexinfer.artifacts.architecture import Architecture

MIB = 2**20
RUNTIME_CPU_MIB = 64
RUNTIME_GPU_MIB = 320
"""A CUDA or HIP context and the engine's own libraries."""
SPREAD = 2.2


class Band(msgspec.Struct, frozen=True, kw_only=True):
    """MiB of one GPU: activations of the largest batch and what is allocated outside of PyTorch."""

    low_mib: int
    middle_mib: int
    high_mib: int
    rows: int
    """How many measurements it rests on."""


VLLM: dict[str, Band] = {
    "0.6": Band(low_mib=1419, middle_mib=4956, high_mib=21334, rows=3),
    "0.11": Band(low_mib=1051, middle_mib=5827, high_mib=16918, rows=9),
    "": Band(low_mib=265, middle_mib=5827, high_mib=21334, rows=13),
}
"""By version; the empty one is all versions together."""


def band(engine: str, version: str = "") -> Band:
    """The band of an engine's version, of all versions where that one was not measured.

    Engines that were never measured get vLLM's: they reserve for the same reasons.
    """
    minor = ".".join(version.split(".")[:2])
    return VLLM.get(minor, VLLM[""]) if engine == "vllm" else VLLM[""]


def llamacpp_bytes(model: Architecture, ubatch: int, *, gpu: bool) -> int:
    """Compute buffer and runtime of llama.cpp."""
    compute = ubatch * (model.vocabulary + model.embedding) * 4
    return -(-compute // MIB) * MIB + (RUNTIME_GPU_MIB if gpu else RUNTIME_CPU_MIB) * MIB
