"""One thing that is fuzzed."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Target(NamedTuple):
    run: Callable[[bytes], None]
    """Takes any bytes and may only return; an exception is a finding."""
    seeds: tuple[bytes, ...]
    words: tuple[bytes, ...] = ()
    """Bytes that mean something to it, beside the mutator's own."""
