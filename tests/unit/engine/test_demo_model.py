"""The demo model's file: the same bytes everywhere, and what its header says."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import pytest
from click.testing import CliRunner

from flexinfer.cli.demo_model import command
from flexinfer.engine import demo_model

SHA256 = "2183b32756f02e2bce58857c96c14431beaa9a54d6c7614a46d17a88322a85a7"


def header(content: bytes) -> tuple[dict[str, object], dict[str, tuple[tuple[int, ...], int]], int]:
    """Metadata, tensors (shape, offset) and where the data begins, read as the format is written."""
    place = 0

    def take(code: str) -> int | float | bool:
        nonlocal place
        (value,) = struct.unpack_from("<" + code, content, place)
        place += struct.calcsize("<" + code)
        return value

    def text() -> str:
        nonlocal place
        size = int(take("Q"))
        place += size
        return content[place - size : place].decode()

    def value(kind: int) -> object:
        if kind == 9:
            item, count = int(take("I")), int(take("Q"))
            return [value(item) for _ in range(count)]
        return text() if kind == 8 else take({4: "I", 5: "i", 6: "f", 7: "?"}[kind])

    assert content[:4] == b"GGUF"
    place = 4
    version, tensor_count, pair_count = take("I"), int(take("Q")), int(take("Q"))
    assert version == 3
    metadata = {}
    for _ in range(pair_count):
        key = text()
        metadata[key] = value(int(take("I")))
    tensors = {}
    for _ in range(tensor_count):
        name = text()
        shape = tuple(int(take("Q")) for _ in range(int(take("I"))))
        assert take("I") == 0
        tensors[name] = (shape, int(take("Q")))
    return metadata, tensors, (place + 31) // 32 * 32


def test_the_bytes_are_the_same_on_every_machine() -> None:
    assert hashlib.sha256(demo_model.gguf()).hexdigest() == SHA256


def test_the_header_describes_a_llama_model_with_unique_tokens() -> None:
    metadata, tensors, data_start = header(demo_model.gguf())
    tokens = metadata.pop("tokenizer.ggml.tokens")
    assert isinstance(tokens, list)
    assert len(set(tokens)) == len(tokens) == metadata["llama.vocab_size"]
    assert "".join(tokens[260:]).replace("▁", " ") == demo_model.SENTENCE
    assert len(metadata.pop("tokenizer.ggml.scores")) == len(metadata.pop("tokenizer.ggml.token_type")) == len(tokens)
    assert metadata == {
        "general.architecture": "llama",
        "general.name": "flexinfer-demo",
        "general.file_type": 0,
        "llama.context_length": 8192,
        "llama.embedding_length": 64,
        "llama.block_count": 2,
        "llama.feed_forward_length": 128,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.attention.layer_norm_rms_epsilon": pytest.approx(1e-5),
        "llama.rope.dimension_count": 16,
        "llama.rope.freq_base": 10_000.0,
        "llama.vocab_size": len(tokens),
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_space_prefix": False,
        "tokenizer.chat_template": demo_model.CHAT_TEMPLATE,
    }
    end = 0
    for shape, offset in tensors.values():
        assert offset == (end + 31) // 32 * 32
        end = offset + 4 * shape[0] * (shape[1] if len(shape) > 1 else 1)
    assert data_start + (end + 31) // 32 * 32 == len(demo_model.gguf())


@pytest.mark.parametrize(
    ("sentence", "message"),
    [
        pytest.param("  ", "the sentence has no words", id="nothing to say"),
        pytest.param("to be or not to be", "the word 'be' is there twice", id="a word twice"),
        pytest.param(
            " ".join(map(str, range(64))), "the sentence has 64 words, at most 63 fit", id="one word too many"
        ),
        pytest.param("<s> is reserved", "the word '<s>' is a token of its own", id="a control token"),
    ],
)
def test_a_sentence_that_no_model_can_be_made_of_is_refused(sentence: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        demo_model.gguf(sentence)


def test_63_words_and_any_script_fit() -> None:
    metadata, _, _ = header(demo_model.gguf("Grüße 世界 " + " ".join(map(str, range(61)))))
    assert metadata["llama.vocab_size"] == 260 + 63


def test_writing_replaces_the_file_whole_and_leaves_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "models" / "demo.gguf"
    demo_model.write(target, sentence="Something else entirely.")
    size_bytes = demo_model.write(target)
    assert target.read_bytes() == demo_model.gguf()
    assert size_bytes == target.stat().st_size
    assert [entry.name for entry in target.parent.iterdir()] == ["demo.gguf"]


def test_the_command_writes_the_file_and_says_what_the_model_says(tmp_path: Path) -> None:
    target = tmp_path / "demo.gguf"
    result = CliRunner().invoke(command, [str(target), "--sentence", "Good morning."])
    assert (result.exit_code, result.output) == (
        0,
        f"{target}: {target.stat().st_size} bytes; says: Good morning.\n",
    )


def test_the_command_refuses_a_repeated_word_with_exit_code_2(tmp_path: Path) -> None:
    result = CliRunner().invoke(command, [str(tmp_path / "demo.gguf"), "--sentence", "yes no no"])
    assert result.exit_code == 2
    assert "the word 'no' is there twice" in result.output
    assert not (tmp_path / "demo.gguf").exists()
