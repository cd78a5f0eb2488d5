"""SharedSeries: the series of several processes as one, by way of a folder they share.

Each process keeps its values in a file of its own; a scrape of any of them writes its own first and then
reads all, so that no counter ever goes back from one scrape to the next, whoever is asked. A process that
takes the place of one that died goes on from the file that it left.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import msgspec

from flexinfer.metrics import proxy
from flexinfer.metrics.family import Family, Histogram, Series

_LARGEST = frozenset(
    {"flexinfer_proxy_endpoint_count", "flexinfer_proxy_endpoint_changes_total", proxy.LATENCY_P95.name}
)
"""Of what every process sees for itself, or what cannot be added: the largest value stands for all."""


class Bars(msgspec.Struct, frozen=True):
    """A histogram in a file."""

    bounds: tuple[float, ...]
    counts: list[int]
    total: float


Kept = int | float | Bars
Table = dict[str, list[tuple[tuple[str, ...], Kept]]]
"""Labels and values by the name of the family."""

_read = msgspec.json.Decoder(Table)


class Source(Protocol):
    def collect(self) -> Iterator[Series]: ...


class SharedSeries:
    """A collector of all processes of `folder`."""

    def __init__(self, folder: Path, own: str, source: Source, exists: Callable[[str], bool]) -> None:
        """`own` names this process among them; `exists` says whether there is a Model of this name."""
        self._folder = folder
        self._path = folder / f"{own}.series"
        self._source = source
        self._exists = exists
        self._before = _counters(_load(self._path) or {})

    def publish(self) -> None:
        """Write what this process has counted. Raises OSError."""
        # What an earlier namesake of a new Model has counted is not the new one's.
        self._before = self._merged([self._before])
        mine = self._merged([_table(self._source), self._before])
        text = msgspec.json.encode(mine)
        fresh = self._path.with_suffix(".new")
        fresh.write_bytes(text)
        fresh.replace(self._path)

    def collect(self) -> Iterator[Series]:
        # A full disk: what was written last still tells what the others have.
        with contextlib.suppress(OSError):
            self.publish()
        tables = [table for path in sorted(self._folder.glob("*.series")) if (table := _load(path)) is not None]
        merged = self._merged(tables)
        for family in proxy.FAMILIES:
            yield family, [(labels, _value(kept)) for labels, kept in merged[family.name]]

    def _merged(self, tables: list[Table]) -> Table:
        found: Table = {}
        for family in proxy.FAMILIES:
            of_models = family.labels[:1] == ("model",)
            values: dict[tuple[str, ...], Kept] = {}
            for labels, kept in (item for table in tables for item in table.get(family.name, ())):
                if of_models and not self._exists(labels[0]):
                    continue
                before = values.get(labels)
                values[labels] = kept if before is None else _together(family, before, kept)
            found[family.name] = list(values.items())
        return found


def _load(path: Path) -> Table | None:
    """None where nothing can be read: the process has not written yet."""
    try:
        return _read.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _table(source: Source) -> Table:
    return {
        family.name: [
            (labels, Bars(value.bounds, list(value.counts), value.total) if isinstance(value, Histogram) else value)
            for labels, value in values
        ]
        for family, values in source.collect()
    }


def _counters(table: Table) -> Table:
    """What a process that died leaves: its gauges went with it."""
    gauges = {family.name for family in proxy.FAMILIES if family.type == "gauge"}
    return {name: values for name, values in table.items() if name not in gauges}


def _together(family: Family, one: Kept, other: Kept) -> Kept:
    if isinstance(one, Bars) and isinstance(other, Bars):
        counts = [a + b for a, b in zip(one.counts, other.counts, strict=True)]
        return Bars(one.bounds, counts, one.total + other.total)
    assert not isinstance(one, Bars), "a family has values of one kind"
    assert not isinstance(other, Bars), "a family has values of one kind"
    return max(one, other) if family.name in _LARGEST else one + other


def _value(kept: Kept) -> float | Histogram:
    if not isinstance(kept, Bars):
        return kept
    histogram = Histogram(kept.bounds)
    histogram.counts, histogram.total = kept.counts, kept.total
    return histogram
