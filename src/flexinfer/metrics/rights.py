"""Which rights a process turned out to lack."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from flexinfer.metrics.family import Family, Series

MISSING_RIGHT = Family(
    name="flexinfer_missing_right", type="gauge", labels=("verb", "resource", "account"),
    help="1 for each right that the API server has refused to this process and not granted since.",
)  # fmt: skip

FAMILIES: tuple[Family, ...] = (MISSING_RIGHT,)


class RightsMetrics:
    def __init__(self, missing: Callable[[], Iterable[tuple[str, str, str]]]) -> None:
        """`missing` gives verb, resource and account of each."""
        self._missing = missing

    def collect(self) -> Iterator[Series]:
        yield MISSING_RIGHT, [(labels, 1) for labels in dict.fromkeys(self._missing())]
