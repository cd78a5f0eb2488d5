"""Memory estimates against figures that engines logged."""

from __future__ import annotations

from typing import Any

import pytest

from flexinfer.artifacts import architecture, memory
from flexinfer.artifacts.gguf import GGUFFacts, Tensor
from flexinfer.artifacts.memory import Memory, Use

MIB = 2**20


def facts(arch: str, vocabulary: int, weights_mib: int = 0, **metadata: Any) -> GGUFFacts:
    named = {f"{arch}.{name.replace('__', '.')}": value for name, value in metadata.items()}
    embedding = metadata["embedding_length"]
    tensors = (Tensor(name="token_embd.weight", shape=(embedding, vocabulary), type="F16", offset=0, size_bytes=0),)
    return GGUFFacts(
        version=3,
        metadata={"general.architecture": arch} | named,
        tensors=tensors,
        tensor_bytes=weights_mib * MIB,
        alignment=32,
        data_offset=0,
        file_bytes=0,
    )


QWEN3B = facts(
    "qwen2", 151_936, 1900, block_count=36, embedding_length=2048, context_length=32768,
    attention__head_count=16, attention__head_count_kv=2,
)  # fmt: skip
LLAMA8B = facts(
    "llama", 128_256, 4700, block_count=32, embedding_length=4096, context_length=131072,
    attention__head_count=32, attention__head_count_kv=8,
)  # fmt: skip
GEMMA3 = facts(
    "gemma3", 262_144, block_count=12, embedding_length=2560, context_length=131072, attention__head_count=8,
    attention__head_count_kv=4, attention__key_length=256, attention__value_length=256, attention__sliding_window=1024,
)  # fmt: skip
DEEPSEEK = facts(
    "deepseek2", 129_280, block_count=61, embedding_length=7168, attention__head_count=128, attention__head_count_kv=1,
    attention__key_length=576, attention__value_length=512, attention__key_length_mla=192,
)  # fmt: skip
JAMBA = facts(
    "jamba", 65_536, block_count=4, embedding_length=4096, attention__head_count=32,
    attention__head_count_kv=(0, 8, 0, 0), ssm__conv_kernel=4, ssm__inner_size=8192, ssm__state_size=16,
)  # fmt: skip


@pytest.mark.parametrize(
    ("model", "use", "expected"),
    [
        pytest.param(
            QWEN3B, Use(context=4096), Memory(weights_mib=1900, kv_cache_mib=144, overhead_mib=301 + 64),
            id="144 MiB of KV and 300.75 MiB of compute as llama.cpp logged them",
        ),
        pytest.param(
            LLAMA8B, Use(context=16384, parallel=4, gpu=True),
            Memory(weights_mib=4700, kv_cache_mib=2048, overhead_mib=259 + 320),
            id="131,072 bytes a token with grouped heads",
        ),
    ],
)  # fmt: skip
def test_estimate(model: GGUFFacts, use: Use, expected: Memory) -> None:
    assert memory.estimate(model, use) == expected
    assert expected.total_mib == expected.weights_mib + expected.kv_cache_mib + expected.overhead_mib


@pytest.mark.parametrize(
    ("model", "use", "expected"),
    [
        pytest.param(LLAMA8B, Use(context=1000), 1024 * 131072, id="rounded up to blocks of 256"),
        pytest.param(LLAMA8B, Use(context=1000, parallel=4), 1024 * 131072, id="rounded for each slot"),
        pytest.param(LLAMA8B, Use(), 131072 * 131072, id="no context means what it was trained for"),
        pytest.param(
            LLAMA8B, Use(context=1024, cache_type_k="q8_0", cache_type_v="q4_0"),
            32 * 1024 * 8 * 128 * (34 + 18) // 32, id="each cache by its own type",
        ),
        pytest.param(
            GEMMA3, Use(context=8192), (10 * 1536 + 2 * 8192) * 4 * 512 * 2,
            id="ten of twelve layers keep the window only",
        ),
        pytest.param(GEMMA3, Use(context=512), 12 * 512 * 4 * 512 * 2, id="a window larger than the context is none"),
        pytest.param(DEEPSEEK, Use(context=1024), 61 * 1024 * 576 * 2, id="latent attention keeps the latent only"),
        pytest.param(
            JAMBA, Use(context=1024, parallel=2), 1024 * 8 * 256 * 2 + 3 * 2 * 4 * (3 * 8192 + 8192 * 16),
            id="recurrent layers keep a state per slot",
        ),
    ],
)  # fmt: skip
def test_kv_cache_bytes(model: GGUFFacts, use: Use, expected: int) -> None:
    assert memory.gguf_cache_bytes(architecture.of_gguf(model), use) == expected
