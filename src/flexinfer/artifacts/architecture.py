"""What of a model's architecture decides how much it keeps per token: one Layer for each layer.

`of_gguf` reads it from a GGUF header, `checkpoint.of_config` from a `config.json`. Both see hostile
input: numbers that cannot be are taken as absent.
"""

from __future__ import annotations

import msgspec

from flexinfer.artifacts.gguf import GGUFFacts

MAX_LAYERS = 4096


class Layer(msgspec.Struct, frozen=True, kw_only=True):
    """What one layer keeps. Several may hold: a layer can attend and carry a state."""

    kv_heads: int = 0
    key: int = 0
    """Values of K of one head and token."""
    value: int = 0
    window: int = 0
    """Tokens it keeps; 0: all of them."""
    latent: int = 0
    """Values of a latent (MLA) of one token, in place of K and V; no split over GPUs divides it."""
    state_values: int = 0
    """Values of a recurrent state of one sequence, however long it is."""


class Architecture(msgspec.Struct, frozen=True, kw_only=True):
    name: str = ""
    layers: tuple[Layer, ...] = ()
    embedding: int = 0
    vocabulary: int = 0
    trained_context: int = 0
    """Tokens of one sequence; 0: not said."""
    value_bytes: float = 2
    """Of one value as the model computes, where no cache type is chosen."""


SLIDING_PERIOD = {
    "gemma2": 2,
    "gemma3": 6,
    "gemma3_text": 6,
    "gemma3n": 5,
    "gpt-oss": 2,
    "gpt_oss": 2,
    "cohere2": 4,
    "llama4": 4,
    "exaone4": 4,
    "olmo2": 4,
}
"""Every n-th layer sees everything, the others the window, where the model does not say which."""
_RECURRENT = frozenset({"mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"})
_ATTENTION_BESIDE_STATE = frozenset({"falcon-h1"})


def of_gguf(facts: GGUFFacts) -> Architecture:
    return Architecture(
        name=facts.architecture,
        layers=_layers(facts),
        embedding=facts.integer("embedding_length"),
        vocabulary=_vocabulary(facts),
        trained_context=facts.integer("context_length"),
    )


def _layers(facts: GGUFFacts) -> tuple[Layer, ...]:
    count = min(facts.integer("block_count"), MAX_LAYERS)
    heads = facts.integers("attention.head_count", count)
    kv_heads = facts.integers("attention.head_count_kv", count, default=-1)
    feed_forward = facts.integers("feed_forward_length", count)
    windows = _windows(facts, count)
    own_cache = count - min(facts.integer("attention.shared_kv_layers"), count)
    state = _state_values(facts)
    layers = []
    for index in range(count):
        attends = kv_heads[index] if kv_heads[index] >= 0 else heads[index]
        if facts.architecture in _ATTENTION_BESIDE_STATE:
            layers.append(_attention(facts, attends, windows[index], state))
        elif _recurrent(facts, index, attends, feed_forward[index]):
            layers.append(Layer(state_values=state))
        elif index < own_cache:
            layers.append(_attention(facts, attends, windows[index], 0))
    return tuple(layers)


def _recurrent(facts: GGUFFacts, index: int, kv_heads: int, feed_forward: int) -> bool:
    full_every = facts.integer("full_attention_interval")
    if full_every > 1:
        return (index + 1) % full_every != 0
    if facts.architecture in _RECURRENT:
        return True
    if kv_heads > 0:
        return False
    # Layers of Nemotron-H are either: attention, a state, or a feed-forward network and nothing else.
    only_feed_forward = facts.architecture == "nemotron_h" and feed_forward > 0
    return not only_feed_forward and (facts.integer("ssm.inner_size") > 0 or facts.integer("shortconv.l_cache") > 0)


def _windows(facts: GGUFFacts, count: int) -> tuple[int, ...]:
    """Tokens that each layer keeps; 0: all."""
    window = facts.integer("attention.sliding_window")
    if window == 0:
        return (0,) * count
    pattern = facts.metadata.get(f"{facts.architecture}.attention.sliding_window_pattern")
    if isinstance(pattern, tuple):
        flags = facts.integers("attention.sliding_window_pattern", count)
        return tuple(window if flag else 0 for flag in flags)
    known = isinstance(pattern, int) and pattern > 1
    period = facts.integer("attention.sliding_window_pattern") if known else SLIDING_PERIOD.get(facts.architecture, 0)
    return tuple(window if period > 1 and index % period < period - 1 else 0 for index in range(count))


def _attention(facts: GGUFFacts, kv_heads: int, window: int, state: int) -> Layer:
    heads = max(facts.integers("attention.head_count", 1, default=1)[0], 1)
    head = facts.integer("embedding_length") // heads
    key = facts.integer("attention.key_length_swa" if window else "attention.key_length") or facts.integer(
        "attention.key_length", head
    )
    value = facts.integer("attention.value_length_swa" if window else "attention.value_length") or facts.integer(
        "attention.value_length", head
    )
    if facts.integer("attention.key_length_mla") > 0:
        return Layer(latent=kv_heads * key, window=window, state_values=state)
    return Layer(kv_heads=kv_heads, key=key, value=value, window=window, state_values=state)


def _state_values(facts: GGUFFacts) -> int:
    """Of one recurrent layer and one sequence."""
    embedding = facts.integer("embedding_length")
    short = facts.integer("shortconv.l_cache")
    if short > 0:
        return (short - 1) * embedding
    inner, state = facts.integer("ssm.inner_size"), facts.integer("ssm.state_size")
    if inner == 0:
        return 2 * embedding + embedding * facts.integer("wkv.head_size", 64)
    convolution = max(facts.integer("ssm.conv_kernel") - 1, 0)
    return convolution * (inner + 2 * facts.integer("ssm.group_count") * state) + inner * state


def _vocabulary(facts: GGUFFacts) -> int:
    for tensor in facts.tensors:
        if tensor.name in ("output.weight", "token_embd.weight") and len(tensor.shape) == 2:
            return tensor.shape[1]
    return facts.integer("vocab_size")
