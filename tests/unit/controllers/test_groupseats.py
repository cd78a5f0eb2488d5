"""Of a shared GPU group one has the place, whoever asks first, and the others hear of it when it is free."""

from __future__ import annotations

from typing import Any

from tests.manual_clock import ManualClock
from tests.support.models import model

from flexinfer.api.meta import ObjectKey
from flexinfer.controllers.clusterview import ClusterView
from flexinfer.controllers.groupseats import GroupSeats
from flexinfer.kube.memory import MemoryStore


class View(ClusterView):
    """What is in the caches, without a store to fill them."""

    def __init__(self, *members: str, running: tuple[str, ...] = (), group: str = "desk") -> None:
        super().__init__(MemoryStore(ManualClock()))
        self.found = {name: model(name, gpu={"shared": group}) for name in members}
        self.models = self  # type: ignore[assignment]
        self.running = running

    def items(self) -> list[tuple[ObjectKey, Any]]:
        return [(one.key, one) for one in self.found.values()]

    def pods_of(self, key: ObjectKey) -> Any:
        return iter([key] if key.name in self.running else [])


def test_the_first_gets_the_place_and_keeps_it():
    view = View("a", "b")
    seats = GroupSeats(view)
    a, b = view.found["a"], view.found["b"]
    assert (seats.take(a), seats.take(b), seats.take(a)) == (True, False, True)
    assert seats.waiting(b) == "the shared group desk runs one model, and a has its place"
    assert seats.waiting(a) == ""


def test_when_it_leaves_the_others_hear_of_it():
    view = View("a", "b", "c")
    seats = GroupSeats(view)
    assert seats.take(view.found["a"])
    assert [key.name for key in seats.leave(view.found["a"])] == ["b", "c"]
    assert seats.leave(view.found["b"]) == []
    assert seats.take(view.found["b"])


def test_after_a_restart_who_has_pods_has_the_place():
    view = View("a", "b", running=("b",))
    seats = GroupSeats(view)
    assert (seats.take(view.found["a"]), seats.take(view.found["b"])) == (False, True)


def test_models_of_no_group_and_of_another_are_not_asked():
    view = View("a", running=("a",))
    seats = GroupSeats(view)
    assert seats.take(model("alone", gpu={"vendor": "nvidia"}))
    assert seats.take(model("other", gpu={"shared": "rack"}))
