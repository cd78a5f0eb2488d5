"""`config.json` -> what each layer keeps."""

from __future__ import annotations

from typing import Any

import pytest

from flexinfer.artifacts import checkpoint, memory
from flexinfer.artifacts.architecture import Layer
from flexinfer.artifacts.memory import Memory, Serving

BASE = {"model_type": "m", "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 4}


def attends(heads: int = 4, head: int = 16, window: int = 0) -> Layer:
    return Layer(kv_heads=heads, key=head, value=head, window=window)


FULL, SLIDING = attends(), attends(window=8)


@pytest.mark.parametrize(
    ("config", "layers"),
    [
        pytest.param({}, (FULL,) * 4, id="multi-head attention"),
        pytest.param({"num_key_value_heads": 2}, (attends(2),) * 4, id="grouped heads"),
        pytest.param({"multi_query": True}, (attends(1),) * 4, id="one head for all queries"),
        pytest.param({"head_dim": 32}, (attends(head=32),) * 4, id="heads wider than the embedding"),
        pytest.param(
            {"kv_lora_rank": 512, "qk_rope_head_dim": 64}, (Layer(latent=576),) * 4, id="latent attention"
        ),
        pytest.param(
            {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"] * 2},
            (SLIDING, FULL, SLIDING, FULL), id="a window where the layer types say so",
        ),
        pytest.param(
            {"model_type": "gemma2", "sliding_window": 8}, (SLIDING, FULL, SLIDING, FULL), id="a family's own pattern"
        ),
        pytest.param(
            {"sliding_window": 8, "sliding_window_pattern": 3}, (SLIDING, SLIDING, FULL, SLIDING), id="a period"
        ),
        pytest.param({"model_type": "mistral", "sliding_window": 8}, (SLIDING,) * 4, id="a window everywhere"),
        pytest.param({"model_type": "mistral", "sliding_window": None}, (FULL,) * 4, id="a window that is null"),
        pytest.param({"sliding_window": 8, "use_sliding_window": False}, (FULL,) * 4, id="a window that is off"),
        pytest.param(
            {"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 3}, (FULL, FULL, FULL, SLIDING),
            id="a window from some layer on",
        ),
        pytest.param({"sliding_window": 8}, (FULL,) * 4, id="a window of which nothing more is known"),
        pytest.param(
            {"attention_chunk_size": 8, "no_rope_layers": [1, 1, 1, 0]}, (SLIDING, SLIDING, SLIDING, FULL),
            id="chunks where positions are rotary",
        ),
        pytest.param(
            {
                "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"] * 2,
                "global_head_dim": 32, "num_global_key_value_heads": 1,
            },
            (SLIDING, attends(1, 32), SLIDING, attends(1, 32)), id="heads of another size in global layers",
        ),
        pytest.param({"num_kv_shared_layers": 1}, (FULL,) * 3, id="layers that use the cache of others"),
        pytest.param(
            {
                "full_attention_interval": 2, "linear_num_value_heads": 4, "linear_num_key_heads": 2,
                "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_conv_kernel_dim": 4,
            },
            (Layer(state_values=4 * 64 + 3 * (2 * 16 + 32)), FULL) * 2, id="linear attention in between",
        ),
        pytest.param(
            {
                "attn_layer_period": 4, "attn_layer_offset": 2, "mamba_d_state": 16, "mamba_d_conv": 4,
                "mamba_expand": 2,
            },
            (*(Layer(state_values=3 * 128 + 128 * 16),) * 2, FULL, Layer(state_values=3 * 128 + 128 * 16)),
            id="one attention layer in four",
        ),
        pytest.param(
            {
                "hybrid_override_pattern": "M-*M", "mamba_num_heads": 8, "mamba_head_dim": 16,
                "ssm_state_size": 16, "conv_kernel": 4, "n_groups": 2,
            },
            (Layer(state_values=3 * 192 + 128 * 16), FULL, Layer(state_values=3 * 192 + 128 * 16)),
            id="a pattern of letters",
        ),
        pytest.param(
            {"layer_types": ["conv", "full_attention", "conv", "conv"], "conv_L_cache": 3},
            (Layer(state_values=128), FULL, Layer(state_values=128), Layer(state_values=128)), id="short convolutions",
        ),
        pytest.param(
            {"block_configs": [{"attention": {"n_heads_in_group": 2}}, {"attention": {"no_op": True}}, 7]},
            (attends(2), Layer(), Layer()), id="a number of heads for each layer",
        ),
    ],
)  # fmt: skip
def test_layers(config: dict[str, Any], layers: tuple[Layer, ...]) -> None:
    assert checkpoint.of_config(BASE | config).layers == layers


def test_the_language_model_of_a_multimodal_one_counts() -> None:
    inner = BASE | {"vocab_size": 100, "max_position_embeddings": 512}
    found = checkpoint.of_config({"torch_dtype": "float32", "hidden_size": 9, "text_config": inner})
    assert (found.layers, found.vocabulary, found.trained_context, found.value_bytes) == ((FULL,) * 4, 100, 512, 4)


@pytest.mark.parametrize(
    "config",
    [
        {}, {"num_hidden_layers": "4"}, {"num_hidden_layers": True}, {"num_hidden_layers": -1},
        BASE | {"num_attention_heads": 0}, BASE | {"layer_types": [None, 3, {}]}, BASE | {"block_configs": [None]},
        {"text_config": {"text_config": {"text_config": {"text_config": {}}}}}, BASE | {"model_type": 5},
        BASE | {"hidden_size": 10**400}, BASE | {"no_rope_layers": [[]], "attention_chunk_size": 3},
    ],
)  # fmt: skip
def test_nonsense_is_no_error(config: dict[str, Any]) -> None:
    assert memory.token_bytes(checkpoint.of_config(config)) >= 0


def test_layers_are_bounded() -> None:
    assert len(checkpoint.of_config(BASE | {"num_hidden_layers": 10**9}).layers) == 4096


def test_a_checkpoint_split_over_gpus() -> None:
    model = checkpoint.of_config(BASE | {"num_key_value_heads": 2, "sliding_window": 256, "model_type": "mistral"})
    serving = Serving(context=2048, sequences=2, gpus=4, version="0.11.0")
    assert memory.checkpoint_cache_bytes(model, serving) == 2 * 256 * 4 * (1 * 32) * 2
    assert memory.estimate_checkpoint(model, 400 * 2**20, serving) == Memory(
        weights_mib=100, kv_cache_mib=1, overhead_mib=5827
    )


@pytest.mark.parametrize(
    ("room_mib", "most", "expected"),
    [
        pytest.param(100, 4096, 4096, id="all of it"),
        pytest.param(3, 4096, 2048, id="a part of it"),
        pytest.param(0, 4096, 0, id="nothing"),
        pytest.param(100, 1000, 1000, id="a context that is no multiple of 256"),
        pytest.param(100, 0, 0, id="no context at all"),
    ],
)
def test_largest_context(room_mib: int, most: int, expected: int) -> None:
    assert memory.largest_context(lambda tokens: 1 + -(-tokens // 1024), room_mib, most) == expected
