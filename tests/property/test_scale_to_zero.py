"""Proxy and manager against each other on virtual time: a model goes to zero and is woken, and no request is lost.

Both are the real decisions (`lifecycle.activation`, `lifecycle.decide`); between them stands a store whose
watches are late by a random time, and an engine that stops the moment it is told to.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Callable
from datetime import timedelta

import msgspec
import pytest
from tests.support.models import T0, model

from flexinfer.lifecycle import modelfacts
from flexinfer.lifecycle.activation import Activate, Activation, Dispatch, Effects, Limits, Reject, Touch
from flexinfer.lifecycle.decide import Decision, decide
from flexinfer.lifecycle.modelqueue import Request
from flexinfer.lifecycle.observed import Observed, Replica
from flexinfer.lifecycle.status import status_of
from flexinfer.routing import least_loaded
from flexinfer.routing.base import Endpoint

IDLE_S = 5.0
SLOTS = 2
REQUESTS = 25
LATEST_WATCH_S = 0.1


class World:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.numbers = itertools.count()
        self.stored = model(serverless={"idleTimeout": f"{IDLE_S:g}s", "coldStartTimeout": "60s"}, replicas=1)
        self.seen_by_manager = self.stored
        self.heard_at = {"manager": 0.0, "proxy": 0.0}
        self.load_s = self.random.uniform(0.2, 6.0)
        self.replicas: dict[str, Replica] = {}
        self.published: tuple[str, ...] = ()
        self.busy: dict[str, int] = {}
        self.requeue = 0
        self.machine: Activation[Endpoint] = Activation(least_loaded.pick, Limits())
        self.tick_at = math.inf
        self.answered: set[int] = set()
        self.starts = self.stops = 0
        self.proxy_sees_model()
        queue = self.machine.queue("m")
        assert queue is not None
        self.queue = queue

    def at(self, delay_s: float, work: Callable[[], None]) -> None:
        heapq.heappush(self.events, (self.now + delay_s, next(self.numbers), work))

    def tell(self, who: str, work: Callable[[], None]) -> None:
        """Events of one watch come late, but in order."""
        due = max(self.heard_at[who], self.now + self.random.uniform(0.0, LATEST_WATCH_S))
        self.heard_at[who] = due
        self.at(due - self.now, work)

    def run(self, until: float) -> None:
        while self.events and self.events[0][0] <= until:
            self.now, _, work = heapq.heappop(self.events)
            work()

    # -- store

    def write(self, changed: bool) -> None:
        if not changed:
            return
        stored = self.stored

        def manager_sees() -> None:
            self.seen_by_manager = stored
            self.reconcile()

        self.tell("manager", manager_sees)
        self.tell("proxy", self.proxy_sees_model)

    # -- manager

    def reconcile(self) -> None:
        seen, now = self.seen_by_manager, T0 + timedelta(seconds=self.now)
        decision = decide(seen, self.observe(), now)
        self.converge(decision)
        outcome = decide(seen, self.observe(), now)
        status = status_of(seen, self.observe(), outcome, now)
        status = msgspec.structs.replace(status, last_active_time=self.stored.status.last_active_time)
        changed = status != self.stored.status
        self.stored = msgspec.structs.replace(self.stored, status=status)
        self.write(changed)
        if outcome.requeue_after_s is not None:
            self.requeue += 1
            mine = self.requeue
            self.at(outcome.requeue_after_s, lambda: self.reconcile() if self.requeue == mine else None)

    def observe(self) -> Observed:
        return Observed(replicas=tuple(self.replicas.values()))

    def converge(self, decision: Decision) -> None:
        while len(self.replicas) < decision.replicas:
            self.start_replica()
        if decision.replicas == 0 and self.replicas:
            assert all(replica.state == "ready" for replica in self.replicas.values()), "reaped while loading"
            assert not any(self.busy.values()), "reaped while busy"
            self.stops += 1
            self.replicas.clear()
        ready = tuple(name for name, replica in self.replicas.items() if replica.state == "ready")
        if (offered := ready if decision.serving else ()) != self.published:
            self.published = offered
            endpoints = [Endpoint(name=name, host="127.0.0.1", port=9000) for name in offered]
            self.tell("proxy", lambda: self.effects(self.machine.endpoints_changed("m", endpoints, self.now)))

    def start_replica(self) -> None:
        name = f"r{next(self.numbers)}"
        self.starts += 1
        self.replicas[name] = Replica(name=name, state="loading", started_at=T0 + timedelta(seconds=self.now))

        def ready() -> None:
            at = T0 + timedelta(seconds=self.now)
            self.replicas[name] = msgspec.structs.replace(self.replicas[name], state="ready", ready_at=at)
            self.reconcile()

        self.at(self.load_s, ready)

    # -- proxy

    def proxy_sees_model(self) -> None:
        self.effects(
            self.machine.model_changed(
                "m", modelfacts.of(self.stored, SLOTS, T0 + timedelta(seconds=self.now)), self.now
            )
        )

    def arrive(self) -> None:
        request: Request[Endpoint] = Request(self.queue)
        self.effects(self.machine.request_arrived(request, self.now))

    def effects(self, effects: Effects[Endpoint]) -> None:
        for effect in effects:
            if isinstance(effect, Dispatch):
                self.forward(effect.request, effect.endpoint.name)
            elif isinstance(effect, Reject):
                raise AssertionError(f"refused with {effect.error}")
            elif isinstance(effect, Activate | Touch):
                used_at = effect.used_at if isinstance(effect, Touch) else self.now
                self.at(self.random.uniform(0.0, 0.02), lambda at=used_at: self.use(at))  # type: ignore[misc]
        if self.machine.wake_at < self.tick_at:
            self.tick_at = self.machine.wake_at
            self.at(self.tick_at - self.now, self.tick)

    def tick(self) -> None:
        self.tick_at = math.inf
        self.effects(self.machine.tick(self.now))

    def use(self, used_at: float) -> None:
        at, last = T0 + timedelta(seconds=used_at), self.stored.status.last_active_time
        if last is None or last < at:
            status = msgspec.structs.replace(self.stored.status, last_active_time=at)
            self.stored = msgspec.structs.replace(self.stored, status=status)
            self.write(changed=True)

    def forward(self, request: Request[Endpoint], replica: str) -> None:
        def connect() -> None:
            if replica not in self.replicas:
                self.effects(self.machine.request_refused(request, self.now))
                assert request.refusals == 1, "met a closed port twice"
                return
            self.busy[replica] = self.busy.get(replica, 0) + 1
            assert self.busy[replica] <= SLOTS
            self.at(self.random.choice((0.01, 0.3, 2.0, 1.5 * IDLE_S)), done)

        def done() -> None:
            assert replica in self.replicas, "cut while it was answered"
            self.busy[replica] -= 1
            assert request.order not in self.answered
            self.answered.add(request.order)
            self.effects(self.machine.request_done(request, self.now))

        self.at(self.random.uniform(0.0, 0.005), connect)


def play(seed: int) -> World:
    world = World(seed)
    world.reconcile()
    at = 0.0
    for _ in range(REQUESTS):
        gap_s = world.random.choice((0.01, 0.3, IDLE_S, IDLE_S + 1.5, IDLE_S + world.random.uniform(0.0, 2.5), 12.0))
        at += max(0.0, gap_s + world.random.uniform(-0.1, 0.1))
        world.at(at, world.arrive)
    world.run(at + 200.0)
    return world


@pytest.mark.parametrize("tenth", range(10))
def test_no_request_is_lost_when_scaling_to_zero_races_it(tenth):
    stops = 0
    for seed in range(tenth, 100, 10):
        try:
            world = play(seed)
            assert len(world.answered) == REQUESTS
            assert not world.replicas, "it never came to rest"
            stops += world.stops
        except AssertionError as error:
            raise AssertionError(f"seed {seed}") from error
    assert stops > 10, "the schedules never met the idle rule"


@pytest.mark.soak
def test_no_request_is_lost_in_ten_thousand_schedules():
    for seed in range(1000, 11_000):
        assert len(play(seed).answered) == REQUESTS, f"seed {seed}"
