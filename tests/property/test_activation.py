"""Random schedules against the cold-start queue; every seed is fixed, so a failure names the seed to repeat."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import pytest

from flexinfer.lifecycle.activation import Activate, Activation, Dispatch, Effects, Limits, Reject
from flexinfer.lifecycle.modelfacts import LoadFailure, ModelFacts
from flexinfer.lifecycle.modelqueue import ModelQueue, Request

SEEDS = 500
STEPS = 60
QUEUE_SIZE = 5
BUDGET_S = 20.0
QUEUE_BUDGET_S = 30.0
PHASES = ("Idle", "Pending", "Loading", "Ready", "Preempted", "Failed")
CODES_WHILE_WAITING = {"model_loading", "model_failed", "timeout"}
CODES_ON_ARRIVAL = {"queue_full", "model_loading", "model_failed"}


class Node(NamedTuple):
    name: str


NODES = tuple(Node(name) for name in "abc")


def first(nodes: Sequence[Node], in_flight: Mapping[str, int]) -> Node:
    return nodes[0]


class Schedule:
    """One model under random events, and what has to hold after each of them."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.machine: Activation[Node] = Activation(
            first, Limits(queue_size=QUEUE_SIZE, queue_timeout_s=QUEUE_BUDGET_S, shun_s=3.0, stall_s=8.0)
        )
        self.slots = 2
        self.phase = "Idle"
        self.progress = 0.0
        self.failed_at: datetime | None = None
        self.machine.model_changed("m", self.facts(), 0.0)
        queue = self.machine.queue("m")
        assert queue is not None
        self.queue: ModelQueue[Node] = queue
        self.order: dict[Request[Node], int] = {}
        self.waiting: set[Request[Node]] = set()
        self.running: set[Request[Node]] = set()
        self.ended: set[Request[Node]] = set()

    def facts(self, failure_age_s: float = 0.0) -> ModelFacts:
        failure = None
        if self.phase == "Failed":
            failure = LoadFailure(reason="EngineExited", message="exit code 1", at=self.failed_at)
        return ModelFacts(
            failure_age_s=failure_age_s,
            phase=self.phase,
            slots=self.slots,
            cold_start_timeout_s=BUDGET_S,
            idle_timeout_s=30.0,
            holding=self.phase == "Ready" and self.progress > 0.9,
            failure=failure,
            progress=self.progress if self.phase == "Loading" else None,
        )

    def step(self) -> None:
        self.now += self.random.choice((0.0, 0.0, 0.1, 1.0, 4.0))
        self.random.choice((
            self.arrive, self.arrive, self.arrive, self.done, self.done, self.gone, self.refuse, self.slices,
            self.slices, self.status, self.resize,
        ))()  # fmt: skip
        if self.machine.wake_at <= self.now:
            self.apply(self.machine.tick(self.now))
        self.check()

    def arrive(self) -> None:
        request: Request[Node] = Request(self.queue)
        self.order[request] = len(self.order)
        was_cold, depth = not self.queue.ready, self.queue.depth
        self.waiting.add(request)
        effects = self.machine.request_arrived(request, self.now)
        for effect in effects:
            if isinstance(effect, Reject):
                assert effect.request is request, "an arrival ends nobody else's wait"
                assert effect.error.code in CODES_ON_ARRIVAL
                assert effect.error.code != "queue_full" or depth >= QUEUE_SIZE
        if was_cold and request.state == "waiting":
            assert self.queue.activated_at is not None, "somebody waits for a cold model that nobody wakes"
        self.apply(effects)

    def done(self) -> None:
        request = self.choose(self.running)
        if request is not None:
            self.running.discard(request)
            self.ended.add(request)
            self.apply(self.machine.request_done(request, self.now))

    def gone(self) -> None:
        request = self.choose(self.waiting)
        if request is not None:
            self.waiting.discard(request)
            self.ended.add(request)
            self.apply(self.machine.request_gone(request, self.now))

    def refuse(self) -> None:
        request = self.choose(self.running)
        if request is None:
            return
        if request.refusals == 0:
            self.running.discard(request)
            self.waiting.add(request)
        endpoint = request.endpoint
        assert endpoint is not None
        effects = self.machine.request_refused(request, self.now)
        assert endpoint.name not in self.queue.available
        self.apply(effects)

    def slices(self) -> None:
        nodes = [node for node in NODES if self.random.random() < 0.5]
        self.apply(self.machine.endpoints_changed("m", nodes, self.now))

    def status(self) -> None:
        self.phase = self.random.choice(PHASES)
        self.progress = self.random.random()
        if self.phase == "Failed" and self.random.random() < 0.7:
            self.failed_at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.now)
        self.apply(self.machine.model_changed("m", self.facts(self.random.choice((0, 40))), self.now))

    def resize(self) -> None:
        self.slots = self.random.choice((1, 2, 3))
        self.apply(self.machine.model_changed("m", self.facts(), self.now))

    def choose(self, among: set[Request[Node]]) -> Request[Node] | None:
        return self.random.choice(sorted(among, key=self.order.__getitem__)) if among else None

    def apply(self, effects: Effects[Node]) -> None:
        for effect in effects:
            if isinstance(effect, Dispatch):
                self.dispatched(effect)
            elif isinstance(effect, Reject):
                request = effect.request
                assert request in self.waiting, "rejected twice, or while it ran"
                self.waiting.discard(request)
                self.ended.add(request)
                if effect.error.code in CODES_WHILE_WAITING and request.arrived_at < self.now:
                    assert effect.error.status == (504 if effect.error.code == "timeout" else 503)
            elif isinstance(effect, Activate):
                assert self.queue.activated_at == self.now

    def dispatched(self, effect: Dispatch[Node]) -> None:
        request = effect.request
        assert request in self.waiting, "dispatched twice, or after its end"
        earlier = [other for other in self.waiting if self.order[other] < self.order[request]]
        assert not earlier, "overtook a request that came before it"
        assert request.endpoint == effect.endpoint
        name = effect.endpoint.name
        assert name in self.queue.available or self.queue.probes[name] is request
        self.waiting.discard(request)
        self.running.add(request)

    def check(self) -> None:
        queue = self.queue
        in_flight: dict[str, int] = {}
        for request in self.running:
            assert request.endpoint is not None
            in_flight[request.endpoint.name] = in_flight.get(request.endpoint.name, 0) + 1
        assert in_flight == queue.in_flight
        assert queue.open == len(self.running)
        assert queue.depth == len(self.waiting)
        assert queue.depth <= QUEUE_SIZE + len(NODES) * 3, "what closed ports gave back is bounded by the slots"
        free = 0 if queue.facts.holding else sum(max(0, self.slots - in_flight.get(n, 0)) for n in queue.available)
        assert queue.free == free
        assert not (queue.free and queue.depth), "somebody waits beside a free slot"
        for request in self.waiting:
            budget_s = QUEUE_BUDGET_S if queue.ready else BUDGET_S
            assert self.machine.wake_at <= request.arrived_at + budget_s
            assert self.now < request.arrived_at + budget_s, "waits beyond its budget"
        if self.waiting and not queue.ready:
            assert queue.activated_at is not None
        assert len(self.waiting) + len(self.running) + len(self.ended) == len(self.order), "a request was lost"

    def finish(self) -> None:
        """With the engine up and everybody answered, the machine comes to rest."""
        self.phase, self.slots, self.progress = "Ready", 3, 0.0
        self.apply(self.machine.model_changed("m", self.facts(), self.now))
        self.apply(self.machine.endpoints_changed("m", (), self.now))  # so that none of those that come is out
        self.apply(self.machine.endpoints_changed("m", NODES, self.now))
        while self.running:
            self.done()
        self.check()
        assert not self.waiting
        assert self.ended == set(self.order)
        for _ in range(3):
            self.now += 60.0
            self.apply(self.machine.tick(self.now))
        assert self.machine.wake_at == float("inf")


@pytest.mark.parametrize("tenth", range(10))
def test_nothing_is_lost_doubled_or_overtaken_on_random_schedules(tenth):
    for seed in range(tenth, SEEDS, 10):
        schedule = Schedule(seed)
        try:
            for _ in range(STEPS):
                schedule.step()
            schedule.finish()
        except AssertionError as error:
            raise AssertionError(f"seed {seed} at {schedule.now} s") from error


@pytest.mark.parametrize("seed", range(50))
def test_one_activation_serves_any_number_of_waiters_of_one_cold_period(seed):
    """From Idle to Ready without a failure, in random steps: one Activate, whatever arrives meanwhile."""
    choice = random.Random(seed)
    machine: Activation[Node] = Activation(first, Limits(queue_size=1000))
    machine.model_changed("m", ModelFacts(slots=4), 0.0)
    queue = machine.queue("m")
    assert queue is not None
    effects: Effects[Node] = []
    now, sent = 0.0, 0
    for phase in ("Idle", "Pending", "Loading", "Ready"):
        effects += machine.model_changed("m", ModelFacts(phase=phase, slots=4), now)
        for _ in range(choice.randrange(1, 50)):
            now += choice.choice((0.0, 0.05, 0.2))
            effects += machine.request_arrived(Request(queue), now)
            sent += 1
    effects += machine.endpoints_changed("m", NODES[:1], now)
    dispatched = [effect for effect in effects if isinstance(effect, Dispatch)]
    for effect in dispatched:
        more = machine.request_done(effect.request, now)
        dispatched += [other for other in more if isinstance(other, Dispatch)]
    assert len([effect for effect in effects if isinstance(effect, Activate)]) == 1
    assert len(dispatched) == sent
    assert [effect.request.order for effect in dispatched] == sorted(effect.request.order for effect in dispatched)
