"""The sample controller under seeded faults in virtual time: whatever broke, it ends where the specs say.

The same controller runs against the real API server in tests/cluster/test_control_loop.py.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress

import pytest
from structlog.testing import capture_logs
from tests.manual_clock import ManualClock
from tests.support.flaky_store import FlakyStore
from tests.support.gadgets import GADGETS, MANAGER, GadgetManager, ended, gadget, record, state
from tests.support.interposed_store import InterposedWrites, LateEvents, Write
from tests.support.manual_timers import ManualTimers, settle

from flexinfer.api.meta import ObjectKey
from flexinfer.errors import Conflict, Gone, NotFound, StoreError
from flexinfer.kube.memory import MemoryStore
from flexinfer.kube.store import CONFIG_MAPS, JOBS, Object, Selection

NAMES = ("a", "b", "c")


class Run:
    """One cluster, one controller that is killed and restarted, users who change their minds."""

    def __init__(self, seed: int) -> None:
        self.rand = random.Random(seed)
        self.clock = ManualClock()
        self.timers = ManualTimers(self.clock, steps=40)
        self.store = FlakyStore(self.clock, history=12, rand=random.Random(seed))
        self.trouble = 0.0
        self.specs: dict[str, Object] = {}
        self.controller: asyncio.Task[None] | None = None
        self.manager: GadgetManager | None = None

    async def around(self, write: Write) -> object:
        if self.rand.random() < self.trouble:
            match self.rand.randrange(4):
                case 0:
                    raise ConnectionRefusedError("before it was sent")
                case 1:
                    await write.send()
                    raise TimeoutError("the answer was lost")
                case 2:
                    raise Conflict("the object has been modified")
                case _:
                    await self.timers.sleep(self.rand.uniform(0.1, 3.0))
        return await write.send()

    async def restart(self) -> None:
        if self.controller:
            await ended(self.controller)
        writes = InterposedWrites(self.store, self.around)
        reads = LateEvents(self.store, self.rand.choice([0.0, 0.0, 0.05, 0.5]), self.timers.sleep)
        self.manager = GadgetManager(
            writes,  # type: ignore[arg-type]
            "ns",
            reads=reads,  # type: ignore[arg-type]
            clock=self.clock,
            call_later=self.timers.call_later,
        )
        self.controller = asyncio.create_task(self.manager.run())
        await settle(40)

    async def act(self) -> None:
        """Something happens."""
        name = self.rand.choice(NAMES)
        key = ObjectKey("ns", name)
        match self.rand.randrange(8):
            case 0 | 1:
                await self.put(name)
            case 2:
                with suppress(NotFound):
                    await self.store.delete(GADGETS, key)
                self.specs.pop(name, None)
            case 3:
                await self.restart()
            case 4:
                self.store.cut(self.rand.choice([Gone("too old"), ConnectionResetError("reset"), None]))
            case 5:
                self.store.list_failures += [OSError("refused")] * self.rand.randrange(3)
                self.store.watch_failures += [StoreError("overloaded")] * self.rand.randrange(3)
            case 6:
                await self.meddle(key)
            case _:
                self.trouble = self.rand.choice([0.0, 0.3, 0.8])
        await self.timers.advance(self.rand.choice([0.0, 0.1, 1.0, 7.0]))

    async def put(self, name: str) -> None:
        spec = {"parts": self.rand.randrange(4), "text": self.rand.choice("xyz"), "outside": "outside"}
        try:
            there = await self.store.get(GADGETS, ObjectKey("ns", name))
        except NotFound:
            await self.store.create(GADGETS, gadget("ns", name, **spec))
        else:
            if "deletionTimestamp" in there["metadata"]:
                return
            await self.store.patch(GADGETS, ObjectKey("ns", name), {"spec": spec}, field_manager="user")
        self.specs[name] = spec

    async def meddle(self, owner: ObjectKey) -> None:
        """Somebody deletes or changes a child."""
        child = ObjectKey("ns", f"{owner.name}-part-0")
        with suppress(NotFound):
            if self.rand.random() < 0.5:
                await self.store.delete(CONFIG_MAPS, child)
            else:
                await self.store.patch(CONFIG_MAPS, child, {"data": {"text": "theirs"}}, field_manager="user")

    async def whole(self) -> None:
        await self.restart()
        try:
            for _ in range(30):
                await self.act()
            self.trouble = 0.0
            self.store.list_failures.clear()
            self.store.watch_failures.clear()
            await self.timers.advance(60)
            await self.judge()
        finally:
            assert self.controller
            await ended(self.controller)

    async def judge(self) -> None:
        left = await state(self.store, "ns")
        assert {name for name in left if name.startswith("Gadget/")} == {f"Gadget/{name}" for name in self.specs}
        for name, spec in self.specs.items():
            assert left[f"Gadget/{name}"]["status"]["phase"] == "Ready"
            parts = {
                child: what["data"]["text"] for child, what in left.items() if what["owners"] == [name] and what["data"]
            }
            assert parts == {f"ConfigMap/{name}-part-{number}": spec["text"] for number in range(spec["parts"])}
        jobs = {obj["metadata"]["name"] for obj in (await self.store.list(JOBS)).items}
        assert jobs == {f"{name}-job" for name in self.specs}
        records = {obj["metadata"]["name"] for obj in (await self.store.list(CONFIG_MAPS, Selection("outside"))).items}
        assert records == {f"ns.{name}" for name in self.specs}
        version = (await MemoryStore.list(self.store, GADGETS)).resource_version
        await self.timers.advance(600)
        # F18: ten idle minutes.
        assert (await MemoryStore.list(self.store, GADGETS)).resource_version == version


@pytest.mark.parametrize("start", range(0, 500, 50))
def test_500_schedules_of_faults_end_where_the_specs_say(start: int):
    judge_all(range(start, start + 50))


@pytest.mark.soak
@pytest.mark.parametrize("start", range(10_000, 20_000, 500))
def test_10_000_schedules_of_faults_end_where_the_specs_say(start: int):
    judge_all(range(start, start + 500))


def judge_all(seeds: range) -> None:
    for seed in seeds:
        with capture_logs():
            try:
                asyncio.run(Run(seed).whole())
            except Exception as error:
                error.add_note(f"seed {seed}")
                raise


async def test_a_record_of_a_namesake_is_not_removed(clock):
    """The finalizer of a Gadget that is long gone, run from a stale cache."""
    timers = ManualTimers(clock, steps=40)
    store = FlakyStore(clock)
    made = await store.create(GADGETS, gadget("ns", "a", outside="outside"))
    await store.apply(CONFIG_MAPS, record(made), field_manager=MANAGER)
    stale = {**made, "metadata": {**made["metadata"], "uid": "another", "deletionTimestamp": "2026-01-01T00:00:00Z"}}
    manager = GadgetManager(store, "ns", clock=clock, call_later=timers.call_later)
    await manager.reconciler._remove_record(record(stale))
    assert len((await store.list(CONFIG_MAPS)).items) == 1
