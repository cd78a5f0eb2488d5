"""How much memory one replica takes: weights + KV cache + overhead, in MiB.

weights   sum of the tensors' bytes, exact
KV cache  per layer and token kv_heads * (key * bytes(K) + value * bytes(V)); a layer with a sliding
          window keeps the window only; a recurrent layer keeps a fixed state; with latent attention
          (MLA) only the latent is kept
overhead  what the engine takes besides, see `overhead`

llama.cpp: tokens are those of all slots together, rounded per slot to blocks of 256. Calibrated on
its logs: 36 layers, 2 KV heads of 128, 4,096 tokens, F16: 144 MiB of KV and 300.75 MiB of compute
buffer (ubatch 512, vocabulary 151,936). `docs/memory.md` has what was measured elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from flexinfer.artifacts import architecture, ggml, overhead
from flexinfer.artifacts.architecture import Architecture, Layer
from flexinfer.artifacts.gguf import GGUFFacts

MIB = 2**20
CONTEXT_BLOCK = 256
STATE_BYTES = 4
"""Recurrent states are kept in F32."""
Sizer = Callable[[int], int]
"""Tokens of context -> MiB in all."""


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """Estimated memory of one replica, MiB."""

    weights_mib: int = 0
    kv_cache_mib: int = 0
    overhead_mib: int = 0

    @property
    def total_mib(self) -> int:
        return self.weights_mib + self.kv_cache_mib + self.overhead_mib


class Use(msgspec.Struct, frozen=True, kw_only=True):
    """How the engine is run."""

    context: int = 0
    """Tokens of all slots together; 0: what the model was trained for."""
    parallel: int = 1
    cache_type_k: str = "f16"
    cache_type_v: str = "f16"
    ubatch: int = 512
    gpu: bool = False


def estimate(facts: GGUFFacts, use: Use) -> Memory:
    """Memory of one llama.cpp replica."""
    model = architecture.of_gguf(facts)
    extra = overhead.llamacpp_bytes(model, use.ubatch, gpu=use.gpu)
    return Memory(
        weights_mib=_mib(facts.tensor_bytes),
        kv_cache_mib=_mib(gguf_cache_bytes(model, use)),
        overhead_mib=_mib(extra),
    )


def trained_context(facts: GGUFFacts) -> int:
    """Tokens; 0 where the header does not say."""
    return facts.integer("context_length")


def gguf_cache_bytes(model: Architecture, use: Use) -> int:
    """Bytes of KV cache and recurrent state of all slots of llama.cpp."""
    parallel = max(use.parallel, 1)
    context = use.context or model.trained_context * parallel
    per_slot = _padded(-(-context // parallel))
    k_bytes, v_bytes = ggml.bytes_per_value(use.cache_type_k), ggml.bytes_per_value(use.cache_type_v)
    total = 0.0
    for layer in model.layers:
        kept = min(per_slot, _padded(layer.window + use.ubatch)) if layer.window else per_slot
        total += parallel * (kept * _token_bytes(layer, k_bytes, v_bytes) + layer.state_values * STATE_BYTES)
    return int(total)


class Serving(msgspec.Struct, frozen=True, kw_only=True):
    """How an engine for checkpoints is run."""

    context: int
    """Tokens of all sequences together."""
    sequences: int = 1
    gpus: int = 1
    """The model is split over so many (tensor parallel); figures are those of one."""
    cache_bytes: float = 0
    """Of one cached value; 0: as the model computes."""
    engine: str = "vllm"
    version: str = ""


def estimate_checkpoint(model: Architecture, weights_bytes: int, serving: Serving) -> Memory:
    """Memory of one GPU of an engine that loads a checkpoint. The overhead is the middle of a wide band."""
    band = overhead.band(serving.engine, serving.version)
    return Memory(
        weights_mib=_mib(-(-weights_bytes // max(serving.gpus, 1))),
        kv_cache_mib=_mib(checkpoint_cache_bytes(model, serving)),
        overhead_mib=band.middle_mib,
    )


def checkpoint_cache_bytes(model: Architecture, serving: Serving) -> int:
    """Bytes of KV cache and states on one of the GPUs."""
    value_bytes = serving.cache_bytes or model.value_bytes
    sequences, gpus = max(serving.sequences, 1), max(serving.gpus, 1)
    each = -(-serving.context // sequences)
    total = 0.0
    for layer in model.layers:
        kept = min(each, layer.window) if layer.window else each
        state = -(-layer.state_values // gpus) * STATE_BYTES
        total += sequences * (kept * _token_bytes(layer, value_bytes, value_bytes, gpus) + state)
    return int(total)


def token_bytes(model: Architecture, gpus: int = 1, value_bytes: float = 0) -> float:
    """Bytes that one more token takes on one of `gpus` GPUs, while it lies inside every window."""
    size = value_bytes or model.value_bytes
    return sum(_token_bytes(layer, size, size, gpus) for layer in model.layers)


def largest_context(total_mib_of: Sizer, room_mib: int, most: int) -> int:
    """The most tokens whose total fits into `room_mib`, in blocks of 256 and at most `most`; 0: not even one block."""
    low, high = 0, max(most, 0) // CONTEXT_BLOCK
    if most > 0 and total_mib_of(most) <= room_mib:
        return most
    while low < high:
        middle = (low + high + 1) // 2
        if total_mib_of(middle * CONTEXT_BLOCK) <= room_mib:
            low = middle
        else:
            high = middle - 1
    return low * CONTEXT_BLOCK


def _token_bytes(layer: Layer, k_bytes: float, v_bytes: float, gpus: int = 1) -> float:
    heads = -(-layer.kv_heads // gpus)
    return layer.latent * k_bytes + heads * (layer.key * k_bytes + layer.value * v_bytes)


def _padded(tokens: int) -> int:
    return -(-tokens // CONTEXT_BLOCK) * CONTEXT_BLOCK


def _mib(size_bytes: int) -> int:
    return -(-size_bytes // MIB)
