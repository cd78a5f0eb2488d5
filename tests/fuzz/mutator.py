"""A seeded mutator: the same cases for the same seed, everywhere. Used where atheris has no wheel."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

_NUMBERS = (0, 1, 2, 7, 255, 256, 2**15, 2**16 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
_WORDS = (b"\0", b"\xff", b"{", b"}", b"[", b"]", b'"', b":", b",", b"-", b"1e999", b"null", b"NaN", b"\xc2\xb2", b"\n")
_MOST_BYTES = 4096


def cases(seeds: Sequence[bytes], count: int, seed: int, words: Sequence[bytes] = ()) -> Iterator[bytes]:
    """`count` damaged copies of the seeds, some with `words` put in."""
    chance = random.Random(seed)
    known = words or _WORDS
    for _ in range(count):
        data = bytearray(chance.choice(seeds))
        for _ in range(chance.choice((1, 1, 2, 3, 8))):
            _damage(data, chance, known)
        yield bytes(data[:_MOST_BYTES])


def _damage(data: bytearray, chance: random.Random, words: Sequence[bytes]) -> None:
    at = chance.randrange(len(data) + 1)
    length = chance.choice((1, 1, 2, 4, 8, 16))
    match chance.randrange(7):
        case 0:
            data[at : at + 1] = bytes((chance.randrange(256),))
        case 1:
            width = chance.choice((1, 2, 4, 8))
            number = chance.choice(_NUMBERS) % 2 ** (8 * width)
            data[at : at + width] = number.to_bytes(width, "little")
        case 2:
            del data[at : at + length]
        case 3:
            data[at:at] = chance.choice(words) * chance.choice((1, 1, 1, 64))
        case 4:
            source = chance.randrange(len(data) + 1)
            data[at:at] = data[source : source + length]
        case 5:
            del data[at:]
        case _:
            if at < len(data):
                data[at] ^= 1 << chance.randrange(8)
