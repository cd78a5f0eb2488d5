"""API keys as text: what a key looks like, and its line in a file of keys, which knows only its hash."""

from __future__ import annotations

import hashlib
import zlib

RANDOM_BYTES = 20


def digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def key_of(random: bytes) -> str:
    """`fx_`, 160 random bits and a checksum that tells a cut copy from a wrong key, in hexadecimal."""
    body = random.hex()
    return f"fx_{body}{zlib.crc32(body.encode()):08x}"


def line(name: str, key: str) -> str:
    return f"{name}:sha256:{digest(key.encode()).hex()}"
