"""F44 on a cluster: several proxies, each with watches that are late by their own time, and pods that end slowly.

As in `test_scale_to_zero`, the decisions are the real ones. A pod that is told to go leaves its slice, takes
requests for a moment more, then closes its port and finishes what is open. The manager learns of use by the
Model alone. What is held against: no request is lost or refused, and the last use never goes backwards.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.models import T0, model

from flexinfer.api.v1alpha2.model import Model
from flexinfer.lifecycle import modelfacts
from flexinfer.lifecycle.activation import Activate, Activation, Dispatch, Effects, Limits, Reject, Touch
from flexinfer.lifecycle.decide import decide
from flexinfer.lifecycle.modelqueue import Request
from flexinfer.lifecycle.observed import Observed, Replica
from flexinfer.lifecycle.status import status_of
from flexinfer.routing import least_loaded
from flexinfer.routing.base import Endpoint

IDLE_S = 5.0
SLOTS = 2
ENDINGS_S = (0.0, 1.0, 3.0)
"""What a pod goes on taking requests for, once it is told to go (its preStop hook, if it has one)."""
LATEST_S = 2.5


class Pod(msgspec.Struct):
    """`facts` is what the manager sees of it until it is told to go."""

    facts: Replica
    takes: bool = True
    open: int = 0


class World:
    """The store, the manager and the pods."""

    def __init__(self, seed: int, lags_s: list[float], ending_s: float) -> None:
        self._ending_s = ending_s
        self.random = random.Random(seed)
        self.now = 0.0
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.numbers = itertools.count()
        self.stored = model(serverless={"idleTimeout": f"{IDLE_S:g}s", "coldStartTimeout": "60s"}, replicas=1)
        self.seen = self.stored
        self.pods: dict[str, Pod] = {}
        self.wanted: set[str] = set()
        self.published: tuple[str, ...] = ()
        self.requeue = 0
        self.stops = 0
        self.answered: list[Request[Endpoint]] = []
        manager_lag_s, *lags = lags_s
        self.manager = Watch(self, manager_lag_s)
        self.proxies = [Proxy(self, lag_s) for lag_s in lags]
        self.reconcile()

    def time(self) -> datetime:
        return T0 + timedelta(seconds=self.now)

    def at(self, delay_s: float, work: Callable[[], None]) -> None:
        heapq.heappush(self.events, (self.now + delay_s, next(self.numbers), work))

    def run(self, until: float) -> None:
        while self.events and self.events[0][0] <= until:
            self.now, _, work = heapq.heappop(self.events)
            work()

    def store(self, changed: Model) -> None:
        self.stored = changed

        def seen() -> None:
            self.seen = changed
            self.reconcile()

        self.manager.tell(seen)
        for proxy in self.proxies:
            proxy.watch.tell(lambda proxy=proxy: proxy.sees(changed))  # type: ignore[misc]

    def use(self, at: datetime, *, wakes: bool) -> None:
        """As `proxy.uses` writes it: only forward, and newer than what stands there to wake a model."""
        last = self.stored.status.last_active_time
        if last is not None and last >= at:
            if not wakes:
                return
            at = last + timedelta(milliseconds=1)
        assert last is None or at > last, "it went backwards"
        status = msgspec.structs.replace(self.stored.status, last_active_time=at)
        self.store(msgspec.structs.replace(self.stored, status=status))

    def observed(self) -> Observed:
        return Observed(replicas=tuple(self.pods[name].facts for name in sorted(self.wanted)))

    def reconcile(self) -> None:
        decision = decide(self.seen, self.observed(), self.time())
        while len(self.wanted) < decision.replicas:
            self.start_pod()
        if decision.replicas == 0:
            for name in sorted(self.wanted):
                self.end_pod(name)
        self.publish()
        outcome = decide(self.seen, self.observed(), self.time())
        status = status_of(self.seen, self.observed(), outcome, self.time())
        status = msgspec.structs.replace(status, last_active_time=self.stored.status.last_active_time)
        if status != self.stored.status:
            self.store(msgspec.structs.replace(self.stored, status=status))
        if outcome.requeue_after_s is not None:
            self.requeue += 1
            mine = self.requeue
            self.at(outcome.requeue_after_s, lambda: self.reconcile() if self.requeue == mine else None)

    def start_pod(self) -> None:
        name = f"pod-{next(self.numbers)}"
        pod = self.pods[name] = Pod(Replica(name=name, state="loading", started_at=self.time()))
        self.wanted.add(name)

        def ready() -> None:
            if name in self.wanted:
                pod.facts = msgspec.structs.replace(pod.facts, state="ready", ready_at=self.time())
                self.publish()
                self.reconcile()

        self.at(self.random.uniform(0.2, 6.0), ready)

    def end_pod(self, name: str) -> None:
        pod = self.pods[name]
        assert pod.facts.state == "ready", "reaped while loading"
        self.wanted.discard(name)
        self.stops += 1

        def closes() -> None:
            pod.takes = False

        self.at(self._ending_s, closes)

    def publish(self) -> None:
        """What the cluster's own controller makes of the pods: it knows nothing of a Model's conditions."""
        ready = tuple(name for name in sorted(self.wanted) if self.pods[name].facts.state == "ready")
        if ready == self.published:
            return
        self.published = ready
        for proxy in self.proxies:
            proxy.slices.tell(lambda proxy=proxy: proxy.sees_slices(ready))  # type: ignore[misc]


class Watch:
    """Events come late, but in order."""

    def __init__(self, world: World, latest_s: float) -> None:
        self._world = world
        self._latest_s = latest_s
        self._heard_at = 0.0

    def tell(self, work: Callable[[], None]) -> None:
        world = self._world
        due = max(self._heard_at, world.now + world.random.uniform(0.0, self._latest_s))
        self._heard_at = due
        world.at(due - world.now, work)


class Proxy:
    def __init__(self, world: World, latest_s: float) -> None:
        self._world = world
        self.watch, self.slices = Watch(world, latest_s), Watch(world, latest_s)
        self._machine: Activation[Endpoint] = Activation(least_loaded.pick, Limits())
        self._tick_at = math.inf
        self.sees(world.stored)
        queue = self._machine.queue("m")
        assert queue is not None
        self._queue = queue

    def sees(self, stored: Model) -> None:
        facts = modelfacts.of(stored, SLOTS, self._world.time())
        self._effects(self._machine.model_changed("m", facts, self._world.now))

    def sees_slices(self, names: tuple[str, ...]) -> None:
        endpoints = [Endpoint(name=name, host="10.0.0.1", port=8000) for name in names]
        self._effects(self._machine.endpoints_changed("m", endpoints, self._world.now))

    def arrive(self) -> None:
        self._effects(self._machine.request_arrived(Request(self._queue), self._world.now))

    def _effects(self, effects: Effects[Endpoint]) -> None:
        world = self._world
        for effect in effects:
            if isinstance(effect, Dispatch):
                self._forward(effect.request, effect.endpoint.name)
            elif isinstance(effect, Reject):
                raise AssertionError(f"refused with {effect.error}")
            elif isinstance(effect, Activate | Touch):
                wakes = isinstance(effect, Activate)
                used_at = world.now if isinstance(effect, Activate) else effect.used_at
                at = T0 + timedelta(seconds=used_at)
                world.at(
                    world.random.uniform(0.0, 0.05),
                    lambda at=at, wakes=wakes: world.use(at, wakes=wakes),  # type: ignore[misc]
                )
        if self._machine.wake_at < self._tick_at:
            self._tick_at = self._machine.wake_at
            world.at(self._tick_at - world.now, self._tick)

    def _tick(self) -> None:
        self._tick_at = math.inf
        self._effects(self._machine.tick(self._world.now))

    def _forward(self, request: Request[Endpoint], name: str) -> None:
        world, pod = self._world, self._world.pods[name]

        def connect() -> None:
            if not pod.takes:
                self._effects(self._machine.request_refused(request, world.now))
                assert request.refusals == 1, "met a closed port twice"
                return
            pod.open += 1
            world.at(world.random.choice((0.01, 0.3, 2.0, 1.5 * IDLE_S)), done)

        def done() -> None:
            pod.open -= 1
            assert request not in world.answered
            world.answered.append(request)
            self._effects(self._machine.request_done(request, world.now))

        world.at(world.random.uniform(0.0, 0.005), connect)


GAPS = st.one_of(
    st.sampled_from((0.01, 0.3, IDLE_S, IDLE_S + 1.5, 12.0)),
    st.floats(IDLE_S - 0.5, IDLE_S + 4.0, allow_nan=False),
)
LAGS = st.lists(st.sampled_from((0.02, 0.3, LATEST_S)), min_size=3, max_size=4)


SCHEDULES = {
    "seed": st.integers(0, 2**32 - 1),
    "lags_s": LAGS,
    "ending_s": st.sampled_from(ENDINGS_S),
    "arrivals": st.lists(st.tuples(GAPS, st.integers(0, 2)), min_size=1, max_size=20),
}


def play(seed: int, lags_s: list[float], ending_s: float, arrivals: list[tuple[float, int]]) -> None:
    world = World(seed, lags_s, ending_s)
    at = 0.0
    for gap_s, which in arrivals:
        at += gap_s
        world.at(at, world.proxies[which % len(world.proxies)].arrive)
    world.run(at + 200.0)
    assert len(world.answered) == len(arrivals)
    assert not world.wanted, "it never came to rest"
    assert world.stops >= 1


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(**SCHEDULES)
def test_f44_no_request_is_lost_between_several_proxies_and_a_manager(**schedule: Any):
    play(**schedule)


@pytest.mark.soak
@settings(max_examples=10_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(**SCHEDULES)
def test_f44_no_request_is_lost_in_ten_thousand_schedules_of_several_proxies(**schedule: Any):
    play(**schedule)
