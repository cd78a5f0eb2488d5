"""Models that do not all fit on one machine: who makes room, who waits, and that nobody is cut (F26 to F28)."""

from __future__ import annotations

import random
from typing import Any

import pytest
from tests.support.world import Call, World, living

from flexinfer.backends.base import Device
from flexinfer.placement.nodefacts import NodeFacts

LOAD_S = 2.0
BUDGET_S = 60.0
ROOM_S = 4.0
"""More than it takes to withdraw an idle model's endpoints, stop it and load another."""
ONE_GPU = NodeFacts(devices=(Device(vendor="nvidia", index=0, product="A5000", vram_mib=24000),))


async def make(world: World, name: str, mib: int, *, gpu: dict[str, Any] | None = None, **spec: Any) -> None:
    gpu = {"vendor": "auto", "vramEstimateMB": mib} | (gpu or {})
    serverless = {"idleTimeout": "10m", "coldStartTimeout": f"{BUDGET_S:g}s"} | spec.pop("serverless", {})
    await world.create(name, config={"loadSeconds": LOAD_S, "slots": 4}, gpu=gpu, serverless=serverless, **spec)


async def used(world: World, name: str) -> None:
    """It answers a request, and rests."""
    call = await world.call(name)
    await world.advance(LOAD_S + ROOM_S)
    call.answered()
    await world.advance(0.0)


async def phases(world: World, *names: str) -> tuple[str, ...]:
    return tuple([(await world.status(name))["phase"] for name in names])


async def message(world: World, name: str) -> str:
    text: str = (await world.status(name))["message"]
    return text


@pytest.fixture
async def short(world: World) -> World:
    """A machine for one of two models: 9500 MiB for engines."""
    world.place.facts = NodeFacts(memory_mib=10000)
    await make(world, "alpha", 6000)
    await make(world, "beta", 5000)
    return world


async def test_two_models_that_do_not_fit_together_take_turns(short: World):
    for _ in range(3):
        await used(short, "alpha")
        assert await phases(short, "alpha", "beta") == ("Ready", "Idle")
        await used(short, "beta")
        assert await phases(short, "alpha", "beta") == ("Idle", "Ready")
    assert (short.place.starts, short.place.stops) == (6, 5)
    assert await message(short, "alpha") == "asleep: it makes room for beta; a request wakes it"


async def test_who_made_room_does_not_come_back_by_itself(short: World):
    await used(short, "alpha")
    await used(short, "beta")
    starts = short.place.starts
    await short.advance(300.0)
    assert (await phases(short, "alpha", "beta"), short.place.starts) == (("Idle", "Ready"), starts)


async def test_a_busy_model_stays_and_the_other_waits_with_the_numbers(short: World):
    alpha = await short.call("alpha")
    await short.advance(LOAD_S)
    beta = await short.call("beta")
    await short.advance(20.0)
    assert await phases(short, "alpha", "beta") == ("Ready", "Pending")
    expected = "needs 5000 MiB of memory; this machine has 3500 of 10000 MiB left (alpha holds 6000 MiB); alpha is busy"
    assert (await message(short, "beta")).endswith(expected)
    assert await short.reason("Schedulable", "beta") == "MemoryInsufficient"
    assert await short.reason("Ready", "beta") == "MemoryInsufficient"
    alpha.answered()
    await short.advance(LOAD_S + ROOM_S)
    beta.answered()
    assert await phases(short, "alpha", "beta") == ("Idle", "Ready")
    assert await short.reason("Schedulable", "beta") == "Schedulable"


async def test_who_waits_too_long_is_told_the_numbers(short: World):
    alpha = await short.call("alpha")
    await short.advance(LOAD_S)
    beta = await short.call("beta")
    await short.advance(BUDGET_S + 1.0)
    assert beta.error is not None
    assert (beta.error.code, "needs 5000 MiB of memory" in beta.error.message) == ("model_loading", True)
    alpha.answered()


@pytest.mark.parametrize("tenths", range(0, 30, 1))
async def test_a_request_for_who_makes_room_is_never_lost(short: World, tenths: int):
    await used(short, "alpha")
    beta = await short.call("beta")
    await short.advance(tenths / 10)
    alpha = await short.call("alpha")
    await short.advance(2 * (LOAD_S + ROOM_S))
    if alpha.waits:
        beta.answered()
        await short.advance(LOAD_S + ROOM_S)
        alpha.answered()
    else:
        assert short.place.instances("alpha"), "nobody who is in use makes room"
        alpha.answered()
        await short.advance(LOAD_S + ROOM_S)
        beta.answered()


async def test_a_wish_that_ends_spares_the_others(short: World):
    await used(short, "alpha")
    await short.call("beta")
    await short.advance(0.1)
    assert await short.reason("Ready", "alpha") == "ScalingDown"
    await short.delete("beta")
    await short.advance(10.0)
    assert (await phases(short, "alpha"), short.place.stops) == (("Ready",), 0)


async def test_the_least_recently_used_goes_and_no_other(world: World):
    world.place.facts = NodeFacts(memory_mib=10000)
    for name in ("alpha", "beta", "gamma"):
        await make(world, name, 3000)
        await used(world, name)
    await used(world, "alpha")
    await make(world, "delta", 3500)
    await used(world, "delta")
    assert await phases(world, "alpha", "beta", "gamma", "delta") == ("Ready", "Idle", "Ready", "Ready")


async def test_a_pinned_model_never_makes_room(world: World):
    world.place.facts = NodeFacts(memory_mib=10000)
    await make(world, "alpha", 6000, serverless={"minReplicas": 1})
    await world.advance(60.0)
    await make(world, "beta", 5000)
    beta = await world.call("beta")
    await world.advance(20.0)
    assert beta.waits
    assert (await message(world, "beta")).endswith("; alpha is kept running")
    await world.change("alpha", serverless={"minReplicas": 0, "idleTimeout": "10m"})
    await world.advance(2 * ROOM_S + LOAD_S)
    beta.answered()


async def test_what_the_machine_could_never_hold_fails(world: World):
    world.place.facts = NodeFacts(memory_mib=10000, memory_limit_mib=4096)
    await make(world, "alpha", 5000)
    call = await world.call("alpha")
    await world.advance(1.0)
    assert call.error is not None
    assert await phases(world, "alpha") == ("Failed",)
    assert "needs 5000 MiB of memory, all engines together may use 4096 MiB" in await message(world, "alpha")
    assert await world.reason("Schedulable", "alpha") == "MemoryInsufficient"


async def test_a_gpu_changes_hands(world: World):
    world.place.facts = ONE_GPU
    for name in ("alpha", "beta"):
        await make(world, name, 16000, gpu={"vendor": "nvidia"})
    await used(world, "alpha")
    await used(world, "beta")
    assert await phases(world, "alpha", "beta") == ("Idle", "Ready")
    busy = await world.call("beta")
    alpha = await world.call("alpha")
    await world.advance(5.0)
    assert alpha.waits
    assert await world.reason("Schedulable", "alpha") == "VRAMInsufficient"
    assert await message(world, "alpha") == (
        "needs 16000 MiB; nvidia:0 (A5000) has 6800 of 24000 MiB left (beta holds 16000 MiB); beta is busy"
    )
    busy.answered()


async def test_a_shared_group_has_one_member_at_a_time(world: World):
    world.place.facts = ONE_GPU
    for name in ("alpha", "beta"):
        await make(world, name, 1000, gpu={"vendor": "nvidia", "shared": "night"})
    alpha = await world.call("alpha")
    await world.advance(LOAD_S)
    beta = await world.call("beta")
    await world.advance(5.0)
    assert await phases(world, "alpha", "beta") == ("Ready", "Pending")
    expected = "the shared group night runs one model, and alpha has its place; alpha is busy"
    assert await message(world, "beta") == expected
    assert await world.reason("Schedulable", "beta") == "Preempted"
    alpha.answered()
    await world.advance(LOAD_S + ROOM_S)
    beta.answered()
    assert await phases(world, "alpha", "beta") == ("Idle", "Ready")


async def test_memory_that_others_take_is_waited_for(world: World):
    world.place.facts = NodeFacts(memory_mib=10000, memory_free_mib=300)
    await make(world, "alpha", 5000)
    call = await world.call("alpha")
    await world.advance(5.0)
    assert "9700 MiB are taken outside FlexInfer" in await message(world, "alpha")
    world.place.facts = NodeFacts(memory_mib=10000, memory_free_mib=7000)
    await world.advance(1.0 + LOAD_S)
    call.answered()


async def test_waiting_writes_nothing(short: World):
    alpha = await short.call("alpha")
    await short.advance(LOAD_S)
    await short.call("beta")
    await short.advance(1.0)
    writes = list(short.store.writes)
    await short.advance(15.0)
    assert short.store.writes == writes
    alpha.answered()


# -- random schedules


SIZES = {"a": 2000, "b": 3000, "c": 4000, "d": 6000, "e": 9000}
USABLE_MIB = 9500


class Schedule:
    """Clients that call, take their time and leave; checked after every step."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.rand = random.Random(seed)
        self.open: list[Call] = []
        self.ended = 0
        self.asked = 0
        self.refused = 0

    def check(self) -> None:
        held = sum(SIZES[name] * len(self.world.place.instances(name)) for name in SIZES)
        assert held <= USABLE_MIB, "oversubscribed"
        for call in self.open:
            if call.instance is not None:
                assert call.instance.state == "ready", f"{call.name} was stopped while it answered"

    async def step(self) -> None:
        rand, world = self.rand, self.world
        if rand.random() < 0.6:
            self.asked += 1
            self.open.append(await world.call(rand.choice(list(SIZES))))
        running = [call for call in self.open if call.instance is not None]
        if running and rand.random() < 0.6:
            self.answer(rand.choice(running))
        self.told()
        for _ in range(rand.choice([1, 1, 4, 12])):
            await world.advance(0.5)
            self.check()

    def answer(self, call: Call) -> None:
        call.answered()
        self.open.remove(call)
        self.ended += 1

    def told(self) -> None:
        for call in [call for call in self.open if call.error is not None]:
            assert call.error is not None
            assert call.error.code == "model_loading", call.error
            self.open.remove(call)
            self.ended += 1
            self.refused += 1

    async def finish(self) -> None:
        """All who run end at once: those who wait are served or told within their budget."""
        for _ in range(int(2 * BUDGET_S)):
            if not self.open:
                break
            for call in [call for call in self.open if call.instance is not None]:
                self.answer(call)
            self.told()
            await self.world.advance(1.0)
            self.check()
        assert not self.open
        assert self.ended == self.asked


@pytest.mark.parametrize("block", range(10))
async def test_never_oversubscribed_nobody_busy_stopped_everybody_served_or_told(block: int):
    asked = refused = 0
    for seed in range(50 * block, 50 * block + 50):
        async with living(World()) as world:
            world.place.facts = NodeFacts(memory_mib=10000)
            world.place.stop_s = random.Random(seed).choice([0.0, 1.0])
            for name, mib in SIZES.items():
                await make(world, name, mib)
            schedule = Schedule(world, seed)
            for _ in range(12):
                await schedule.step()
            await schedule.finish()
            asked, refused = asked + schedule.asked, refused + schedule.refused
    assert 20 * refused < asked, "waiting ought to be worth it"
