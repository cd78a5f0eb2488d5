"""Window: tokens per second and the 95th percentile of latency over the last 60 seconds.

Latencies go into buckets whose bounds grow by a tenth, so a percentile is right within 5 %. Memory
is bounded whatever the load: one small table per second.
"""

from __future__ import annotations

import math

import msgspec

SPAN_S = 60
_SHORTEST_S = 1e-4
_GROWTH = math.log(1.1)
_LAST_BUCKET = 199


class Live(msgspec.Struct, frozen=True, kw_only=True):
    """What the last 60 seconds looked like, requests that had an answer only."""

    tokens_per_second: float
    latency_p95_s: float
    latency_avg_s: float


class Window:
    __slots__ = ("_latencies", "_requests", "_seconds", "_tokens", "_total_s")

    def __init__(self) -> None:
        self._seconds = [-1] * SPAN_S
        self._tokens = [0.0] * SPAN_S
        self._requests = [0] * SPAN_S
        self._total_s = [0.0] * SPAN_S
        self._latencies: list[dict[int, int]] = [{} for _ in range(SPAN_S)]

    def add(self, now: float, latency_s: float, tokens: int, generating_s: float) -> None:
        """A request ended `now`; its tokens came evenly over the last `generating_s`."""
        second = int(now)
        slot = self._slot(second)
        self._requests[slot] += 1
        self._total_s[slot] += latency_s
        bucket = _bucket(latency_s)
        table = self._latencies[slot]
        table[bucket] = table.get(bucket, 0) + 1
        if not tokens:
            return
        if generating_s <= 1.0:
            self._tokens[slot] += tokens
            return
        for back in range(min(SPAN_S, math.ceil(generating_s))):
            share = min(1.0, generating_s - back) / generating_s
            if second - back >= 0:
                self._tokens[self._slot(second - back)] += tokens * share

    def read(self, now: float) -> Live | None:
        """None without a request in the last 60 s."""
        oldest = int(now) - SPAN_S
        slots = [slot for slot, second in enumerate(self._seconds) if second > oldest]
        requests = sum(self._requests[slot] for slot in slots)
        if not requests:
            return None
        table: dict[int, int] = {}
        for slot in slots:
            for bucket, count in self._latencies[slot].items():
                table[bucket] = table.get(bucket, 0) + count
        return Live(
            tokens_per_second=sum(self._tokens[slot] for slot in slots) / SPAN_S,
            latency_p95_s=_quantile(table, requests, 0.95),
            latency_avg_s=sum(self._total_s[slot] for slot in slots) / requests,
        )

    def _slot(self, second: int) -> int:
        slot = second % SPAN_S
        if self._seconds[slot] < second:
            self._seconds[slot] = second
            self._tokens[slot] = 0.0
            self._requests[slot] = 0
            self._total_s[slot] = 0.0
            self._latencies[slot] = {}
        return slot


def merge(lives: list[Live]) -> Live | None:
    """Several nodes as one: rates add up, latencies are those of the slowest node."""
    if not lives:
        return None
    return Live(
        tokens_per_second=sum(live.tokens_per_second for live in lives),
        latency_p95_s=max(live.latency_p95_s for live in lives),
        latency_avg_s=max(live.latency_avg_s for live in lives),
    )


def _bucket(seconds: float) -> int:
    if seconds <= _SHORTEST_S:
        return 0
    return min(_LAST_BUCKET, int(math.log(seconds / _SHORTEST_S) / _GROWTH))


def _quantile(table: dict[int, int], count: int, quantile: float) -> float:
    rank = math.ceil(quantile * count)
    for bucket in sorted(table):
        rank -= table[bucket]
        if rank <= 0:
            return _SHORTEST_S * math.exp((bucket + 0.5) * _GROWTH)
    raise AssertionError("the table holds fewer requests than were counted")
