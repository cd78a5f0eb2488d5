"""ModelQueue: who waits for one model, in which order, and which slots are free."""

from __future__ import annotations

import math
from bisect import insort
from collections import deque
from collections.abc import Sequence
from typing import Generic, Literal, Protocol, TypeVar

from flexinfer.lifecycle import outliers, silence
from flexinfer.lifecycle.modelfacts import LoadFailure, ModelFacts
from flexinfer.lifecycle.silence import Silence
from flexinfer.lifecycle.slowstart import SlowStart

RequestState = Literal["new", "waiting", "running", "ended"]


class Named(Protocol):
    @property
    def name(self) -> str: ...


E = TypeVar("E", bound=Named)


class Request(Generic[E]):
    """One request from arrival to end. The caller may subclass it; only the machine writes these fields."""

    __slots__ = ("arrived_at", "endpoint", "model", "order", "queued", "refusals", "started_at", "state")

    def __init__(self, model: ModelQueue[E]) -> None:
        self.model = model
        self.state: RequestState = "new"
        self.endpoint: E | None = None
        self.order = 0
        self.arrived_at = 0.0
        self.started_at = 0.0
        self.queued = False
        self.refusals = 0

    def begin(self, endpoint: E, now: float) -> None:
        self.state = "running"
        self.endpoint = endpoint
        self.started_at = now


class ModelQueue(Generic[E]):
    """Everything the machine knows of one model. Read it, do not write it, `called` aside."""

    __slots__ = (
        "activated_at", "answered_at", "available", "beat_s", "busy", "called", "endpoints", "facts", "failed_at",
        "failure", "forgiven", "free", "gone", "in_flight", "loading_since", "name", "only", "open", "out", "probes",
        "progress_seen_at", "returned", "service_s", "slow_start", "stalled", "streaks", "touch_s", "touched_at",
        "unanswered", "used_at", "waiting",
    )  # fmt: skip

    def __init__(self, name: str, facts: ModelFacts) -> None:
        self.name = name
        self.called = name
        """How answers to clients name it."""
        self.facts = facts
        self.endpoints: tuple[E, ...] = ()
        self.available: dict[str, E] = {}
        self.only: E | None = None
        """The available replica, when there is just one."""
        self.in_flight: dict[str, int] = {}
        self.free = 0
        """Slots that a request may take now, over all available replicas."""
        self.open = 0
        """Requests that hold a slot."""
        self.waiting: deque[Request[E]] = deque()
        self.gone = 0
        """Entries of `waiting` whose client left; they are dropped when they come up."""
        self.returned: list[Request[E]] = []
        """Refused by a closed port: all of them arrived before anything in `waiting`."""
        self.activated_at: float | None = None
        """Since when an activation is under way."""
        self.failure: LoadFailure | None = None
        self.failed_at = 0.0
        self.forgiven: LoadFailure | None = None
        """The failure that the running activation came after."""
        self.loading_since: float | None = None
        self.progress_seen_at = 0.0
        self.stalled = False
        self.out: dict[str, float] = {}
        """Ready replica that is passed over -> when it is tried again."""
        self.probes: dict[str, Request[E]] = {}
        """Replica of `out` that is being tried -> the one request that tries it."""
        self.slow_start: SlowStart | None = None
        self.streaks: dict[str, int] = {}
        """Replica -> its failures since its last success."""
        self.answered_at: dict[str, float] = {}
        """Replica -> its last success."""
        self.unanswered: dict[str, tuple[float, ...]] = {}
        """Replica -> when those requests were sent that timed out, of those sent since its last success."""
        self.touch_s = math.inf
        """Use is reported at most this often."""
        self.beat_s = math.inf
        """And this often while a request is open."""
        self.touched_at = -math.inf
        self.used_at = -math.inf
        self.service_s = 0.0
        self.busy = False

    @property
    def depth(self) -> int:
        """Requests that wait."""
        return len(self.waiting) - self.gone + len(self.returned)

    @property
    def ready(self) -> bool:
        return bool(self.available) and not self.facts.holding

    def use_due(self) -> float:
        """When use must be reported next. Never while Failed: that would read as a wish to try again."""
        if self.failure is not None and not self.ready:
            return math.inf
        # Its last requests are no reason to keep it, one that waits is.
        if self.facts.stopped and not self.depth:
            return math.inf
        if self.open or self.depth:
            return self.touched_at + self.beat_s
        return self.touched_at + self.touch_s if self.ready and self.used_at > self.touched_at else math.inf

    def append(self, request: Request[E]) -> None:
        request.state = "waiting"
        request.queued = True
        self.waiting.append(request)

    def put_back(self, request: Request[E]) -> None:
        """A request that held a slot waits again, at the place its arrival gives it."""
        request.state = "waiting"
        request.queued = True
        insort(self.returned, request, key=_order)

    def remove(self, request: Request[E]) -> None:
        request.state = "ended"
        if request.refusals:
            self.returned.remove(request)
            return
        self.gone += 1
        self._drop_gone()
        if self.gone > 32 and 2 * self.gone > len(self.waiting):
            self.waiting = deque(request for request in self.waiting if request.state == "waiting")
            self.gone = 0

    def head(self) -> Request[E] | None:
        """The request whose turn is next."""
        if self.returned:
            return self.returned[0]
        return self.waiting[0] if self.waiting else None

    def take(self) -> Request[E] | None:
        if self.returned:
            return self.returned.pop(0)
        if not self.waiting:
            return None
        request = self.waiting.popleft()
        self._drop_gone()
        return request

    def occupy(self, endpoint: E) -> None:
        self.in_flight[endpoint.name] = self.in_flight.get(endpoint.name, 0) + 1
        self.free -= 1
        self.open += 1

    def vacate(self, endpoint: E) -> None:
        left = self.in_flight[endpoint.name] - 1
        if left:
            self.in_flight[endpoint.name] = left
        else:
            del self.in_flight[endpoint.name]
        self.open -= 1
        if left < self.facts.slots and endpoint.name in self.available and not self.facts.holding:
            self.free += 1

    def shun(self, endpoint: E, until: float) -> None:
        """It gets nothing until then. Where it is out already its time stays."""
        self.available.pop(endpoint.name, None)
        if any(endpoint.name == other.name for other in self.endpoints):
            self.out.setdefault(endpoint.name, until)
        self._note_only()
        self.count_free()

    def due_back(self, now: float) -> list[E]:
        """Those whose time is over."""
        return [endpoint for endpoint in self.endpoints if self.out.get(endpoint.name, now + 1.0) <= now]

    def probe(self, endpoint: E, request: Request[E], until: float) -> None:
        """This request alone goes there; what it has not been refused by then was taken."""
        self.probes[endpoint.name] = request
        self.out[endpoint.name] = until
        self.occupy(endpoint)
        self.count_free()  # the slot was none of the free ones

    def probe_over(self, request: Request[E], until: float) -> None:
        """If it was one: it ended before it was known to be taken, so nothing goes there until then."""
        if request.endpoint is not None and self.probes.get(request.endpoint.name) is request:
            del self.probes[request.endpoint.name]
            self.out[request.endpoint.name] = until

    def take_back(self, names: Sequence[str], now: float) -> None:
        """These get requests again, like any other."""
        if self.available:
            self.slow_start = SlowStart(names, now)
        for name in names:
            self.out.pop(name, None)
            self.probes.pop(name, None)
        self.available = {endpoint.name: endpoint for endpoint in self.endpoints if endpoint.name not in self.out}
        self._note_only()
        self.count_free()

    def offer(self, endpoints: tuple[E, ...]) -> None:
        """These are the ready replicas. What is known of one holds as long as it is there and the same."""
        gone = {endpoint.name for endpoint in self.endpoints}
        gone -= {endpoint.name for endpoint in endpoints if endpoint in self.endpoints}
        self.endpoints = endpoints
        for known in (self.out, self.probes, self.streaks, self.answered_at, self.unanswered):
            for name in gone & known.keys():
                del known[name]
        failing = {name: until for name, until in self.out.items() if outliers.back_off_s(self.streaks.get(name, 0))}
        for name in outliers.called_back(failing, len(endpoints), len(endpoints) - len(self.out)):
            del self.out[name]
            self.probes.pop(name, None)
        self.available = {endpoint.name: endpoint for endpoint in endpoints if endpoint.name not in self.out}
        self._note_only()
        self.count_free()

    def forgive(self, name: str) -> None:
        """Its last answer was a good one."""
        self.streaks.pop(name, None)
        self.unanswered.pop(name, None)

    def timed_out(self, endpoint: E, sent_at: float) -> bool:
        """Whether it hangs."""
        name = endpoint.name
        if endpoint not in self.endpoints or sent_at <= self.answered_at.get(name, -math.inf):
            return False
        sent = self.unanswered[name] = (*self.unanswered.get(name, ()), sent_at)[-silence.TIMEOUTS :]
        return len(sent) >= silence.TIMEOUTS

    def silences(self) -> dict[str, Silence]:
        """What its replicas have answered, and what they have not."""
        return {
            name: Silence(self.answered_at.get(name), self.unanswered.get(name, ()))
            for name in self.answered_at.keys() | self.unanswered.keys()
        }

    def note_failure(self, failed_at: float) -> None:
        """What the status says of the last load."""
        failure = self.facts.failure
        if failure is None:
            self.failure = self.forgiven = None
        elif self.forgiven is not None and self.forgiven.at == failure.at:
            self.forgiven = failure
        elif self.failure is None or self.failure.at != failure.at:
            self.failure, self.failed_at, self.forgiven = failure, failed_at, None

    def count_free(self) -> None:
        slots, in_flight = self.facts.slots, self.in_flight
        self.free = 0
        if not self.facts.holding:
            self.free = sum(max(0, slots - in_flight.get(name, 0)) for name in self.available)

    def _note_only(self) -> None:
        self.only = next(iter(self.available.values())) if len(self.available) == 1 else None

    def _drop_gone(self) -> None:
        waiting = self.waiting
        while waiting and waiting[0].state != "waiting":
            waiting.popleft()
            self.gone -= 1


def _order(request: Request[E]) -> int:
    return request.order
