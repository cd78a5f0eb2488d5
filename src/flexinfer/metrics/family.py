"""Family: one metric family as /metrics and its documentation show it, and the histogram behind it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import Literal

import msgspec

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
TOKENS = (1.0, 8.0, 32.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0, 32768.0, 65536.0,
          131072.0)  # fmt: skip


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

    def lines(self, values: Iterable[Labelled]) -> Iterator[str]:
        """The family in the text format, nothing when it has no values.

        Written here because a scrape of many models must not hold up requests: the client library
        takes several times as long.
        """
        first = True
        for labels, value in values:
            if first:
                yield f"# HELP {self.name} {_escape_help(self.help)}\n# TYPE {self.name} {self.type}\n"
                first = False
            named = ",".join(f'{name}="{_escape(text)}"' for name, text in zip(self.labels, labels, strict=True))
            if isinstance(value, Histogram):
                yield from _histogram_lines(self.name, named, value)
            else:
                yield f"{self.name}{{{named}}} {value!r}\n" if named else f"{self.name} {value!r}\n"


Series = tuple[Family, Iterable[Labelled]]
"""One family and its values, as collectors hand them to the registry."""


def _histogram_lines(name: str, labels: str, histogram: Histogram) -> Iterator[str]:
    before = f"{labels}," if labels else ""
    below = 0
    for bound, count in zip(histogram.bounds, histogram.counts, strict=False):
        below += count
        yield f'{name}_bucket{{{before}le="{bound!r}"}} {below}\n'
    below += histogram.counts[-1]
    after = f"{{{labels}}}" if labels else ""
    yield f'{name}_bucket{{{before}le="+Inf"}} {below}\n'
    yield f"{name}_sum{after} {histogram.total!r}\n{name}_count{after} {below}\n"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _escape_help(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")
