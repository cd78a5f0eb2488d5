"""The cold-start queue of one Model, driven by hand: events in, effects as short lines out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

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
from flexinfer.lifecycle.modelfacts import ModelFacts
from flexinfer.lifecycle.modelqueue import ModelQueue, Request


class Node(NamedTuple):
    name: str


A, B = Node("a"), Node("b")


def least_loaded(nodes: Sequence[Node], in_flight: Mapping[str, int]) -> Node:
    return min(nodes, key=lambda node: in_flight.get(node.name, 0))


class Proxy:
    """One model `m` and its machine; effects become short lines: `dispatch 1 a`, `reject 2 queue_full`."""

    def __init__(self, limits: Limits | None = None, **facts: Any) -> None:
        self.machine: Activation[Node] = Activation(least_loaded, limits)
        self.facts = ModelFacts(**facts)
        self.machine.model_changed("m", self.facts, 0.0)
        queue = self.machine.queue("m")
        assert queue is not None
        self.queue: ModelQueue[Node] = queue
        self.requests: dict[int, Request[Node]] = {}
        self.errors: dict[int, Any] = {}

    def lines(self, effects: Effects[Node]) -> list[str]:
        return [self._line(effect) for effect in effects]

    def _line(self, effect: object) -> str:
        match effect:
            case Dispatch(request=request, endpoint=endpoint):
                return f"dispatch {self._number(request)} {endpoint.name}"
            case Reject(request=request, error=error):
                self.errors[self._number(request)] = error
                return f"reject {self._number(request)} {error.code}"
            case Activate():
                return "activate"
            case Touch(used_at=used_at):
                return f"touch {used_at:g}"
            case ActivationEnded(result=result, took_s=took_s):
                return f"activation {result} after {took_s:g}"
            case LoadStalled(substage=substage):
                return f"stalled {substage}"
        raise AssertionError(effect)

    def _number(self, wanted: object) -> int:
        return next(number for number, request in self.requests.items() if request is wanted)

    def arrive(self, number: int, now: float) -> list[str]:
        self.requests[number] = Request(self.queue)
        return self.lines(self.machine.request_arrived(self.requests[number], now))

    def done(self, number: int, now: float) -> list[str]:
        return self.lines(self.machine.request_done(self.requests[number], now))

    def gone(self, number: int, now: float) -> list[str]:
        return self.lines(self.machine.request_gone(self.requests[number], now))

    def began(self, number: int, now: float) -> list[str]:
        return self.lines(self.machine.answer_began(self.requests[number], now))

    def refused(self, number: int, now: float) -> list[str]:
        return self.lines(self.machine.request_refused(self.requests[number], now))

    def ready(self, *nodes: Node, now: float) -> list[str]:
        return self.lines(self.machine.endpoints_changed("m", nodes, now))

    def change(self, now: float, **facts: Any) -> list[str]:
        self.facts = ModelFacts(**facts)
        return self.lines(self.machine.model_changed("m", self.facts, now))

    def tick(self, now: float) -> list[str]:
        return self.lines(self.machine.tick(now))
