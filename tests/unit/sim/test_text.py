"""What the simulator says follows from model and prompt."""

from __future__ import annotations

import base64
import struct

import pytest

from flexinfer.sim import text


def test_the_same_prompt_gets_the_same_words_and_another_prompt_others() -> None:
    said = "".join(text.words("m", b"prompt", 40))
    assert said == "".join(text.words("m", b"prompt", 40))
    assert len(said.split()) == 40
    assert said != "".join(text.words("m", b"other", 40))
    assert said != "".join(text.words("n", b"prompt", 40))


def test_a_shorter_answer_is_the_beginning_of_a_longer_one() -> None:
    assert "".join(text.words("m", b"p", 100)).startswith("".join(text.words("m", b"p", 33)))


def test_tokens_can_be_filled_up() -> None:
    assert [len(word) for word in text.words("m", b"p", 3, token_bytes=100)] == [100, 100, 100]


def test_an_embedding_has_length_1_and_follows_from_the_text() -> None:
    vector = text.embedding("m", b"text", 64)
    assert sum(value * value for value in vector) == pytest.approx(1)
    assert vector == text.embedding("m", b"text", 64)
    assert vector != text.embedding("m", b"tex", 64)
    decoded = struct.unpack("<64f", base64.b64decode(text.as_base64(vector)))
    assert list(decoded) == pytest.approx(vector)
