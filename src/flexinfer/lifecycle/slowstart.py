"""Slow start: a replica that has just come, or come back, does not get every request because it is idle.

For its first second it gets no more than its share of what is given out, and one; after that the
strategy alone decides. Where no other replica has a free slot it is given what there is.
"""

from __future__ import annotations

from collections.abc import Collection

SPAN_S = 1.0


class SlowStart:
    __slots__ = ("_given", "_newcomers", "until")

    def __init__(self, newcomers: Collection[str], now: float) -> None:
        self.until = now + SPAN_S
        self._newcomers = frozenset(newcomers)
        self._given: dict[str, int] = {}

    def has_enough(self, name: str, replicas: int) -> bool:
        """Whether one more would be above its share of all that is given out, and one."""
        if name not in self._newcomers:
            return False
        share = (sum(self._given.values()) + 1) / replicas
        return self._given.get(name, 0) + 1 > share + 1

    def give(self, name: str) -> None:
        self._given[name] = self._given.get(name, 0) + 1
