"""What the manager measures of its control loops."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from flexinfer.api.meta import ObjectKey
from flexinfer.errors import Conflict
from flexinfer.metrics.family import SECONDS, Family, Histogram, Series

RECONCILES = Family(
    name="flexinfer_controller_reconciles_total", type="counter", labels=("controller", "result"),
    help="Reconciles by result: success, conflict (a write met a newer object and is tried again) or error.",
)  # fmt: skip
RECONCILE_SECONDS = Family(
    name="flexinfer_controller_reconcile_duration_seconds", type="histogram", labels=("controller",),
    help="How long a reconcile takes, calls to the API server included.",
)  # fmt: skip
QUEUE_DEPTH = Family(
    name="flexinfer_controller_queue_depth", type="gauge", labels=("controller",),
    help="Objects that wait for a reconcile.",
)  # fmt: skip
LEADER = Family(
    name="flexinfer_controller_leader", type="gauge", help="1 while this process is the one that writes.",
)  # fmt: skip

FAMILIES: tuple[Family, ...] = (RECONCILES, RECONCILE_SECONDS, QUEUE_DEPTH, LEADER)

_RESULTS = ("success", "conflict", "error")


class ControllerMetrics:
    """One for all controllers of a process; register it with a Registry."""

    def __init__(self, depths: Mapping[str, Callable[[], int]], leading: Callable[[], bool]) -> None:
        """`depths` has the length of the queue of every controller by name."""
        self._depths = depths
        self._leading = leading
        self._counts = {(name, result): 0 for name in depths for result in _RESULTS}
        self._durations = {name: Histogram(SECONDS) for name in depths}

    def observer(self, controller: str) -> Callable[[ObjectKey, float, Exception | None], None]:
        """What a `kube.controller.Controller` takes as `on_result`."""

        def observe(_key: ObjectKey, seconds: float, error: Exception | None) -> None:
            result = "success" if error is None else "conflict" if isinstance(error, Conflict) else "error"
            self._counts[controller, result] += 1
            self._durations[controller].observe(seconds)

        return observe

    def collect(self) -> Iterator[Series]:
        yield RECONCILES, self._counts.items()
        yield RECONCILE_SECONDS, (((name,), histogram) for name, histogram in self._durations.items())
        yield QUEUE_DEPTH, (((name,), depth()) for name, depth in self._depths.items())
        yield LEADER, [((), int(self._leading()))]
