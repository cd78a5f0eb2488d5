from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import msgspec
from tests.manual_clock import ManualClock
from tests.support.models import model

from flexinfer.api.meta import ObjectKey
from flexinfer.api.v1alpha2.model import Model
from flexinfer.backends.base import Device
from flexinfer.lifecycle.observed import Blocked, Replica, Usage
from flexinfer.local.seats import Pick, Seats, Taken
from flexinfer.placement import devices
from flexinfer.placement.devices import Choice
from flexinfer.placement.nodefacts import NodeFacts, Reading
from flexinfer.placement.room import Held

GPU = Device(vendor="nvidia", index=0, product="A5000", vram_mib=24000)


class Machine:
    """10000 MiB of memory, of which 9500 can be used; or one GPU."""

    def __init__(self, facts: NodeFacts | None = None) -> None:
        self.clock = ManualClock()
        self.facts = facts or NodeFacts(memory_mib=10000)
        self.usage: dict[str, Usage] = {}
        self.told: list[str] = []
        self.replicas: dict[str, Replica] = {}
        self.seats = Seats(
            self.clock,
            lambda: self.facts,
            lambda name: self.usage.get(name, Usage()),
            lambda key: self.told.append(key.name),
        )

    def pick(self, subject: Model) -> Pick:
        need_mib = subject.spec.gpu.vram_estimate_mb or 0 if subject.spec.gpu else 0

        def pick(facts: NodeFacts, held: Sequence[Held]) -> Choice:
            return devices.choose(subject, facts, held, need_mib=need_mib, gpu_engine=False)

        return pick

    def model(self, name: str, mib: int, gpu: dict[str, Any] | None = None, **spec: Any) -> Model:
        subject = model(name, gpu={"vendor": "auto", "vramEstimateMB": mib, **(gpu or {})}, **spec)
        self.seats.saw(subject)
        return subject

    def start(self, subject: Model) -> bool:
        """As a place does it; True when it runs."""
        choice = self.seats.choose(subject, self.pick(subject))
        name = subject.metadata.name
        if choice.reason:
            self.seats.claim(subject, self.pick(subject))
            return False
        now = self.clock.now()
        self.replicas[name] = Replica(name=f"{name}-0", state="ready", started_at=now, ready_at=now)
        taken = Taken(held=choice.holds(name), replica=self.replica(name))
        self.seats.take(subject.key, 0, taken)
        self.seats.claim_over(subject.key)
        return True

    def replica(self, name: str) -> Callable[[], Replica]:
        return lambda: self.replicas[name]

    def state(self, name: str, state: Any) -> None:
        self.replicas[name] = msgspec.structs.replace(self.replicas[name], state=state)

    def yields(self, *names: str) -> list[str]:
        return [self.seats.yields_to(ObjectKey("default", name)) for name in names]

    def blocked(self, subject: Model) -> Blocked | None:
        pick = self.pick(subject)
        return self.seats.blocked(subject, self.seats.choose(subject, pick), pick)


def running(**sizes: int) -> tuple[Machine, dict[str, Model]]:
    machine = Machine()
    models = {name: machine.model(name, mib) for name, mib in sizes.items()}
    for subject in models.values():
        assert machine.start(subject)
        machine.clock.advance(1.0)
    return machine, models


def test_a_claim_makes_the_others_yield_and_is_told_when_they_are_gone():
    machine, models = running(alpha=6000)
    beta = machine.model("beta", 5000)
    assert not machine.start(beta)
    assert (machine.told, machine.yields("alpha", "beta")) == (["alpha"], ["beta", ""])
    machine.seats.keep(models["alpha"].key, ())
    assert machine.told == ["alpha", "beta"]
    assert machine.start(beta)
    assert machine.yields("alpha", "beta") == ["beta", ""]


def test_what_somebody_waits_for_is_promised_to_him():
    machine, models = running(alpha=6000)
    beta, gamma = machine.model("beta", 5000), machine.model("gamma", 5000)
    assert not machine.start(beta)
    machine.state("alpha", "stopping")
    machine.seats.keep(models["alpha"].key, ())
    assert not machine.start(gamma), "the room is beta's"
    assert machine.start(beta)
    machine.usage["beta"] = Usage(open=1)
    assert not machine.start(gamma)


def test_a_promise_ends_with_the_wish():
    machine, models = running(alpha=6000)
    beta, gamma = machine.model("beta", 5000), machine.model("gamma", 5000)
    machine.start(beta)
    machine.seats.keep(models["alpha"].key, ())
    machine.seats.claim_over(beta.key)
    assert machine.start(gamma)


def test_a_request_in_time_ends_the_yielding():
    machine, models = running(alpha=6000)
    machine.start(machine.model("beta", 5000))
    machine.usage["alpha"] = Usage(waiting=1)
    assert machine.yields("alpha") == [""]
    machine.told.clear()
    machine.seats.stays(models["alpha"].key)
    assert machine.told == ["beta"], "it has to look for somebody else"
    machine.usage["alpha"] = Usage()
    assert machine.yields("alpha") == [""]


def test_a_use_after_it_made_room_counts_and_one_before_does_not():
    machine, models = running(alpha=6000)
    used_at = machine.clock.now() - timedelta(seconds=30)
    machine.start(machine.model("beta", 5000))
    for at, expected in ((used_at, "beta"), (machine.clock.now() + timedelta(seconds=1), "")):
        alpha = models["alpha"]
        status = msgspec.structs.replace(alpha.status, last_active_time=at)
        machine.seats.saw(msgspec.structs.replace(alpha, status=status))
        assert machine.yields("alpha") == [expected]


def test_the_wish_that_goes_spares_who_has_not_gone_yet():
    machine, _ = running(alpha=6000)
    beta = machine.model("beta", 5000)
    machine.start(beta)
    machine.told.clear()
    machine.seats.claim_over(beta.key)
    assert (machine.told, machine.yields("alpha")) == (["alpha"], [""])


def test_who_is_busy_pinned_or_loading_stays():
    machine, _ = running(alpha=3000, beta=3000)
    pinned = machine.model("pinned", 3000, serverless={"minReplicas": 1})
    assert machine.start(pinned)
    machine.usage["alpha"] = Usage(open=1)
    machine.state("beta", "loading")
    wanted = machine.model("wanted", 5000)
    assert not machine.start(wanted)
    assert machine.yields("alpha", "beta", "pinned") == ["", "", ""]
    blocked = machine.blocked(wanted)
    assert blocked is not None
    assert blocked.reason == "MemoryInsufficient"
    assert blocked.message.endswith("alpha is busy, beta is loading, pinned is kept running")


def test_the_last_use_is_what_the_proxy_or_the_status_says_whichever_is_later():
    machine, models = running(alpha=3000, beta=3000, gamma=3000)
    machine.usage = {"alpha": Usage(idle_s=5), "beta": Usage(idle_s=50)}
    status = msgspec.structs.replace(models["gamma"].status, last_active_time=machine.clock.now())
    machine.seats.saw(msgspec.structs.replace(models["gamma"], status=status))
    machine.start(machine.model("wanted", 3000))
    assert machine.yields("alpha", "beta", "gamma") == ["", "wanted", ""]


def test_members_of_other_groups_and_namespaces_do_not_meet():
    machine = Machine(NodeFacts(devices=(GPU,)))
    group = {"vendor": "nvidia", "shared": "g"}
    assert machine.start(machine.model("alpha", 1000, group))
    assert machine.start(machine.model("beta", 1000, {**group, "shared": "h"}))
    elsewhere = machine.model("gamma", 1000, group)
    elsewhere = msgspec.structs.replace(
        elsewhere, metadata=msgspec.structs.replace(elsewhere.metadata, namespace="other")
    )
    machine.seats.saw(elsewhere)
    assert machine.start(elsewhere)
    assert not machine.start(machine.model("delta", 1000, group))
    assert machine.yields("alpha", "beta") == ["delta", ""]


# -- readings


def reading(free_mib: int, at_s: float, machine: Machine) -> NodeFacts:
    at = machine.clock.now() + timedelta(seconds=at_s)
    return NodeFacts(devices=(GPU,), readings=(Reading(vendor="nvidia", index=0, free_mib=free_mib, at=at),))


def on_gpu(machine: Machine, name: str, mib: int) -> Model:
    return machine.model(name, mib, {"vendor": "nvidia"})


def test_memory_of_one_that_has_ended_is_free_before_the_next_reading():
    machine = Machine(NodeFacts(devices=(GPU,)))
    alpha = on_gpu(machine, "alpha", 16000)
    assert machine.start(alpha)
    machine.clock.advance(5.0)
    machine.facts = reading(8000, 0.0, machine)
    machine.clock.advance(1.0)
    beta = on_gpu(machine, "beta", 16000)
    assert not machine.start(beta)
    assert machine.yields("alpha") == ["beta"]
    machine.seats.keep(alpha.key, ())
    assert machine.start(beta)


def test_a_reading_from_before_a_start_does_not_hide_others_behind_it():
    """fr-030: 20000 MiB are taken by a program outside; what ours was promised comes on top."""
    machine = Machine()
    machine.facts = reading(4000, 0.0, machine)
    machine.clock.advance(1.0)
    assert machine.start(on_gpu(machine, "alpha", 3000))
    blocked = machine.blocked(on_gpu(machine, "beta", 3000))
    assert blocked is not None
    assert "20000 MiB are taken outside FlexInfer" in blocked.message


def test_memory_read_after_a_start_counts_it_once():
    machine = Machine(NodeFacts(devices=(GPU,)))
    assert machine.start(on_gpu(machine, "alpha", 16000))
    machine.clock.advance(1.0)
    machine.facts = reading(8000, 0.0, machine)
    assert machine.start(on_gpu(machine, "beta", 6000))
