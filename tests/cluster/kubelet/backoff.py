"""Back-off of restarts and pulls: nothing, then the base, doubled each time up to a cap; forgotten after a long run."""

from __future__ import annotations


class BackOff:
    def __init__(self, base_s: float, cap_s: float) -> None:
        self._base_s = base_s
        self._cap_s = cap_s
        self._failures = 0

    def next_s(self, ran_s: float = 0.0) -> float:
        """How long to wait now; `ran_s` is how long the thing lasted this time."""
        if ran_s > 2 * self._cap_s:
            self._failures = 0
        waited = 0.0 if self._failures == 0 else min(self._cap_s, self._base_s * 2.0 ** min(self._failures - 1, 16))
        self._failures += 1
        return waited
