"""Activator: admits requests, wakes models and hands out slots.

The decisions are those of `lifecycle.activation`; here its effects are carried out. The use of a
model is written to `status.lastActiveTime`, a field that nobody else writes; readiness is learned
from the informers. One timer serves all budgets and reports.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Protocol

from flexinfer import backends, logs
from flexinfer.api.meta import ObjectKey
from flexinfer.api.v1alpha2.model import Model
from flexinfer.backends.base import Serving
from flexinfer.clock import Clock
from flexinfer.errors import FlexInferError, NotFound, RequestError
from flexinfer.kube.scoped import Watched
from flexinfer.kube.store import ObjectStore
from flexinfer.lifecycle import modelfacts
from flexinfer.lifecycle.activation import (
    Activate,
    Activation,
    ActivationEnded,
    Dispatch,
    Effects,
    Limits,
    LoadStalled,
    Reject,
    Touch,
)
from flexinfer.lifecycle.modelqueue import Request
from flexinfer.lifecycle.observed import Usage
from flexinfer.metrics.proxy import Gauges, ModelSeries, ProxyMetrics, count
from flexinfer.proxy import uses
from flexinfer.proxy.admission import ListedModel, Outcome, Target, Waiter
from flexinfer.proxy.endpoints import Dial, EndpointSlice, EndpointView, dial_of
from flexinfer.proxy.targets import ModelTarget, Targets
from flexinfer.proxy.uses import Use
from flexinfer.routing import DEFAULT as STRATEGY
from flexinfer.routing.base import Endpoint

log = logs.get("activator")

_ONLY_ONE, _CHOSEN = (STRATEGY.name, "none", "only"), (STRATEGY.name, "none", "chosen")


class Timer(Protocol):
    def cancel(self) -> None: ...


CallLater = Callable[[float, Callable[[], None]], Timer]


class QueueTicket(Request[Endpoint]):
    """One request's admission; see `proxy.admission.Ticket`."""

    __slots__ = ("_activator", "first_byte_at", "released", "target", "waiter")

    def __init__(self, activator: Activator, target: ModelTarget, waiter: Waiter) -> None:
        super().__init__(target.queue)
        self._activator = activator
        self.target = target
        self.waiter = waiter
        self.first_byte_at = 0.0
        self.released = False

    def first_byte(self) -> None:
        if not self.first_byte_at:
            self.first_byte_at = self._activator.now()
            if self.model.probes:
                self._activator.answer_began(self)

    def refused(self, reason: str, may_retry: Callable[[], bool]) -> bool:
        return self._activator.refused(self, reason, may_retry)

    def retried(self, reason: str) -> None:
        self._activator.retried(self, reason)

    def timed_out(self) -> None:
        self._activator.timed_out(self)

    def release(
        self, outcome: Outcome, *, prompt_tokens: int = 0, output_tokens: int = 0, streamed: bool | None = None
    ) -> None:
        if not self.released:
            self.released = True
            self._activator.released(self, outcome, prompt_tokens, output_tokens, streamed)


class Activator:
    """Implements `proxy.admission.Admission` for the Models that the informers see, while `run` runs."""

    def __init__(
        self,
        store: ObjectStore,
        models: Watched[Model],
        slices: Watched[EndpointSlice],
        metrics: ProxyMetrics,
        clock: Clock,
        *,
        limits: Limits | None = None,
        namespace: str | None = "default",
        serving_of: Callable[[Model], Serving] = backends.serving,
        may_dial: Callable[[Endpoint], bool] = lambda _: True,
        call_later: CallLater | None = None,
        on_timeout: Callable[[str], None] = lambda _name: None,
    ) -> None:
        """`namespace`: the Models of this one alone, by their plain names; None: all, see `proxy.targets`.

        `on_timeout` hears the name of a Model whose replica let one more request time out: its `usage` tells.
        """
        self._store = store
        self._models = models
        self._slices = slices
        self._metrics = metrics
        self._clock = clock
        self._namespace = namespace
        self._serving_of = serving_of
        self.now = clock.monotonic
        self._machine: Activation[Endpoint] = Activation(STRATEGY.pick, limits)
        self._view = EndpointView(self._slices_changed, namespace, may_dial)
        self.targets = Targets(qualified=namespace is None)
        self._called = self.targets.called
        self._leaving: list[ModelTarget] = []
        """Deleted while requests were open."""
        self._writers: asyncio.TaskGroup | None = None
        self._call_later = call_later
        self._on_timeout = on_timeout
        self._timer: Timer | None = None
        self._timer_due = math.inf
        self.started = asyncio.Event()

    async def run(self) -> None:
        """Serve until cancelled. The informers are run, and have synced, elsewhere."""
        try:
            async with asyncio.TaskGroup() as self._writers:
                self._slices.add_handler(self._view.handle)
                self._models.add_handler(self._model_changed)
                self.started.set()
                await asyncio.get_running_loop().create_future()
        finally:
            self._writers = None
            if self._timer is not None:
                self._timer.cancel()

    # -- admission

    def resolve(self, name: str) -> ModelTarget:
        target = self._called.get(name)
        if target is not None:
            return target
        if not self.started.is_set():
            raise RequestError(503, "overloaded", "This proxy is still starting; ask again.", retry_after_s=1.0)
        raise RequestError(404, "model_not_found", self.targets.not_found(name), param="model")

    def admit(self, target: Target, waiter: Waiter) -> QueueTicket:
        assert isinstance(target, ModelTarget), "targets come from resolve"
        ticket = QueueTicket(self, target, waiter)
        now = self.now()
        if self._machine.take_slot(ticket, now) and ticket.endpoint is not None:
            series = target.series or self.series(target)
            series.routed[_ONLY_ONE] += 1
            series.hits[STRATEGY.name, ticket.endpoint.name] += 1
            return ticket
        effects = self._machine.request_arrived(ticket, now)
        if ticket.endpoint is not None:
            self._count_route(target, ticket.endpoint)
            if len(effects) > 1:
                self._run(effects[1:], now)
            elif self._machine.wake_at < self._timer_due:
                self._arm(now)
            return ticket
        error = self._run(effects, now, admitting=ticket)
        series = self.series(target)
        if error is not None:
            ticket.released = True
            series.requests["error"] += 1
            if error.code == "queue_full":
                series.queue_rejected += 1
            raise error
        series.queued += 1
        return ticket

    def models(self) -> Sequence[ListedModel]:
        return [self.targets.listed(name) for name in self.targets.ids()]

    def listed(self, name: str) -> ListedModel:
        self.resolve(name)
        return self.targets.listed(name)

    def draining(self) -> bool:
        return self._machine.draining

    def drain(self) -> None:
        """Refuse new requests from here on; those that wait or run go on."""
        self._machine.drain()

    def open_requests(self) -> int:
        """Requests that wait or run."""
        return sum(target.queue.open + target.queue.depth for target in self.targets.by_model.values())

    def running(self, name: str) -> int:
        """Requests that a replica of this model is answering, or of one of this name that was deleted."""
        self._leaving = [target for target in self._leaving if target.queue.open]
        target = self.targets.by_model.get(name)
        found = [target, *self._leaving] if target is not None else self._leaving
        return sum(target.queue.open for target in found if target.name == name)

    def usage(self, name: str) -> Usage:
        target = self.targets.by_model.get(name)
        if target is None:
            return Usage(open=self.running(name))
        queue = target.queue
        idle_s = self.now() - queue.used_at
        return Usage(open=self.running(name), waiting=queue.depth, idle_s=idle_s, silences=queue.silences())

    def usages(self) -> dict[str, Usage]:
        """Of every model, those too that were deleted while requests were open."""
        self._leaving = [target for target in self._leaving if target.queue.open]
        return {name: self.usage(name) for name in {*self.targets.by_model, *(target.name for target in self._leaving)}}

    # -- what tickets report

    def refused(self, ticket: QueueTicket, reason: str, may_retry: Callable[[], bool]) -> bool:
        if ticket.released or ticket.endpoint is None:
            return False
        now = self.now()
        refused_by = ticket.endpoint.name
        log.info("connection not taken", model=ticket.target.name, endpoint=refused_by, reason=reason)
        # Where no other replica is there it waits for one: that is no second attempt yet.
        waits = all(name == refused_by for name in ticket.target.queue.available)
        effects = self._machine.request_refused(ticket, now, may_retry=waits or may_retry())
        again = ticket.refusals == 1
        if again:
            self.retried(ticket, reason)
        self._run(effects, now)
        return again

    def answer_began(self, ticket: QueueTicket) -> None:
        now = self.now()
        self._run(self._machine.answer_began(ticket, now), now)

    def retried(self, ticket: QueueTicket, reason: str) -> None:
        count(self.series(ticket.target).retries, reason)

    def timed_out(self, ticket: QueueTicket) -> None:
        now = self.now()
        if self._machine.timed_out(ticket, now):
            self._out_of_rotation(ticket, now)
        self._on_timeout(ticket.target.name)

    def released(
        self, ticket: QueueTicket, outcome: Outcome, prompt_tokens: int, tokens: int, streamed: bool | None
    ) -> None:
        now = self.now()
        series = self.series(ticket.target)
        series.requests[outcome] += 1
        if outcome != "cancelled":
            latency_s = now - ticket.arrived_at
            series.duration.observe(latency_s)
            if ticket.first_byte_at and ticket.endpoint is not None:
                series.answered(now, ticket.endpoint.node, latency_s, tokens, now - ticket.first_byte_at)
        if outcome == "success":
            if prompt_tokens:
                series.prompt_tokens.observe(prompt_tokens)
            if tokens:
                series.tokens.observe(tokens)
            if streamed is not None:
                count(series.completions, "true" if streamed else "false")
        if outcome == "success":
            self._machine.succeeded(ticket, now)
        elif outcome == "error" and self._machine.failed(ticket, now):
            self._out_of_rotation(ticket, now)
        if ticket.state == "running":
            effects = self._machine.request_done(ticket, now)
        else:
            effects = self._machine.request_gone(ticket, now)
        if effects:
            self._run(effects, now)

    def _out_of_rotation(self, ticket: QueueTicket, now: float) -> None:
        assert ticket.endpoint is not None
        log.warning("replica out of rotation", model=ticket.target.name, endpoint=ticket.endpoint.name)
        self._run([], now)

    # -- effects

    def _run(self, effects: Effects[Endpoint], now: float, admitting: QueueTicket | None = None) -> RequestError | None:
        """Carry effects out; the refusal of the request that is being admitted is returned instead.

        Waiters are called from the loop, never from inside a call of theirs.
        """
        refusal: RequestError | None = None
        for effect in effects:
            if isinstance(effect, Dispatch):
                self._dispatched(effect, now, admitting)
            elif isinstance(effect, Reject):
                ticket = effect.request
                assert isinstance(ticket, QueueTicket)
                self._count_rejection(ticket.target, effect.error)
                if ticket is admitting:
                    refusal = effect.error
                else:
                    asyncio.get_running_loop().call_soon(_reject, ticket, effect.error)
            elif isinstance(effect, Activate | Touch):
                self._use(effect, now)
            elif isinstance(effect, ActivationEnded):
                self._activation_ended(effect)
            else:
                self._load_stalled(effect)
        if self._machine.wake_at < self._timer_due:
            self._arm(now)
        return refusal

    def _dispatched(self, effect: Dispatch[Endpoint], now: float, admitting: QueueTicket | None) -> None:
        ticket = effect.request
        assert isinstance(ticket, QueueTicket)
        self._count_route(ticket.target, effect.endpoint)
        if ticket is admitting:
            return
        self.series(ticket.target).queue_wait.observe(now - ticket.arrived_at)
        asyncio.get_running_loop().call_soon(_dispatch, ticket, effect.endpoint)

    def _count_rejection(self, target: ModelTarget, error: RequestError) -> None:
        if error.code == "model_loading" and not target.overran:
            target.overran = True
            count(self.series(target).activation_failures, "timeout")

    def _activation_ended(self, effect: ActivationEnded[Endpoint]) -> None:
        target = self.targets.by_model.get(effect.model.name)
        if target is None:
            return
        series = self.series(target)
        series.activation(effect.result, effect.took_s)
        target.overran = False
        if effect.result in ("failed", "unwritten"):
            count(series.activation_failures, effect.result)
        log.info("activation ended", model=target.name, result=effect.result, took_s=round(effect.took_s, 3))

    def _load_stalled(self, effect: LoadStalled[Endpoint]) -> None:
        target = self.targets.by_model.get(effect.model.name)
        if target is not None:
            count(self.series(target).stalled, effect.substage or "unknown")

    def _count_route(self, target: ModelTarget, endpoint: Endpoint) -> None:
        series = self.series(target)
        series.routed[_ONLY_ONE if target.queue.only is not None else _CHOSEN] += 1
        series.hits[STRATEGY.name, endpoint.name] += 1

    def _use(self, effect: Activate[Endpoint] | Touch[Endpoint], now: float) -> None:
        target = self.targets.by_model.get(effect.model.name)
        if target is None or target.queue is not effect.model:
            return
        if isinstance(effect, Activate):
            self.series(target).scale_ups += 1
            log.info("waking model", model=target.name, phase=effect.model.facts.phase)
            target.use = Use(self._clock.now(), wakes=True)
        elif target.use is None:
            target.use = Use(self._clock.now() - timedelta(seconds=now - effect.used_at), wakes=False)
        if not target.writing and self._writers is not None:
            target.writing = True
            self._writers.create_task(self._write_uses(target))

    # -- writing lastActiveTime

    async def _write_uses(self, target: ModelTarget) -> None:
        """One writer per model; what comes while it writes is written after."""
        try:
            while (use := target.use) is not None:
                target.use = None
                why = await self._written(target, use)
                if why is None:
                    continue
                log.warning("use not written", model=target.name, wakes=use.wakes, error=why)
                now, machine = self.now(), self._machine
                if use.wakes:
                    self._run(machine.activation_failed(target.queue, why, now), now)
                else:
                    machine.use_unwritten(target.queue, now)
                    self._run([], now)
        finally:
            target.writing = False

    async def _written(self, target: ModelTarget, use: Use) -> str | None:
        """None when nothing is left to do; otherwise why it could not be written."""

        def conflicted() -> None:
            if use.wakes:
                self.series(target).activation_retries += 1

        try:
            return await uses.write(self._store, target.model, use, conflicted)
        except NotFound:
            self._forget(target)
            return None

    # -- what the store says

    def _model_changed(self, key: ObjectKey, _old: Model | None, model: Model | None) -> None:
        if self._namespace is not None and key.namespace != self._namespace:
            return
        name = self.targets.name_of(key)
        target = self.targets.by_model.get(name)
        if model is None or model.metadata.deletion_timestamp is not None:
            if target is not None:
                self._forget(target)
            return
        now = self.now()
        serving, dial = self._serving(model)
        effects = self._machine.model_changed(name, modelfacts.of(model, serving.slots, self._clock.now()), now)
        known = target is not None
        if target is None:
            queue = self._machine.queue(name)
            assert queue is not None
            target = ModelTarget(model, queue)
        dial_changed = target.dial != dial
        target.dial = dial
        self.targets.put(target, model, serving)
        self._run(effects, now)
        if dial_changed or not known:
            self._slices_changed(target.service)

    def _serving(self, model: Model) -> tuple[Serving, Dial]:
        try:
            serving = self._serving_of(model)
            return serving, dial_of(model, serving)
        except FlexInferError as error:
            # The manager reports it in the status; here it only means that nothing can be served.
            log.warning("cannot serve", model=model.metadata.name, error=str(error))
            return Serving(slots=1), Dial()

    def _forget(self, target: ModelTarget) -> None:
        if self.targets.by_model.get(target.name) is not target:
            return
        now = self.now()
        self._run(self._machine.model_deleted(target.name, now), now)
        self.targets.drop(target)
        if target.queue.open:
            self._leaving.append(target)
        self._metrics.forget(target.name)

    def _slices_changed(self, service: ObjectKey) -> None:
        target = self.targets.by_service.get(service)
        if target is None:
            return
        began = self.now()
        endpoints = self._view.ready(service, target.dial)
        before = {endpoint.name for endpoint in target.queue.endpoints}
        after = {endpoint.name for endpoint in endpoints}
        if before != after:
            series = self.series(target)
            changes = series.endpoint_changes
            changes["added"] = changes.get("added", 0) + len(after - before)
            changes["removed"] = changes.get("removed", 0) + len(before - after)
            series.forget_targets(before - after)
        now = self.now()
        self._run(self._machine.endpoints_changed(target.name, endpoints, now), now)
        if before != after:
            self._metrics.endpoint_refresh.observe(self.now() - began)

    # -- inside

    def series(self, target: ModelTarget) -> ModelSeries:
        series = target.series
        if series is None:
            queue = target.queue
            backend = target.model.status.backend or target.model.spec.backend
            series = target.series = self._metrics.model(
                target.name, backend, lambda: Gauges(queue.open, queue.depth, len(queue.available))
            )
        return series

    def tick(self) -> None:
        """What is due now; the timer calls it."""
        self._timer, self._timer_due = None, math.inf
        now = self.now()
        self._run(self._machine.tick(now), now)

    def _arm(self, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_due = self._machine.wake_at
        call_later = self._call_later or asyncio.get_running_loop().call_later
        self._timer = call_later(max(0.0, self._timer_due - now), self.tick)


def _dispatch(ticket: QueueTicket, endpoint: Endpoint) -> None:
    if not ticket.released and ticket.endpoint is endpoint:
        ticket.waiter.dispatch(endpoint)


def _reject(ticket: QueueTicket, error: RequestError) -> None:
    if not ticket.released:
        ticket.waiter.reject(error)
