"""What an engine says of its load: its metrics text -> requests running, requests waiting, use of the KV cache.

Names come and go by release, so each quantity has several; the first that is there counts. Values
of several engines in one process are added, the fullest KV cache counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import msgspec

MAX_BYTES = 8 * 2**20


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """None: the engine does not say."""

    running: int | None = None
    waiting: int | None = None
    kv_cache_use: float | None = None
    """0 to 1."""
    loaded_bytes: int | None = None
    """Memory of loaded models; Ollama only."""


class Names(msgspec.Struct, frozen=True, kw_only=True):
    path: str = "/metrics"
    running: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()
    kv_cache_use: tuple[str, ...] = ()


_VLLM = Names(
    running=("vllm:num_requests_running",),
    waiting=("vllm:num_requests_waiting",),
    # The second until 0.9.
    kv_cache_use=("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
)

NAMES: Mapping[str, Names | None] = {
    "vllm": _VLLM,
    "vllm-omni": _VLLM,
    "simulator": _VLLM,
    "sglang": Names(
        running=("sglang:num_running_reqs", "sglang_num_running_reqs"),
        waiting=("sglang:num_queue_reqs", "sglang_num_queue_reqs"),
        kv_cache_use=("sglang:token_usage", "sglang_token_usage"),
    ),
    "llamacpp": Names(
        running=("llamacpp:requests_processing",),
        waiting=("llamacpp:requests_deferred",),
        # Gone from llama.cpp since mid-2025.
        kv_cache_use=("llamacpp:kv_cache_usage_ratio",),
    ),
    "tgi": Names(running=("tgi_batch_current_size",), waiting=("tgi_queue_size",)),
    "ollama": Names(path="/api/ps"),
    "tensorrt-llm": None,
    "mlc-llm": None,
    "diffusers": None,
    "comfyui": None,
    "external": None,
}
"""By backend; None: nothing is known that could be read."""


def load(backend: str, body: bytes) -> Load:
    """The load in a metrics answer. Text that cannot be read says nothing."""
    names = NAMES.get(backend)
    if names is None or len(body) > MAX_BYTES:
        return Load()
    if names.path == "/api/ps":
        return _ollama(body)
    wanted = {*names.running, *names.waiting, *names.kv_cache_use}
    found: dict[str, list[float]] = {}
    for name, value in _samples(body.decode("utf-8", "replace"), wanted):
        found.setdefault(name, []).append(value)
    use = _first(found, names.kv_cache_use)
    return Load(
        running=_count(_first(found, names.running)),
        waiting=_count(_first(found, names.waiting)),
        kv_cache_use=min(max(*use, 0.0), 1.0) if use else None,
    )


def _samples(text: str, wanted: set[str]) -> Iterator[tuple[str, float]]:
    """`name{labels} value [time]` lines of the wanted names with finite values."""
    for line in text.splitlines():
        name = line.partition("{")[0].partition(" ")[0]
        if name not in wanted:
            continue
        rest = line.rpartition("}")[2] if "{" in line else line[len(name) :]
        try:
            value = float(rest.split()[0])
        except (IndexError, ValueError):
            continue
        if math.isfinite(value):
            yield name, value


def _first(found: Mapping[str, list[float]], names: tuple[str, ...]) -> list[float]:
    return next((found[name] for name in names if name in found), [])


def _count(values: list[float]) -> int | None:
    return max(int(sum(values)), 0) if values else None


class _Loaded(msgspec.Struct):
    size: int = 0


class _ProcessList(msgspec.Struct):
    models: list[_Loaded] = []


def _ollama(body: bytes) -> Load:
    try:
        listed = msgspec.json.decode(body, type=_ProcessList)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Load()
    return Load(loaded_bytes=sum(max(model.size, 0) for model in listed.models))
