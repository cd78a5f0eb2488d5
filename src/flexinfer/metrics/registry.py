"""Registry: what /metrics answers, and the table of every family for docs/reference/metrics.md."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from flexinfer.metrics import controller, model, process, proxy, rights
from flexinfer.metrics.family import Family, Series

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

SUBJECTS: tuple[tuple[str, tuple[Family, ...]], ...] = (
    ("Proxy", proxy.FAMILIES),
    ("Models", model.FAMILIES),
    ("Controllers", controller.FAMILIES),
    ("Every process", process.FAMILIES + rights.FAMILIES),
)


class Collector(Protocol):
    def collect(self) -> Iterable[Series]: ...


class Registry:
    """The collectors of one process."""

    def __init__(self, *collectors: Collector) -> None:
        self._collectors = list(collectors)

    def register(self, collector: Collector) -> None:
        self._collectors.append(collector)

    def render(self) -> bytes:
        """The body of /metrics, in the text format that CONTENT_TYPE names. Families without a value are left out."""
        lines = (
            line
            for collector in self._collectors
            for family, values in collector.collect()
            for line in family.lines(values)
        )
        return "".join(lines).encode()


def table() -> str:
    """docs/reference/metrics.md, whole."""
    lines = [
        "# Metrics",
        "",
        "Written by `make generate`; do not edit.",
        "",
        "The value of a `model` label is always the name of a Model that exists. The series of a deleted Model go with",
        "it; a series appears with the first request. Where a proxy serves a cluster, `namespace` follows `model` in",
        "all of its series.",
    ]
    for subject, families in SUBJECTS:
        lines += ["", f"## {subject}", "", _rows(families)]
    return "\n".join(lines) + "\n"


def one_table() -> str:
    """Every family, whatever its subject, as one table."""
    return _rows(tuple(family for _, families in SUBJECTS for family in families))


def _rows(families: Iterable[Family]) -> str:
    lines = ["| name | type | labels | meaning |", "|---|---|---|---|"]
    lines += [
        f"| `{family.name}` | {family.type} | {', '.join(family.labels) or '–'} | {family.help} |"
        for family in families
    ]
    return "\n".join(lines)
