"""The cold-start queue of one proxy, as a state machine: events in, effects out.

A request takes a free slot at once, or waits in the bounded queue of its model. The first one that
waits for a model without a ready replica wakes it (`Activate`), however many follow. Slots go to
waiting requests strictly in order of arrival; a request whose port was closed (`request_refused`)
keeps its place. A wait ends after `coldStartTimeout` while the model is cold, after the queue
budget while it is Ready with all slots busy, and at once when the load fails or stalls.

Times are seconds of one monotonic clock, given by the caller. `wake_at` says when `tick` is due;
events only ever make it earlier, so the caller needs one timer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Generic, Literal

import msgspec

from flexinfer.errors import RequestError
from flexinfer.lifecycle import modelfacts, outliers
from flexinfer.lifecycle.modelfacts import ModelFacts
from flexinfer.lifecycle.modelqueue import E, ModelQueue, Request
from flexinfer.lifecycle.phases import FAILED_RETRY_S
from flexinfer.lifecycle.slowstart import SlowStart

ActivationResult = Literal["ready", "failed", "unwritten", "idle", "deleted"]


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    queue_size: int = 100
    """Requests that may wait for one model."""
    queue_timeout_s: float = 60.0
    stall_s: float = 60.0
    """A load that reports progress and made none for this long is told to those who wait."""
    shun_s: float = 5.0
    """A replica whose port was closed gets nothing until it is another one, or this long."""
    prove_s: float = 0.5
    """Then it gets one of the requests that wait; the others, once that was not refused for this long, or answered."""
    touch_s: float = 60.0
    """Use is reported at most this often (and three times an idle window)."""
    beat_s: float = 30.0
    """Use is reported this often while a request is open (and three times an idle window)."""
    rewrite_s: float = 3.0
    """A use that could not be written is written again after this long."""


class Dispatch(msgspec.Struct, Generic[E], frozen=True):
    """Forward the request to this replica; its slot is taken."""

    request: Request[E]
    endpoint: E


class Reject(msgspec.Struct, Generic[E], frozen=True):
    request: Request[E]
    error: RequestError


class Activate(msgspec.Struct, Generic[E], frozen=True):
    """Write the model's use at once, newer than what stands there; report `activation_failed` if that fails."""

    model: ModelQueue[E]


class Touch(msgspec.Struct, Generic[E], frozen=True):
    """Write that the model was last used at `used_at`."""

    model: ModelQueue[E]
    used_at: float


class ActivationEnded(msgspec.Struct, Generic[E], frozen=True):
    model: ModelQueue[E]
    result: ActivationResult
    took_s: float


class LoadStalled(msgspec.Struct, Generic[E], frozen=True):
    model: ModelQueue[E]
    substage: str


Effect = Dispatch[E] | Reject[E] | Activate[E] | Touch[E] | ActivationEnded[E] | LoadStalled[E]
Effects = list[Effect[E]]
Pick = Callable[[Sequence[E], Mapping[str, int]], E]


class Activation(Generic[E]):
    """The queues of all models of one proxy. Not thread-safe: one event loop owns it."""

    def __init__(self, pick: Pick[E], limits: Limits | None = None) -> None:
        self._pick = pick
        self.limits = limits or Limits()
        self.wake_at = math.inf
        self.draining = False
        self._models: dict[str, ModelQueue[E]] = {}
        self._busy: set[ModelQueue[E]] = set()
        self._arrivals = 0

    def queue(self, name: str) -> ModelQueue[E] | None:
        return self._models.get(name)

    # -- requests

    def take_slot(self, request: Request[E], now: float) -> bool:
        """The warm path: a free slot, nobody before it, no use to be reported.

        True: `request.endpoint` is where it goes. False: nothing has changed, it has yet to arrive.
        """
        model = request.model
        only = model.only
        if (
            only is None
            or model.free <= 0
            or model.waiting
            or model.returned
            or now - model.touched_at >= model.touch_s
            or not model.busy
            or self.draining
        ):
            return False
        self._arrivals = request.order = self._arrivals + 1
        request.arrived_at = request.started_at = now
        request.state = "running"
        request.endpoint = only
        model.occupy(only)
        return True

    def request_arrived(self, request: Request[E], now: float) -> Effects[E]:
        model = request.model
        request.arrived_at = now
        self._arrivals = request.order = self._arrivals + 1
        if self.draining:
            return [self._reject(request, modelfacts.shutting_down())]
        if model.free > 0 and not model.waiting and not model.returned:
            if now - model.touched_at < model.touch_s:
                return [self._dispatch(request, now)]
            model.touched_at = now
            return [self._dispatch(request, now), Touch(model, now)]
        return self._arrived_without_slot(model, request, now)

    def _arrived_without_slot(self, model: ModelQueue[E], request: Request[E], now: float) -> Effects[E]:
        refusal = self._refusal(model, now)
        if refusal is not None:
            return [self._reject(request, refusal)]
        if model.depth >= self.limits.queue_size:
            return [self._reject(request, modelfacts.queue_full(model.called, model.depth, self._wait_s(model, now)))]
        model.append(request)
        return self._wait(model, now)

    def request_refused(self, request: Request[E], now: float, *, may_retry: bool = True) -> Effects[E]:
        """The replica took no connection and no byte arrived.

        The first time the request waits again at its old place; the second time, or where it may not
        (`refusals` is 2), it is over and its caller ends it.
        """
        if request.state != "running" or request.endpoint is None:
            return []
        model, endpoint = request.model, request.endpoint
        request.refusals += 1 if may_retry else 2
        if model.probes:
            model.probe_over(request, now + self.limits.shun_s)
        model.shun(endpoint, now + self.limits.shun_s)
        if request.refusals == 1:
            model.vacate(endpoint)
            request.endpoint = None
            model.put_back(request)
        if self._models.get(model.name) is model:
            return self._wait(model, now)
        effects: Effects[E] = []
        self._reject_all(model, lambda _: modelfacts.not_found(model.called), effects)
        return effects

    def request_done(self, request: Request[E], now: float) -> Effects[E]:
        """The answer is complete, or the request that held a slot ended in any other way."""
        if request.state != "running" or request.endpoint is None:
            return []
        model = request.model
        if model.probes:
            model.probe_over(request, now + self.limits.shun_s)
        model.vacate(request.endpoint)
        request.state = "ended"
        model.used_at = now
        model.service_s += 0.2 * (now - request.started_at - model.service_s)
        effects: Effects[E] = []
        if model.waiting or model.returned:
            self._pump(model, now, effects)
        return effects

    def answer_began(self, request: Request[E], now: float) -> Effects[E]:
        """The replica has sent a first byte; to be told where its model has `probes`."""
        model, endpoint = request.model, request.endpoint
        if endpoint is None or model.probes.get(endpoint.name) is not request:
            return []
        model.take_back([endpoint.name], now)
        return self._settle(model, now, [])

    def succeeded(self, request: Request[E], now: float) -> None:
        """The answer was a good one; before `request_done`."""
        model = request.model
        if (endpoint := request.endpoint) is not None:
            model.answered_at[endpoint.name] = now
            if model.streaks or model.unanswered:
                model.forgive(endpoint.name)

    def timed_out(self, request: Request[E], now: float) -> bool:
        """The replica let the request's time pass; before `failed`. True: it hangs, and gets nothing for a while."""
        model, endpoint = request.model, request.endpoint
        if endpoint is None or not model.timed_out(endpoint, request.started_at):
            return False
        model.shun(endpoint, now + self.limits.shun_s)
        self._schedule(model)
        return True

    def failed(self, request: Request[E], now: float) -> bool:
        """The answer was none, or a bad one; before `request_done`. True: the replica is out of rotation from here."""
        model, endpoint = request.model, request.endpoint
        if endpoint is None or endpoint.name not in model.available:
            return False  # out already: what was open there when it left says nothing new
        failures = model.streaks[endpoint.name] = model.streaks.get(endpoint.name, 0) + 1
        out_s = outliers.back_off_s(failures)
        if not out_s or not outliers.may_leave(len(model.endpoints), len(model.available)):
            return False
        model.shun(endpoint, now + out_s)
        self._schedule(model)
        return True

    def request_gone(self, request: Request[E], now: float) -> Effects[E]:
        """The client of a waiting request left."""
        if request.state != "waiting":
            return []
        model = request.model
        model.used_at = now
        model.remove(request)
        return []

    # -- what the store says

    def model_changed(self, name: str, facts: ModelFacts, now: float) -> Effects[E]:
        model = self._models.get(name)
        if model is None:
            model = self._models[name] = ModelQueue(name, facts)
            model.progress_seen_at = now
            model.loading_since = now if facts.loading else None
        old, model.facts = model.facts, facts
        model.touch_s = min(self.limits.touch_s, facts.idle_timeout_s / 3)
        model.beat_s = min(self.limits.beat_s, facts.idle_timeout_s / 3)
        effects: Effects[E] = []
        self._note_progress(model, old, now)
        model.note_failure(now - facts.failure_age_s)
        # What another proxy has reported need not be said again so soon.
        model.touched_at = max(model.touched_at, now - facts.reported_age_s)
        if facts.slots != old.slots or facts.holding != old.holding:
            model.count_free()
        if facts.phase == "Idle" and old.phase != "Idle":
            self._end_activation(model, "idle", now, effects)
        return self._settle(model, now, effects)

    def model_deleted(self, name: str, now: float) -> Effects[E]:
        model = self._models.pop(name, None)
        if model is None:
            return []
        effects: Effects[E] = []
        self._end_activation(model, "deleted", now, effects)
        self._reject_all(model, lambda _: modelfacts.not_found(model.called), effects)
        model.offer(())
        self._busy.discard(model)
        return effects

    def endpoints_changed(self, name: str, endpoints: Iterable[E], now: float) -> Effects[E]:
        """The ready replicas are these."""
        model = self._models.get(name)
        if model is None:
            return []
        self._offer(model, tuple(endpoints), now)
        return self._settle(model, now, [])

    def activation_failed(self, model: ModelQueue[E], why: str, now: float) -> Effects[E]:
        """The use of the model could not be written, so nobody wakes it."""
        effects: Effects[E] = []
        if model.activated_at is None:
            return effects
        self._end_activation(model, "unwritten", now, effects)
        self._reject_all(model, lambda _: modelfacts.activation_failed(model.called, why), effects)
        return effects

    def use_unwritten(self, model: ModelQueue[E], now: float) -> None:
        """A use that nobody waits for could not be written."""
        model.touched_at = min(model.touched_at, now + self.limits.rewrite_s - model.beat_s)
        self._schedule(model)

    def drain(self) -> None:
        """New requests are refused from here on; those that wait keep their place."""
        self.draining = True

    def tick(self, now: float) -> Effects[E]:
        """What time alone brings: budgets that are over, a stalled load, use to be reported."""
        effects: Effects[E] = []
        self.wake_at = math.inf
        for model in list(self._busy):
            if model.out:
                self._try_again(model, now, effects)
            self._expire(model, now, effects)
            self._report_use(model, now, effects)
            self._schedule(model)
        return effects

    # -- inside

    def _wait(self, model: ModelQueue[E], now: float) -> Effects[E]:
        """Follows a request that was queued."""
        effects: Effects[E] = []
        self._settle(model, now, effects)
        if model.depth and now - model.touched_at >= model.touch_s:
            model.touched_at = now
            effects.append(Touch(model, now))
        return effects

    def _settle(self, model: ModelQueue[E], now: float, effects: Effects[E]) -> Effects[E]:
        """Follows every change of a model: release, refuse or wake again."""
        if model.ready:
            self._end_activation(model, "ready", now, effects)
            self._pump(model, now, effects)
        elif model.failure is not None:
            failure = model.failure
            self._end_activation(model, "failed", now, effects)
            self._reject_all(model, lambda _: modelfacts.model_failed(model.called, failure), effects)
        elif model.depth and model.activated_at is None:
            self._activate(model, now, effects)
        if model.depth or model.busy:
            self._schedule(model)
        return effects

    @staticmethod
    def _offer(model: ModelQueue[E], endpoints: tuple[E, ...], now: float) -> None:
        before = set(model.available)
        model.offer(endpoints)
        newcomers = model.available.keys() - before
        if before and newcomers:
            model.slow_start = SlowStart(newcomers, now)

    def _try_again(self, model: ModelQueue[E], now: float, effects: Effects[E]) -> None:
        """Replicas whose time is over: one of those that wait goes first, since all of them may find it closed."""
        back: list[str] = []
        for endpoint in model.due_back(now):
            taken = endpoint.name in model.probes
            full = model.in_flight.get(endpoint.name, 0) >= model.facts.slots
            request = None if taken or full or model.facts.holding else model.take()
            if request is None:
                back.append(endpoint.name)
                continue
            model.probe(endpoint, request, now + self.limits.prove_s)
            request.begin(endpoint, now)
            effects.append(Dispatch(request, endpoint))
        if back:
            model.take_back(back, now)
            self._settle(model, now, effects)

    @staticmethod
    def _spare_newcomers(model: ModelQueue[E], start: SlowStart, free: list[E], now: float) -> list[E]:
        if now >= start.until:
            model.slow_start = None
            return free
        return [e for e in free if not start.has_enough(e.name, len(model.available))] or free

    def _dispatch(self, request: Request[E], now: float) -> Dispatch[E]:
        model = request.model
        if len(model.available) == 1:
            (endpoint,) = model.available.values()
        else:
            in_flight, slots = model.in_flight, model.facts.slots
            free = [e for name, e in model.available.items() if in_flight.get(name, 0) < slots]
            if model.slow_start is not None:
                free = self._spare_newcomers(model, model.slow_start, free, now)
            endpoint = self._pick(free, in_flight)
            if model.slow_start is not None:
                model.slow_start.give(endpoint.name)
        model.occupy(endpoint)
        request.begin(endpoint, now)
        if not model.busy:
            self._schedule(model)
        return Dispatch(request, endpoint)

    def _pump(self, model: ModelQueue[E], now: float, effects: Effects[E]) -> None:
        while model.free > 0:
            request = model.take()
            if request is None:
                return
            effects.append(self._dispatch(request, now))

    def _reject(self, request: Request[E], error: RequestError) -> Reject[E]:
        request.state = "ended"
        return Reject(request, error)

    def _reject_all(
        self, model: ModelQueue[E], error: Callable[[Request[E]], RequestError], effects: Effects[E]
    ) -> None:
        while (request := model.take()) is not None:
            effects.append(self._reject(request, error(request)))

    def _refusal(self, model: ModelQueue[E], now: float) -> RequestError | None:
        """Why a request that finds no slot need not wait. Forgives a failure that is old enough."""
        if self._models.get(model.name) is not model:
            return modelfacts.not_found(model.called)
        if model.ready:
            return None
        if model.failure is not None:
            if now - model.failed_at < FAILED_RETRY_S:
                return modelfacts.model_failed(model.called, model.failure)
            model.forgiven, model.failure = model.failure, None
        if self._stall_due(model) <= now:
            return modelfacts.load_stalled(model.called, model.facts, now - model.progress_seen_at)
        return None

    def _activate(self, model: ModelQueue[E], now: float, effects: Effects[E]) -> None:
        model.activated_at = now
        model.touched_at = now
        effects.append(Activate(model))

    def _end_activation(self, model: ModelQueue[E], result: ActivationResult, now: float, effects: Effects[E]) -> None:
        if model.activated_at is not None:
            effects.append(ActivationEnded(model, result, now - model.activated_at))
            model.activated_at = None

    def _note_progress(self, model: ModelQueue[E], old: ModelFacts, now: float) -> None:
        facts = model.facts
        if not facts.loading:
            model.loading_since = None
        elif model.loading_since is None:
            model.loading_since = now
        moved = (facts.phase, facts.substage, facts.progress, facts.progress_at)
        if moved != (old.phase, old.substage, old.progress, old.progress_at):
            model.progress_seen_at = now
            model.stalled = False

    def _expire(self, model: ModelQueue[E], now: float, effects: Effects[E]) -> None:
        """All of a model have the same budget, so those who came first are over first."""
        if not model.depth:
            return
        if self._stall_due(model) <= now:
            if not model.stalled:
                effects.append(LoadStalled(model, model.facts.substage))
            model.stalled = True
            still_s = now - model.progress_seen_at
            self._reject_all(model, lambda _: modelfacts.load_stalled(model.called, model.facts, still_s), effects)
            return
        budget_s = self._budget_s(model)
        left_s = self._load_left_s(model, now)
        while (head := model.head()) is not None and head.arrived_at + budget_s <= now:
            request = model.take()
            assert request is head
            waited_s = now - head.arrived_at
            error = (
                modelfacts.no_slot(model.called, waited_s)
                if model.ready
                else modelfacts.model_loading(model.called, model.facts, waited_s, left_s)
            )
            effects.append(self._reject(head, error))

    def _budget_s(self, model: ModelQueue[E]) -> float:
        cold_s = model.facts.cold_start_timeout_s
        return max(self.limits.queue_timeout_s, cold_s) if model.ready else cold_s

    def _stall_due(self, model: ModelQueue[E]) -> float:
        facts = model.facts
        if model.ready or not facts.loading or facts.progress is None or facts.progress >= 1.0:
            return math.inf
        return model.progress_seen_at + self.limits.stall_s

    def _load_left_s(self, model: ModelQueue[E], now: float) -> float | None:
        since = model.loading_since if model.loading_since is not None else model.activated_at
        return modelfacts.estimate_s(model.facts, now - since if since is not None else None)

    def _wait_s(self, model: ModelQueue[E], now: float) -> float | None:
        """How long the queue will take to move on."""
        if not model.ready:
            return self._load_left_s(model, now)
        return model.service_s * model.depth / max(1, model.facts.slots * len(model.available))

    def _report_use(self, model: ModelQueue[E], now: float, effects: Effects[E]) -> None:
        if model.use_due() <= now:
            used_at = now if model.open or model.depth else model.used_at
            model.touched_at = now
            effects.append(Touch(model, used_at))

    def _schedule(self, model: ModelQueue[E]) -> None:
        due = min((model.use_due(), *model.out.values()))
        head = model.head()
        if head is not None:
            due = min(due, head.arrived_at + self._budget_s(model), self._stall_due(model))
        if due < math.inf or model.open:
            model.busy = True
            self._busy.add(model)
            self.wake_at = min(self.wake_at, due)
        else:
            model.busy = False
            self._busy.discard(model)
