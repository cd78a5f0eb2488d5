"""What a line of an engine's log says about loading: substage and progress. Pure.

Engines count in different units (files, percent, dots), so progress is a fraction of the current
substage's work and never goes back within it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """How far an engine is; substages as in `lifecycle.observed.Replica`."""

    substage: str = "StartingEngine"
    progress: float | None = None


# The last match of a line wins. With a group the number is a percentage of the substage.
_RULES: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("PullingModel", re.compile(r"(?:^|\s)pulling \S+.*?(\d{1,3})\s?%")),
    ("PullingModel", re.compile(r"(?:^|\s)pulling (?:manifest|model|\S+\.{3})")),
    ("LoadingWeights", re.compile(r"Loading \S+ checkpoint shards:\s+(\d{1,3})% Completed")),
    ("LoadingWeights", re.compile(r"[Ll]oading (?:model|weights)\b.*?(\d{1,3})\s?%")),
    (
        "LoadingWeights",
        re.compile(r"Starting to load model|\bload_tensors:|llama_model_load(?:er|:)|\bloading model\b"),
    ),
    ("LoadingWeights", re.compile(r"Loading weights took")),
    ("WarmingUp", re.compile(r"(?:Capturing CUDA graph|Capturing batches)\D*(\d{1,3})%")),
    ("WarmingUp", re.compile(r"KV cache size: [\d,]+ tokens|llama_kv_cache\w*:|llama_context:|warming up")),
    (
        "WarmingUp",
        re.compile(r"init engine .* took|Starting \S+ server on|[Aa]pplication startup complete|model loaded"),
    ),
)
_ORDER = ("StartingEngine", "PullingModel", "CheckingDevice", "LoadingWeights", "WarmingUp")

# llama.cpp prints one dot per percent on a line of its own, without an end until the load is complete.
_DOTS = re.compile(r"^\.{1,110}$")


def read_line(load: Load, line: str) -> Load:
    """The state after one more line; a line that says nothing of loading changes nothing."""
    text = line.strip()
    if _DOTS.match(text):
        return _advance(load, "LoadingWeights", min(len(text) / 100, 1.0))
    for substage, pattern in _RULES:
        match = pattern.search(text)
        if match is not None:
            percent = match.group(1) if match.lastindex else None
            return _advance(load, substage, None if percent is None else min(int(percent) / 100, 1.0))
    return load


def read_lines(load: Load, lines: Iterable[str]) -> Load:
    for line in lines:
        load = read_line(load, line)
    return load


def _advance(load: Load, substage: str, progress: float | None) -> Load:
    """Later substages replace earlier ones, never the other way round; within one, progress only grows."""
    before, after = _ORDER.index(load.substage), _ORDER.index(substage)
    if after < before:
        return load
    if after == before:
        if progress is None or (load.progress is not None and progress <= load.progress):
            return load
        return Load(substage=substage, progress=progress)
    return Load(substage=substage, progress=progress)
