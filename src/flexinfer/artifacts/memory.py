"""How much memory one replica takes: weights + KV cache + overhead, in MiB.

weights   sum of the tensors' bytes, exact
KV cache  per layer and token kv_heads * (key_length * bytes(K) + value_length * bytes(V)); a layer
          with a sliding window keeps the window only; a recurrent layer keeps a fixed state; with
          latent attention (MLA) only the latent is kept
overhead  logits and activations of one physical batch, ubatch * (vocabulary + embedding) * 4, and
          what the runtime itself takes

Tokens are those of all slots together, rounded per slot to blocks of 256 as llama.cpp does.
Calibrated on llama.cpp logs: 36 layers, 2 KV heads of 128, 4,096 tokens, F16: 144 MiB of KV and
300.75 MiB of compute buffer (ubatch 512, vocabulary 151,936).
"""

from __future__ import annotations

import msgspec

from flexinfer.artifacts import ggml
from flexinfer.artifacts.gguf import GGUFFacts

MIB = 2**20
CONTEXT_BLOCK = 256
RUNTIME_CPU_MIB = 64
RUNTIME_GPU_MIB = 320
"""A CUDA or HIP context and the engine's own libraries."""

_SWA_PERIOD = {
    "gemma2": 2,
    "gemma3": 6,
    "gemma3n": 5,
    "gpt-oss": 2,
    "cohere2": 4,
    "llama4": 4,
    "exaone4": 4,
    "olmo2": 4,
}
"""Every n-th layer sees everything, the others the window, where the file does not say which."""
_RECURRENT = frozenset({"mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"})


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
    embedding = facts.integer("embedding_length")
    compute = use.ubatch * (_vocabulary(facts) + embedding) * 4
    runtime = RUNTIME_GPU_MIB if use.gpu else RUNTIME_CPU_MIB
    return Memory(
        weights_mib=_mib(facts.tensor_bytes),
        kv_cache_mib=_mib(kv_cache_bytes(facts, use)),
        overhead_mib=_mib(compute) + runtime,
    )


def trained_context(facts: GGUFFacts) -> int:
    return facts.integer("context_length")


def kv_cache_bytes(facts: GGUFFacts, use: Use) -> int:
    """Bytes of KV cache and recurrent state of all slots."""
    parallel = max(use.parallel, 1)
    context = use.context or trained_context(facts) * parallel
    per_slot = _padded(-(-context // parallel))
    window = facts.integer("attention.sliding_window")
    windowed = min(per_slot, _padded(window + use.ubatch)) if window > 0 else per_slot
    total = 0.0
    for layer in _layers(facts):
        if layer.recurrent:
            total += _state_bytes(facts) * parallel
        else:
            tokens = (windowed if layer.windowed else per_slot) * parallel
            total += tokens * _bytes_per_token(facts, layer.kv_heads, use)
    return int(total)


class _Layer(msgspec.Struct, frozen=True, kw_only=True):
    kv_heads: int
    windowed: bool
    recurrent: bool


def _layers(facts: GGUFFacts) -> tuple[_Layer, ...]:
    count = min(facts.integer("block_count"), 4096)
    heads = facts.integers("attention.head_count", count)
    kv_heads = facts.integers("attention.head_count_kv", count, default=-1)
    pattern = facts.metadata.get(f"{facts.architecture}.attention.sliding_window_pattern")
    period = pattern if isinstance(pattern, int) and pattern > 1 else _SWA_PERIOD.get(facts.architecture, 0)
    flags = facts.integers("attention.sliding_window_pattern", count) if isinstance(pattern, tuple) else ()
    full_every = facts.integer("full_attention_interval")
    layers = []
    for index in range(count):
        kv = kv_heads[index] if kv_heads[index] >= 0 else heads[index]
        recurrent = facts.architecture in _RECURRENT or (kv == 0 and facts.integer("ssm.inner_size") > 0)
        if full_every > 1:
            recurrent = (index + 1) % full_every != 0
        windowed = bool(flags[index]) if flags else period > 1 and index % period < period - 1
        layers.append(_Layer(kv_heads=kv, windowed=windowed, recurrent=recurrent))
    return tuple(layers)


def _bytes_per_token(facts: GGUFFacts, kv_heads: int, use: Use) -> float:
    heads = max(facts.integers("attention.head_count", 1, default=1)[0], 1)
    head_dim = facts.integer("embedding_length") // heads
    key = facts.integer("attention.key_length", head_dim)
    value = facts.integer("attention.value_length", head_dim)
    k_bytes = ggml.bytes_per_value(use.cache_type_k)
    if facts.integer("attention.key_length_mla") > 0:
        return kv_heads * key * k_bytes
    return kv_heads * (key * k_bytes + value * ggml.bytes_per_value(use.cache_type_v))


def _state_bytes(facts: GGUFFacts) -> int:
    """State of one recurrent layer for one slot, F32."""
    inner, state = facts.integer("ssm.inner_size"), facts.integer("ssm.state_size")
    if inner == 0:
        head = facts.integer("wkv.head_size", 64)
        embedding = facts.integer("embedding_length")
        return 4 * (2 * embedding + embedding * head)
    convolution = max(facts.integer("ssm.conv_kernel") - 1, 0)
    groups = facts.integer("ssm.group_count")
    return 4 * (convolution * (inner + 2 * groups * state) + inner * state)


def _vocabulary(facts: GGUFFacts) -> int:
    for tensor in facts.tensors:
        if tensor.name in ("output.weight", "token_embd.weight") and len(tensor.shape) == 2:
            return tensor.shape[1]
    return facts.integer("vocab_size")


def _padded(tokens: int) -> int:
    return -(-tokens // CONTEXT_BLOCK) * CONTEXT_BLOCK


def _mib(size_bytes: int) -> int:
    return -(-size_bytes // MIB)
