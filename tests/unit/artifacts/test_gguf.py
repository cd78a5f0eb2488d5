"""GGUF headers, good and hostile."""

from __future__ import annotations

import struct

import pytest
from tests.support import gguf_bytes as build

from flexinfer.artifacts import gguf
from flexinfer.artifacts.gguf import BrokenGGUF, NotGGUF, Tensor, TruncatedGGUF

ARCH = build.pair("general.architecture", "llama")
HUGE = struct.pack("<Q", 2**63)


def read(data: bytes) -> gguf.GGUFFacts:
    return gguf.read(gguf.reader(data), len(data))


def test_a_whole_file_is_read() -> None:
    data = build.llama(
        {"block_count": 2, "attention.head_count_kv": [2, 1], "rope.freq_base": 10000.0},
        [("token_embd.weight", (64, 32), 0, 64 * 32 * 4), ("output.weight", (64, 32), 8, 64 * 34)],
    )
    facts = read(data)
    assert facts.metadata == {
        "general.architecture": "llama",
        "llama.block_count": 2,
        "llama.attention.head_count_kv": (2, 1),
        "llama.rope.freq_base": 10000.0,
    }
    assert facts.tensors == (
        Tensor(name="token_embd.weight", shape=(64, 32), type="F32", offset=0, size_bytes=8192),
        Tensor(name="output.weight", shape=(64, 32), type="Q8_0", offset=8192, size_bytes=2176),
    )
    assert (facts.version, facts.tensor_bytes, facts.alignment, facts.parts) == (3, 10368, 32, 1)
    assert facts.data_offset % 32 == 0
    assert facts.integers("attention.head_count_kv", 4) == (2, 1, 1, 1)


def test_texts_of_arrays_are_skipped_and_long_text_is_cut() -> None:
    pairs = [
        ARCH,
        build.pair("tokenizer.ggml.tokens", ["a", "bb", ""]),
        build.pair("tokenizer.chat_template", "x" * 9000),
    ]
    facts = read(build.whole(pairs, [], 0))
    assert "tokenizer.ggml.tokens" not in facts.metadata
    assert facts.metadata["tokenizer.chat_template"] == "x" * gguf.MAX_KEPT_TEXT_BYTES


def test_a_type_that_is_not_known_is_sized_by_the_gap() -> None:
    infos = [build.tensor("a", (256,), 57, 0), build.tensor("b", (8,), 0, 64), build.tensor("c", (256,), 58, 96)]
    facts = read(build.whole([ARCH], infos, 200))
    assert [(tensor.type, tensor.size_bytes) for tensor in facts.tensors] == [
        ("type 57", 64),
        ("F32", 32),
        ("type 58", 104),
    ]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(b"", "empty", id="an empty file"),
        pytest.param(b"\n<!DOCTYPE html><title>Sign in</title>", "HTML page", id="a log-in page"),
        pytest.param(b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer", id="a pointer of Git LFS"),
        pytest.param(b"lmgg" + b"\0" * 40, "GGML file", id="the format before"),
        pytest.param(b"PK\x03\x04" + b"\0" * 40, "ZIP archive", id="PyTorch weights"),
        pytest.param(struct.pack("<Q", 9) + b'{"a":1}', "safetensors", id="safetensors"),
        pytest.param(b'{"error":"not found"}', "JSON", id="an error answer"),
        pytest.param(b"\0" * 4096, "zeros", id="reserved but never written"),
        pytest.param(b"MZ\x90\x00", "begins with b'MZ", id="something else"),
    ],
)
def test_what_is_no_gguf_is_named(data: bytes, message: str) -> None:
    with pytest.raises(NotGGUF, match=message):
        read(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(build.head([ARCH], [], version=1), "version 1", id="a version of 2023"),
        pytest.param(b"GGUF" + struct.pack(">I", 3) + b"\0" * 16, "big-endian", id="the other byte order"),
        pytest.param(b"GGUF" + struct.pack("<I", 3) + HUGE + HUGE, "claims 9223372036854775808 t", id="2^63 tensors"),
        pytest.param(b"GGUF" + struct.pack("<IQ", 3, 0) + HUGE, "metadata keys", id="2^63 keys"),
        pytest.param(build.head([HUGE + b"x" * 64], []), "claims 9223372036854775808 bytes", id="a key of 2^63 bytes"),
        pytest.param(
            build.head([build.key("a", build.ARRAY, struct.pack("<I", 9) + struct.pack("<Q", 2**40) + b"\0" * 64)], []),
            "array of arrays",
            id="nested arrays",
        ),
        pytest.param(
            build.head([build.key("a", build.ARRAY, struct.pack("<I", 8) + HUGE + b"\0" * 64)], []),
            "texts",
            id="an array of 2^63 texts",
        ),
        pytest.param(
            build.head([build.key("a", build.ARRAY, struct.pack("<I", 4) + HUGE + b"\0" * 64)], []),
            "claims 9223372036854775808 values",
            id="an array of 2^63 numbers",
        ),
        pytest.param(build.head([build.key("a", 77, b"\0" * 64)], []), "type 77", id="a type that does not exist"),
        pytest.param(build.whole([ARCH, ARCH], [], 0), "twice", id="a key twice"),
        pytest.param(
            build.whole([build.pair("general.alignment", 0)], [], 0), "general.alignment is 0", id="alignment 0"
        ),
        pytest.param(build.whole([build.pair("general.alignment", 48)], [], 0), "power of two", id="alignment 48"),
        pytest.param(
            build.whole([ARCH], [build.tensor("a", (8,), 0, 0), build.tensor("a", (8,), 0, 32)], 64),
            "tensor a is there twice",
            id="a tensor twice",
        ),
        pytest.param(
            build.whole([ARCH], [build.tensor("a", (16,), 0, 0), build.tensor("b", (8,), 0, 32)], 64),
            "tensors a and b overlap",
            id="tensors that overlap",
        ),
        pytest.param(
            build.whole([ARCH], [build.tensor("a", (8,), 0, 7)], 64), "multiple of 32", id="an odd offset"
        ),
        pytest.param(
            build.whole([ARCH], [build.tensor("a", (8,), 0, 2**64 - 32)], 64), "multiple of 32", id="it wraps"
        ),
        pytest.param(
            build.whole([ARCH], [build.tensor("a", (2**32, 2**32), 0, 0)], 64), "overflows", id="a shape that overflows"
        ),
        pytest.param(
            build.whole([ARCH], [build.tensor("a", (33,), 8, 0)], 64), "rows of 33", id="rows that do not fill blocks"
        ),
        pytest.param(
            build.whole([ARCH], [build.tensor("a", (1,) * 5, 0, 0)], 64), "5 dimensions", id="five dimensions"
        ),
    ],
)  # fmt: skip
def test_a_header_that_lies_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(BrokenGGUF, match=message):
        read(data)


def test_every_cut_of_a_file_is_told_as_truncated() -> None:
    data = build.llama({"block_count": 2}, [("token_embd.weight", (32, 4), 0, 512)])
    for length in range(8, len(data)):
        with pytest.raises(TruncatedGGUF):
            read(data[:length])


def test_offsets_past_the_end_say_how_much_is_missing() -> None:
    data = build.whole([ARCH], [build.tensor("a", (8,), 0, 4096)], 64)
    with pytest.raises(TruncatedGGUF, match="ends 4064 bytes before its last tensor"):
        read(data)


def test_parts_are_joined() -> None:
    part = read(build.llama({"block_count": 2}, [("a", (8,), 0, 32)]))
    both = gguf.joined((part, part))
    assert (both.tensor_bytes, both.file_bytes, len(both.tensors)) == (64, 2 * part.file_bytes, 2)
