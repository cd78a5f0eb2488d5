"""Any bytes: an answer or an ArtifactError, and never more reads than the file has bytes."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.support import gguf_bytes as build

from flexinfer.artifacts import gguf, memory
from flexinfer.errors import ArtifactError

GOOD = build.llama(
    {"block_count": 2, "embedding_length": 64, "attention.head_count": 4, "attention.head_count_kv": [2, 2]},
    [("token_embd.weight", (64, 4), 0, 1024), ("output.weight", (64, 4), 8, 272)],
)


def _read(data: bytes) -> None:
    asked = 0

    def source(offset: int, count: int) -> bytes:
        nonlocal asked
        asked += count
        return data[offset : offset + count]

    try:
        facts = gguf.read(source, len(data))
    except ArtifactError:
        return
    finally:
        assert asked <= 2 * len(data)
    assert memory.estimate(facts, memory.Use(context=1024)).total_mib >= 0


@given(st.binary(max_size=200))
@settings(max_examples=50)
def test_any_bytes(tail: bytes) -> None:
    _read(b"GGUF\x03\0\0\0" + tail)


@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=6))
@example([(8, 255), (15, 255)])
@settings(max_examples=150)
def test_any_damage_to_a_good_file(damage: list[tuple[int, int]]) -> None:
    data = bytearray(GOOD)
    for position, value in damage:
        data[position] = value
    _read(bytes(data))
