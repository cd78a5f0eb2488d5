from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager

import pytest
from tests.support.background import beside
from tests.support.flaky_store import FlakyStore
from tests.support.manual_timers import settle

from flexinfer.api.meta import ObjectKey
from flexinfer.errors import Gone, StoreError
from flexinfer.kube.informer import Informer
from flexinfer.kube.store import CONFIG_MAPS, Selection


def config_map(name, value="1", namespace="default"):
    return {"metadata": {"name": name, "namespace": namespace}, "data": {"value": value}}


def key(name) -> ObjectKey:
    return ObjectKey("default", name)


def decode(obj) -> str:
    value = obj["data"]["value"]
    if value == "bad":
        raise ValueError("cannot be read")
    return value


@pytest.fixture
def store(clock):
    return FlakyStore(clock, history=8)


@pytest.fixture
def start(store, clock, timers):
    @asynccontextmanager
    async def running(**options):
        informer = Informer(
            store, CONFIG_MAPS, decode, rand=random.Random(1), clock=clock, sleep=timers.sleep, **options
        )
        async with beside(informer.run()):
            await settle()
            yield informer

    return running


async def test_the_cache_has_what_is_there_and_what_comes(store, start):
    await store.create(CONFIG_MAPS, config_map("a"))
    async with start() as informer:
        await informer.wait_synced()
        assert informer.items() == [(key("a"), "1")]
        await store.create(CONFIG_MAPS, config_map("b"))
        await store.patch(CONFIG_MAPS, key("a"), {"data": {"value": "2"}})
        await settle()
        assert dict(informer.items()) == {key("a"): "2", key("b"): "1"}
        await store.delete(CONFIG_MAPS, key("a"))
        await settle()
        assert (informer.get(key("a")), informer.get(key("b"))) == (None, "1")
    assert store.lists == 1


async def test_handlers_hear_of_every_change_once(store, start):
    heard = []
    await store.create(CONFIG_MAPS, config_map("a"))
    async with start() as informer:
        informer.add_handler(lambda *change: heard.append(change))
        await store.patch(CONFIG_MAPS, key("a"), {"data": {"value": "2"}})
        await store.delete(CONFIG_MAPS, key("a"))
        await settle()
    assert heard == [(key("a"), None, "1"), (key("a"), "1", "2"), (key("a"), "2", None)]


async def test_only_the_namespace_asked_for(store, start):
    for namespace in ("default", "other"):
        await store.create(CONFIG_MAPS, config_map("a", namespace=namespace))
    async with start(selection=Selection("default")) as informer:
        await store.create(CONFIG_MAPS, config_map("b", namespace="other"))
        await settle()
        assert informer.items() == [(key("a"), "1")]


async def test_a_broken_watch_goes_on_where_it_was_without_a_list(store, start, timers):
    heard = []
    async with start() as informer:
        informer.add_handler(lambda *change: heard.append(change))
        await store.create(CONFIG_MAPS, config_map("a"))
        await store.patch(CONFIG_MAPS, key("a"), {"data": {"value": "2"}})
        await settle()
        store.cut(ConnectionResetError("relay gone"))
        await store.create(CONFIG_MAPS, config_map("b"))
        await timers.advance(1)
        assert dict(informer.items()) == {key("a"): "2", key("b"): "1"}
    assert heard == [(key("a"), None, "1"), (key("a"), "1", "2"), (key("b"), None, "1")]
    assert (store.lists, store.watches) == (1, 1)


async def test_gone_lists_again_and_finds_what_was_deleted_in_the_gap(store, start, timers):
    """F03: the object is gone from the list, so it is reported as deleted."""
    heard = []
    for name in ("a", "b"):
        await store.create(CONFIG_MAPS, config_map(name))
    async with start() as informer:
        informer.add_handler(lambda *change: heard.append(change))
        heard.clear()
        store.cut(Gone("too old"))
        await store.delete(CONFIG_MAPS, key("a"))
        await timers.advance(1)
        assert informer.items() == [(key("b"), "1")]
    assert heard == [(key("a"), "1", None)]
    assert store.lists == 2


async def test_a_watch_that_falls_behind_is_replaced_by_a_list(store, start, timers):
    await store.create(CONFIG_MAPS, config_map("a"))
    async with start() as informer:
        store.cut(ConnectionResetError())
        for number in range(20):
            await store.create(CONFIG_MAPS, config_map(f"n{number}"))
        await timers.advance(5)
        await settle(200)
        assert len(informer.items()) == 21
    assert store.lists == 2


async def test_a_list_that_breaks_half_way_removes_nothing_and_is_begun_again(store, start, timers):
    for name in ("a", "b"):
        await store.create(CONFIG_MAPS, config_map(name))
    heard = []
    async with start() as informer:
        informer.add_handler(lambda *change: heard.append(change))
        heard.clear()
        store.list_failures = [ConnectionResetError("in the middle")]
        store.cut(Gone("too old"))
        await store.delete(CONFIG_MAPS, key("a"))
        await settle()
        assert (len(informer.items()), heard) == (2, [])
        await timers.advance(2)
        assert informer.items() == [(key("b"), "1")]
    assert heard == [(key("a"), "1", None)]


async def test_a_namesake_is_a_deletion_and_an_addition(store, start, timers):
    """F13: even when both happened in the gap between two watches."""
    heard = []
    await store.create(CONFIG_MAPS, config_map("a"))
    async with start() as informer:
        informer.add_handler(lambda *change: heard.append(change))
        heard.clear()
        store.cut(Gone("too old"))
        await store.delete(CONFIG_MAPS, key("a"))
        await store.create(CONFIG_MAPS, config_map("a", "new"))
        await timers.advance(1)
    assert heard == [(key("a"), "1", None), (key("a"), None, "new")]


async def test_an_object_that_cannot_be_read_is_logged_and_hides_no_other(store, start, logged):
    await store.create(CONFIG_MAPS, config_map("a", "bad"))
    await store.create(CONFIG_MAPS, config_map("b"))
    async with start() as informer:
        assert informer.items() == [(key("b"), "1")]
        await store.patch(CONFIG_MAPS, key("b"), {"data": {"value": "bad"}})
        await store.patch(CONFIG_MAPS, key("a"), {"data": {"value": "2"}})
        await settle()
        assert dict(informer.items()) == {key("a"): "2", key("b"): "1"}
        await store.delete(CONFIG_MAPS, key("b"))
        await settle()
        assert informer.items() == [(key("a"), "2")]
    assert [(entry["event"], entry["object"]) for entry in logged] == [
        ("cannot read object", "default/a"),
        ("cannot read object", "default/b"),
    ]


async def test_a_handler_that_fails_stops_neither_the_cache_nor_other_handlers(store, start, logged):
    heard = []

    def broken(*_change):
        raise RuntimeError("handler")

    async with start() as informer:
        informer.add_handler(broken)
        informer.add_handler(lambda *change: heard.append(change))
        await store.create(CONFIG_MAPS, config_map("a"))
        await settle()
        assert informer.items() == [(key("a"), "1")]
    assert heard == [(key("a"), None, "1")]
    assert [entry["event"] for entry in logged] == ["handler failed"]


@pytest.mark.parametrize(
    "failure",
    [
        pytest.param(ConnectionRefusedError("no server"), id="no connection"),
        pytest.param(TimeoutError(), id="a time-out"),
        pytest.param(StoreError("overloaded"), id="a refusal"),
    ],
)
async def test_an_outage_is_survived_from_the_cache_and_over_within_the_cap(store, start, timers, failure):
    """F01: 60 s without the store; back in step within 15 s of its return, at a bounded rate of calls."""
    await store.create(CONFIG_MAPS, config_map("a"))
    async with start() as informer:
        store.watch_failures = [failure] * 1000
        store.cut(failure)
        await timers.advance(60)
        assert informer.items() == [(key("a"), "1")]
        assert store.watches <= 20
        assert informer.silent_s() == 60
        await store.create(CONFIG_MAPS, config_map("b"))
        store.watch_failures = []
        await timers.advance(15)
        assert len(informer.items()) == 2


async def test_lists_are_bounded_while_every_watch_is_gone(store, start, timers):
    async with start():
        store.watch_failures = [Gone("too old")] * 1000
        store.cut(Gone("too old"))
        await timers.advance(600)
    assert store.lists <= 120


async def test_watches_that_end_at_once_are_no_hot_loop(store, start, timers):
    async with start() as informer:
        for _ in range(100):
            store.cut(None)
            await timers.advance(0.01)
        assert store.watches <= 10
        await timers.advance(10)
        await store.create(CONFIG_MAPS, config_map("a"))
        await settle()
        assert informer.items() == [(key("a"), "1")]


async def test_a_long_watch_that_ends_is_reopened_at_once(store, start, timers):
    async with start() as informer:
        await timers.advance(120)
        assert informer.silent_s() == 120
        store.cut(None)
        await settle()
        assert informer.silent_s() == 0
        await store.create(CONFIG_MAPS, config_map("a"))
        await settle()
        assert informer.items() == [(key("a"), "1")]


async def test_not_synced_before_the_first_list(store, start, timers):
    store.list_failures = [ConnectionRefusedError()]
    async with start() as informer:
        assert (informer.synced.is_set(), informer.silent_s()) == (False, None)
        await timers.advance(1)
        assert informer.synced.is_set()


async def test_a_handler_added_late_hears_of_what_is_there(store, start):
    heard = []
    await store.create(CONFIG_MAPS, config_map("a"))
    async with start() as informer:
        informer.add_handler(lambda *change: heard.append(change))
    assert heard == [(key("a"), None, "1")]


async def test_a_long_list_lets_others_run_and_is_complete(store, start):
    """F17."""
    for number in range(1000):
        await store.create(CONFIG_MAPS, config_map(f"n{number}"))
    turns = []

    async def other():
        while True:
            turns.append(1)
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    async with start() as informer:
        await informer.wait_synced()
        task.cancel()
        assert len(informer.items()) == 1000
    assert len(turns) >= 5
