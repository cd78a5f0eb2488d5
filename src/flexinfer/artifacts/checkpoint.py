"""`config.json` of a checkpoint -> Architecture. Pure, and patient: the file is a stranger's.

Model families name the same thing differently; each fact below is looked up under the names that
are in use. A window or a state that the file does not spell out is not assumed, so that an estimate
errs on the side of too much.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flexinfer.artifacts.architecture import MAX_LAYERS, SLIDING_PERIOD, Architecture, Layer

Config = Mapping[str, Any]

_NESTED = ("text_config", "language_config", "llm_config", "thinker_config")
_DTYPE_BYTES = {"float32": 4.0, "float16": 2.0, "bfloat16": 2.0, "half": 2.0, "float8_e4m3fn": 1.0, "float8_e5m2": 1.0}
_WINDOW_EVERYWHERE = frozenset({"mistral", "mixtral", "starcoder2"})
_STATE_KINDS = frozenset({"linear_attention", "mamba", "mamba2", "recurrent", "conv"})
_WINDOW_KINDS = frozenset({"sliding_attention", "local_attention", "sliding_window_attention"})
_CHUNK_KINDS = frozenset({"chunked_attention"})
_NOTHING_KINDS = frozenset({"mlp", "moe", "no_op"})


def of_config(config: Config) -> Architecture:
    """The architecture of a checkpoint, as far as memory goes. Never raises; absent facts are 0."""
    own = _text(config)
    return Architecture(
        name=_word(own, "model_type") or _word(config, "model_type"),
        layers=_layers(own),
        embedding=_integer(own, "hidden_size", "n_embd", "d_model"),
        vocabulary=_integer(own, "vocab_size", "padded_vocab_size"),
        trained_context=_integer(own, "max_position_embeddings", "n_positions", "max_seq_len", "seq_length"),
        value_bytes=_DTYPE_BYTES.get(_dtype(own) or _dtype(config), 2.0),
    )


def _text(config: Config) -> Config:
    """The part that describes the language model of a multimodal one."""
    for _ in range(3):
        inner = next((config[name] for name in _NESTED if isinstance(config.get(name), dict)), None)
        if inner is None:
            return config
        config = inner
    return config


def _dtype(config: Config) -> str:
    return (_word(config, "dtype") or _word(config, "torch_dtype")).removeprefix("torch.")


def _layers(config: Config) -> tuple[Layer, ...]:
    count = min(_integer(config, "num_hidden_layers", "n_layer", "n_layers", "num_layers"), MAX_LAYERS)
    own_cache = count - min(_integer(config, "num_kv_shared_layers"), count)
    blocks = config.get("block_configs")
    if isinstance(blocks, list) and blocks:
        return tuple(_block(config, block) for block in blocks[:MAX_LAYERS])
    windows = _windows(config, count)
    found = []
    for index, kind in enumerate(_kinds(config, count)):
        if kind in _STATE_KINDS:
            found.append(Layer(state_values=_state_values(config, kind)))
        elif kind not in _NOTHING_KINDS and index < own_cache:
            found.append(_attention(config, windows[index], kind))
    return tuple(found)


def _attention(config: Config, window: int, kind: str) -> Layer:
    latent = _integer(config, "kv_lora_rank")
    if latent > 0:
        return Layer(latent=latent + _integer(config, "qk_rope_head_dim"), window=window)
    heads = max(_integer(config, "num_attention_heads", "n_head", "n_heads"), 1)
    kv_heads = _integer(config, "num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num") or heads
    if config.get("multi_query") is True and "num_key_value_heads" not in config:
        kv_heads = _integer(config, "num_kv_heads", "multi_query_group_num") or 1
    head = _integer(config, "head_dim", "kv_channels", "attention_head_dim")
    head = head or _integer(config, "hidden_size", "n_embd", "d_model") // heads
    if kind == "full_attention" and _integer(config, "sliding_window"):
        # Models whose global layers have heads of their own size.
        head = _integer(config, "global_head_dim") or head
        kv_heads = _integer(config, "num_global_key_value_heads") or kv_heads
    value = _integer(config, "v_head_dim") or head
    return Layer(kv_heads=kv_heads, key=head, value=value, window=window)


def _block(config: Config, block: object) -> Layer:
    """One entry of `block_configs`: each layer has its own number of heads, or no attention."""
    attention = block.get("attention") if isinstance(block, dict) else None
    if not isinstance(attention, dict) or attention.get("no_op") or attention.get("replace_with_linear"):
        return Layer()
    heads = max(_integer(config, "num_attention_heads"), 1)
    head = _integer(config, "head_dim") or _integer(config, "hidden_size") // heads
    group = _integer(attention, "n_heads_in_group")
    kv_heads = heads // group if group else _integer(attention, "num_key_value_heads") or heads
    return Layer(kv_heads=kv_heads, key=head, value=head, window=_integer(attention, "window_length"))


def _kinds(config: Config, count: int) -> tuple[str, ...]:
    """What each layer is; an empty word is attention as the model has it."""
    pattern = config.get("hybrid_override_pattern")
    if isinstance(pattern, str) and pattern:
        words = {"M": "mamba", "*": "full_attention", "-": "mlp", "E": "moe"}
        return _fill([words.get(letter, "") for letter in pattern[:count]], count)
    for name in ("layer_types", "layers_block_type"):
        listed = config.get(name)
        if isinstance(listed, list):
            return _fill([_kind(entry) for entry in listed[:count]], count)
    interval = _integer(config, "full_attention_interval")
    if interval > 1:
        return tuple("" if (index + 1) % interval == 0 else "linear_attention" for index in range(count))
    period, offset = _integer(config, "attn_layer_period"), _integer(config, "attn_layer_offset")
    if period > 1:
        return tuple("" if index % period == offset else "mamba" for index in range(count))
    if _word(config, "model_type") in ("mamba", "mamba2", "falcon_mamba"):
        return ("mamba",) * count
    return ("",) * count


def _kind(entry: object) -> str:
    return entry if isinstance(entry, str) else ""


def _fill(kinds: Sequence[str], count: int) -> tuple[str, ...]:
    return (*kinds, *("",) * (count - len(kinds)))


def _windows(config: Config, count: int) -> tuple[int, ...]:
    window, chunk = (
        _integer(config, "sliding_window", "attention_window_size"),
        _integer(config, "attention_chunk_size"),
    )
    listed = config.get("layer_types")
    if isinstance(listed, list):
        kinds = _fill([_kind(entry) for entry in listed[:count]], count)
        return tuple(window if kind in _WINDOW_KINDS else chunk if kind in _CHUNK_KINDS else 0 for kind in kinds)
    rope = config.get("no_rope_layers")
    if chunk and isinstance(rope, list) and rope:
        # Layers with rotary positions attend within a chunk, the others see everything.
        return tuple(chunk if index < len(rope) and rope[index] == 1 else 0 for index in range(count))
    if window == 0 or config.get("use_sliding_window") is False:
        return (0,) * count
    family = _word(config, "model_type")
    if family in _WINDOW_EVERYWHERE:
        return (window,) * count
    if config.get("use_sliding_window") is True and "max_window_layers" in config:
        first = _integer(config, "max_window_layers")
        return tuple(window if index >= first else 0 for index in range(count))
    period = _integer(config, "sliding_window_pattern") or SLIDING_PERIOD.get(family, 0)
    return tuple(window if period > 1 and index % period < period - 1 else 0 for index in range(count))


def _state_values(config: Config, kind: str) -> int:
    hidden = _integer(config, "hidden_size", "d_model", "n_embd")
    if kind == "conv":
        return max(_integer(config, "conv_L_cache") - 1, 0) * _integer(config, "conv_dim", "hidden_size")
    if kind == "linear_attention":
        value = _integer(config, "linear_value_head_dim")
        values = _integer(config, "linear_num_value_heads")
        key, keys = _integer(config, "linear_key_head_dim"), _integer(config, "linear_num_key_heads")
        kernel = max(_integer(config, "linear_conv_kernel_dim") - 1, 0)
        return values * key * value + kernel * (2 * keys * key + values * value)
    heads, head = (
        _integer(config, "mamba_num_heads", "mamba_n_heads"),
        _integer(config, "mamba_head_dim", "mamba_d_head"),
    )
    inner = heads * head or _integer(config, "intermediate_size" if "mamba" in _word(config, "model_type") else "")
    inner = inner or (_integer(config, "mamba_expand", "expand") or 2) * hidden
    state = _integer(config, "mamba_d_state", "ssm_state_size", "state_size", "mamba_ssm_state_size")
    groups = _integer(config, "mamba_n_groups", "n_groups") if heads else 0
    kernel = max(_integer(config, "mamba_d_conv", "conv_kernel", "mamba_conv_kernel") - 1, 0)
    return kernel * (inner + 2 * groups * state) + inner * state


def _integer(config: Config, *names: str) -> int:
    """The first of these that is a number one can believe; 0 where none is."""
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= 2**31:
            return value
    return 0


def _word(config: Config, name: str) -> str:
    value = config.get(name)
    return value if isinstance(value, str) else ""
