"""Tensor types of ggml: how many values a block packs and how many bytes it takes."""

from __future__ import annotations

from typing import NamedTuple


class Layout(NamedTuple):
    name: str
    block: int
    """Values in one block."""
    block_bytes: int


TYPES: dict[int, Layout] = {
    0: Layout("F32", 1, 4),
    1: Layout("F16", 1, 2),
    2: Layout("Q4_0", 32, 18),
    3: Layout("Q4_1", 32, 20),
    6: Layout("Q5_0", 32, 22),
    7: Layout("Q5_1", 32, 24),
    8: Layout("Q8_0", 32, 34),
    9: Layout("Q8_1", 32, 36),
    10: Layout("Q2_K", 256, 84),
    11: Layout("Q3_K", 256, 110),
    12: Layout("Q4_K", 256, 144),
    13: Layout("Q5_K", 256, 176),
    14: Layout("Q6_K", 256, 210),
    15: Layout("Q8_K", 256, 292),
    16: Layout("IQ2_XXS", 256, 66),
    17: Layout("IQ2_XS", 256, 74),
    18: Layout("IQ3_XXS", 256, 98),
    19: Layout("IQ1_S", 256, 50),
    20: Layout("IQ4_NL", 32, 18),
    21: Layout("IQ3_S", 256, 110),
    22: Layout("IQ2_S", 256, 82),
    23: Layout("IQ4_XS", 256, 136),
    24: Layout("I8", 1, 1),
    25: Layout("I16", 1, 2),
    26: Layout("I32", 1, 4),
    27: Layout("I64", 1, 8),
    28: Layout("F64", 1, 8),
    29: Layout("IQ1_M", 256, 56),
    30: Layout("BF16", 1, 2),
    34: Layout("TQ1_0", 256, 54),
    35: Layout("TQ2_0", 256, 66),
    39: Layout("MXFP4", 32, 17),
}
"""By the number in the file. Types that are not listed are sized by the gap to the next tensor."""

_BY_NAME = {layout.name.lower(): layout for layout in TYPES.values()}


def name(kind: int) -> str:
    """`Q4_K`; `type N` for a number that this table does not have."""
    layout = TYPES.get(kind)
    return layout.name if layout is not None else f"type {kind}"


def bytes_per_value(type_name: str) -> float:
    """Bytes that one value takes in a cache of this type (`f16`, `q8_0`). Raises KeyError for an unknown type."""
    layout = _BY_NAME[type_name.lower()]
    return layout.block_bytes / layout.block
