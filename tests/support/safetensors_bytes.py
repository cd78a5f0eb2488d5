"""Build safetensors files in memory, good and bad ones."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any

BYTES = {"F16": 2, "BF16": 2, "F32": 4, "U8": 1}


def entries(tensors: Mapping[str, tuple[str, Sequence[int]]]) -> dict[str, Any]:
    found, offset = {}, 0
    for name, (dtype, shape) in tensors.items():
        size = math.prod(shape) * BYTES[dtype]
        found[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    return found


def framed(header: object, data_bytes: int) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + b"\1" * data_bytes


def whole(tensors: Mapping[str, tuple[str, Sequence[int]]], metadata: Mapping[str, str] | None = None) -> bytes:
    header = entries(tensors)
    size = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    return framed({**({"__metadata__": metadata} if metadata else {}), **header}, size)
