"""Registry: what /metrics answers, and the table of every family for docs/reference/metrics.md."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from flexinfer.metrics import model, proxy
from flexinfer.metrics.family import Family

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

SUBJECTS: tuple[tuple[str, tuple[Family, ...]], ...] = (("Proxy", proxy.FAMILIES), ("Models", model.FAMILIES))


class Collector(Protocol):
    def collect(self) -> Iterable[Metric]: ...


class _Adapter:
    """Our collectors have no `describe`: names are unique by the test of this module's table."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    def collect(self) -> Iterable[Metric]:
        # A family without a series is left out, its HELP and TYPE lines too.
        return (metric for metric in self._collector.collect() if metric.samples)

    def describe(self) -> Iterable[Metric]:
        return ()


class Registry:
    """The collectors of one process."""

    def __init__(self, *collectors: Collector) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        for collector in collectors:
            self.register(collector)

    def register(self, collector: Collector) -> None:
        self._registry.register(_Adapter(collector))

    def render(self) -> bytes:
        """The body of /metrics, in the text format that CONTENT_TYPE names."""
        return generate_latest(self._registry)


def table() -> str:
    """docs/reference/metrics.md, whole."""
    lines = [
        "# Metrics",
        "",
        "Written by `python -m flexinfer.metrics.registry > docs/reference/metrics.md`; do not edit.",
        "",
        "The value of a `model` label is always the name of a Model that exists. The series of a deleted Model go with",
        "it; a series appears with the first request.",
    ]
    for subject, families in SUBJECTS:
        lines += ["", f"## {subject}", "", "| name | type | labels | meaning |", "|---|---|---|---|"]
        lines += [
            f"| `{family.name}` | {family.type} | {', '.join(family.labels) or '–'} | {family.help} |"
            for family in families
        ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(table(), end="")
