"""Every write of a process that does not lead is refused before it is sent; reading is always allowed."""

from __future__ import annotations

import asyncio
import inspect

import pytest
from tests.support.manual_timers import settle

from flexinfer.api.meta import ObjectKey
from flexinfer.errors import NotLeading
from flexinfer.kube.fence import Fenced
from flexinfer.kube.memory import MemoryStore
from flexinfer.kube.store import CONFIG_MAPS, PODS, ObjectStore

KEY = ObjectKey("default", "a")
OBJECT = {"metadata": {"name": "a", "namespace": "default"}, "data": {}}
READS = {"get", "list", "watch", "watch_list"}
WRITES = {
    "create": (CONFIG_MAPS, OBJECT),
    "replace": (CONFIG_MAPS, OBJECT),
    "apply": (CONFIG_MAPS, OBJECT),
    "patch": (CONFIG_MAPS, KEY, {}),
    "delete": (CONFIG_MAPS, KEY),
    "post": (PODS, KEY, "eviction", {}),
}


class Lead:
    def __init__(self, left_s):
        self._left_s = left_s
        self.under_way = set()

    def left_s(self):
        return self._left_s


def test_every_call_of_a_store_is_known_as_a_read_or_a_write():
    calls = {name for name, member in inspect.getmembers(ObjectStore, inspect.isfunction) if not name.startswith("_")}
    assert calls == READS | WRITES.keys()


@pytest.mark.parametrize("name", WRITES)
async def test_a_write_is_refused_without_the_lead(clock, name):
    store = MemoryStore(clock)
    options = {"field_manager": "test"} if name == "apply" else {}
    with pytest.raises(NotLeading):
        await getattr(Fenced(store, Lead(0.0)), name)(*WRITES[name], **options)
    assert (await store.list(CONFIG_MAPS)).items == []


async def test_the_leader_writes_and_everybody_reads(clock):
    store = MemoryStore(clock)
    written = await Fenced(store, Lead(5.0)).create(CONFIG_MAPS, OBJECT)
    reader = Fenced(store, Lead(0.0))
    assert await reader.get(CONFIG_MAPS, KEY) == written
    assert (await reader.list(CONFIG_MAPS)).items == [written]
    async for event in reader.watch_list(CONFIG_MAPS):
        assert (event.type, event.object) == ("ADDED", written)
        break
    async for event in reader.watch(CONFIG_MAPS, "0"):
        assert event.object == written
        break


async def test_a_write_whose_caller_is_cancelled_stays_under_way_until_its_answer(clock):
    store = MemoryStore(clock)
    answer = asyncio.Event()

    class Slow:
        async def create(self, *args, **options):
            made = await store.create(*args, **options)
            await answer.wait()
            return made

    lead = Lead(5.0)
    task = asyncio.create_task(Fenced(Slow(), lead).create(CONFIG_MAPS, OBJECT))
    await settle()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert (task.cancelled(), len(lead.under_way)) == (True, 1)
    answer.set()
    await settle()
    assert lead.under_way == set()
