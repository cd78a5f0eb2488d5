"""Family: one metric family as /metrics and its documentation show it, and the histogram behind it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from typing import Literal

import msgspec
from prometheus_client.core import Metric

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
TOKENS = (1.0, 8.0, 32.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0, 32768.0)


class Histogram:
    """Counts by bucket. `observe` is a search and two additions."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    @property
    def count(self) -> int:
        return sum(self.counts)


Value = float | Histogram
Labelled = tuple[tuple[str, ...], Value]
"""Label values in the order of the family's labels, and the value."""


class Family(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    """As it is queried: a counter's ends in `_total`."""
    type: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()

    def metric(self, values: Iterable[Labelled]) -> Metric:
        # The text format writes a counter's family without `_total`, its samples with it.
        metric = Metric(self.name.removesuffix("_total"), self.help, self.type)
        for labels, value in values:
            named = dict(zip(self.labels, labels, strict=True))
            if isinstance(value, Histogram):
                _add_histogram(metric, self.name, named, value)
            else:
                metric.add_sample(self.name, named, value)
        return metric


def _add_histogram(metric: Metric, name: str, labels: dict[str, str], histogram: Histogram) -> None:
    below = 0
    for bound, count in zip((*histogram.bounds, float("inf")), histogram.counts, strict=True):
        below += count
        metric.add_sample(f"{name}_bucket", {**labels, "le": "+Inf" if bound == float("inf") else repr(bound)}, below)
    metric.add_sample(f"{name}_count", labels, below)
    metric.add_sample(f"{name}_sum", labels, histogram.total)
