"""What a simulated engine says: words that follow from the model's name and the prompt alone."""

from __future__ import annotations

import base64
import hashlib
import struct
from collections.abc import Iterator

_VOCABULARY = (
    "a the some every one this that each calm bright quiet small warm early late slow quick plain model token "
    "answer river garden morning window letter engine harbour lantern road field paper signal story winter "
    "reads finds keeps turns opens carries follows leaves meets writes under over beside after before without "
    "again slowly gladly often here there now then and while because until"
)
_WORDS = tuple(_VOCABULARY.split())


def words(model: str, prompt: bytes, count: int, token_bytes: int = 0) -> Iterator[str]:
    """`count` tokens, each a word with the space before it (the first has none).

    With `token_bytes` each is filled up to that many bytes.
    """
    seed = hashlib.sha256(model.encode() + b"\0" + prompt).digest()
    for place in range(count):
        if place % 32 == 0:
            draw = hashlib.sha256(seed + place.to_bytes(8, "big")).digest()
        word = ("" if place == 0 else " ") + _WORDS[draw[place % 32] % len(_WORDS)]
        yield word.ljust(token_bytes, ".")


def embedding(model: str, text: bytes, width: int) -> list[float]:
    """A vector of length 1 that follows from the text."""
    data = hashlib.shake_128(model.encode() + b"\0" + text).digest(2 * width)
    values = [value - 32767.5 for value in struct.unpack(f"<{width}H", data)]
    norm = sum(value * value for value in values) ** 0.5
    return [value / norm for value in values]


def as_base64(vector: list[float]) -> str:
    """As OpenAI writes a vector when asked for base64: float32, little-endian."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
