"""Whatever breaks between it and the store, an informer ends with what the store has."""

from __future__ import annotations

import asyncio
import random

from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs
from tests.manual_clock import ManualClock
from tests.support.background import ended
from tests.support.flaky_store import FlakyStore
from tests.support.manual_timers import ManualTimers, settle

from flexinfer.api.meta import ObjectKey
from flexinfer.errors import Gone, NotFound
from flexinfer.kube.informer import Informer
from flexinfer.kube.memory import MemoryStore
from flexinfer.kube.store import CONFIG_MAPS

NAMES = st.sampled_from("ab")
ACTIONS = st.one_of(
    st.tuples(st.just("write"), NAMES, st.integers(0, 3)),
    st.tuples(st.just("delete"), NAMES),
    st.tuples(st.just("recreate"), NAMES, st.integers(0, 3)),
    st.tuples(st.just("cut"), st.sampled_from([Gone("too old"), ConnectionResetError("reset"), None])),
    st.tuples(st.just("pass time"), st.integers(1, 15)),
    st.tuples(st.just("flood"), st.integers(4, 12)),
    st.tuples(st.just("fail"), st.integers(0, 2), st.integers(0, 2)),
)
STEPS = st.lists(st.tuples(ACTIONS, st.booleans()), min_size=4, max_size=25)
"""Each step: what happens, and whether the informer may look before the next one happens."""


class Run:
    def __init__(self) -> None:
        clock = ManualClock()
        self.timers = ManualTimers(clock)
        self.store = FlakyStore(clock, history=6)
        self.informer = Informer(
            self.store,
            CONFIG_MAPS,
            lambda obj: (obj["metadata"]["uid"], obj["data"]["n"]),
            rand=random.Random(1),
            clock=clock,
            sleep=self.timers.sleep,
        )
        self.replayed: dict[ObjectKey, tuple[str, str]] = {}
        self.informer.add_handler(self.replay)

    def replay(self, key, old, new):
        """A handler that keeps its own copy: it is always told the truth about the one before."""
        assert self.replayed.get(key) == old
        if new is None:
            del self.replayed[key]
        else:
            assert old is None or old[0] == new[0], "a namesake came without the deletion of the one before"
            self.replayed[key] = new

    async def write(self, name, number):
        obj = {"metadata": {"name": name, "namespace": "default"}, "data": {"n": str(number)}}
        await self.store.apply(CONFIG_MAPS, obj, field_manager="test")

    async def delete(self, name):
        try:
            await self.store.delete(CONFIG_MAPS, ObjectKey("default", name))
        except NotFound:
            pass

    async def do(self, step, *args):
        match step:
            case "write":
                await self.write(*args)
            case "delete":
                await self.delete(args[0])
            case "recreate":
                await self.delete(args[0])
                await self.write(*args)
            case "flood":
                for number in range(args[0]):
                    await self.write("flood", number)
            case "cut":
                self.store.cut(args[0])
            case "fail":
                lists, watches = args
                self.store.list_failures += [OSError("refused")] * lists
                self.store.watch_failures += [OSError("refused")] * watches
            case "pass time":
                await self.timers.advance(args[0])

    async def whole(self, steps):
        task = asyncio.create_task(self.informer.run())
        await settle()
        for action, looks in steps:
            await self.do(*action)
            if looks:
                await settle()
        await self.timers.advance(300)
        stored = {
            ObjectKey("default", obj["metadata"]["name"]): (obj["metadata"]["uid"], obj["data"]["n"])
            for obj in (await MemoryStore.list(self.store, CONFIG_MAPS)).items
        }
        assert dict(self.informer.items()) == stored
        assert self.replayed == stored
        await ended(task)


@settings(max_examples=200, deadline=None)
@given(STEPS)
def test_the_cache_converges_and_handlers_hear_the_truth(steps):
    with capture_logs():
        asyncio.run(Run().whole(steps))
