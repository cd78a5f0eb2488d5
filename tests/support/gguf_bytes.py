"""Build GGUF files in memory, good and bad ones."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

U32, STRING, ARRAY, U64, F32, BOOL = 4, 8, 9, 10, 6, 7


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def key(name: str, kind: int, raw: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + raw


def pair(name: str, value: Any) -> bytes:
    match value:
        case bool():
            return key(name, BOOL, struct.pack("<?", value))
        case int():
            return key(name, U32, struct.pack("<I", value))
        case float():
            return key(name, F32, struct.pack("<f", value))
        case str():
            return key(name, STRING, text(value))
        case list() if value and isinstance(value[0], str):
            return key(name, ARRAY, struct.pack("<IQ", STRING, len(value)) + b"".join(text(item) for item in value))
        case list():
            return key(name, ARRAY, struct.pack("<IQ", U32, len(value)) + struct.pack(f"<{len(value)}I", *value))
    raise TypeError(value)


def tensor(name: str, shape: Sequence[int], kind: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def head(pairs: Sequence[bytes], tensors: Sequence[bytes], version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(pairs)) + b"".join(pairs) + b"".join(tensors)


def whole(pairs: Sequence[bytes], tensors: Sequence[bytes], data_bytes: int, alignment: int = 32) -> bytes:
    raw = head(pairs, tensors)
    return raw + b"\0" * (-len(raw) % alignment) + b"\1" * data_bytes


def llama(metadata: dict[str, Any], tensors: Sequence[tuple[str, Sequence[int], int, int]]) -> bytes:
    """A file of an architecture `llama`; tensors are (name, shape, type, bytes), laid out in turn."""
    pairs = [pair("general.architecture", "llama"), *(pair(f"llama.{name}", value) for name, value in metadata.items())]
    infos, offset = [], 0
    for name, shape, kind, size in tensors:
        infos.append(tensor(name, shape, kind, offset))
        offset += -(-size // 32) * 32
    return whole(pairs, infos, offset)
