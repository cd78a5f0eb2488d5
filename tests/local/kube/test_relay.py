"""An informer whose connection to the API goes through a relay that freezes without closing anything."""

from __future__ import annotations

import asyncio
import contextlib
import random

import aiohttp
import pytest
from aiohttp import web
from tests.support.background import ended

from flexinfer.api.meta import ObjectKey
from flexinfer.clock import SystemClock
from flexinfer.kube import config
from flexinfer.kube.apiserver import build_app
from flexinfer.kube.client import HttpStore
from flexinfer.kube.connection import Connection, Target
from flexinfer.kube.informer import Informer
from flexinfer.kube.memory import MemoryStore
from flexinfer.kube.store import CONFIG_MAPS


class Relay:
    """Forwards bytes both ways between two Unix sockets; frozen, it takes connections and bytes and does nothing."""

    def __init__(self, target):
        self._target = target
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._tasks = set()

    def freeze(self):
        self._flowing.clear()

    def thaw(self):
        self._flowing.set()

    @contextlib.asynccontextmanager
    async def listening(self, path):
        server = await asyncio.start_unix_server(self._connected, str(path))
        try:
            yield
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader, writer):
        self._tasks.add(asyncio.current_task())
        upstream_reader, upstream_writer = await asyncio.open_unix_connection(str(self._target))
        await asyncio.gather(self._pump(reader, upstream_writer), self._pump(upstream_reader, writer))

    async def _pump(self, reader, writer):
        try:
            while data := await reader.read(65536):
                await self._flowing.wait()
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()


@pytest.fixture
async def api(tmp_path):
    """A store, and a relay in front of its REST API at `tmp_path/relay`."""
    store = MemoryStore(SystemClock(), history=8)
    runner = web.AppRunner(build_app(store, (CONFIG_MAPS,)), shutdown_timeout=0.1)
    await runner.setup()
    await web.UnixSite(runner, str(tmp_path / "api")).start()
    relay = Relay(tmp_path / "api")
    async with relay.listening(tmp_path / "relay"):
        yield store, relay
    await runner.cleanup()


def config_map(name):
    return {"metadata": {"name": name, "namespace": "default"}, "data": {}}


@pytest.mark.parametrize(
    "missed",
    [pytest.param(0, id="the watch can be resumed"), pytest.param(20, id="the watch is answered with 410")],
)
async def test_what_was_deleted_during_the_freeze_is_gone_soon_after_it(api, tmp_path, missed):
    """F04: nothing tells the informer that its watch is dead but its own deadline."""
    store, relay = api
    for name in ("a", "b"):
        await store.create(CONFIG_MAPS, config_map(name))
    session = aiohttp.ClientSession(connector=aiohttp.UnixConnector(path=str(tmp_path / "relay"), limit=0))
    connection = Connection(session, Target("http://localhost"), timeout_s=0.5)
    async with HttpStore(connection, watch_timeout_s=1, watch_grace_s=0.2) as client:
        informer = Informer(client, CONFIG_MAPS, lambda obj: obj["metadata"]["name"], rand=random.Random(1))
        task = asyncio.create_task(informer.run())
        await informer.wait_synced()
        relay.freeze()
        await store.delete(CONFIG_MAPS, ObjectKey("default", "a"))
        for number in range(missed):
            await store.create(CONFIG_MAPS, config_map(f"n{number}"))
        await asyncio.sleep(2)
        assert informer.get(ObjectKey("default", "a")) == "a"
        silent_s = informer.silent_s()
        assert silent_s is not None
        assert silent_s >= 1.9
        relay.thaw()
        async with asyncio.timeout(5):
            while informer.get(ObjectKey("default", "a")) or len(informer.items()) != 1 + missed:
                await asyncio.sleep(0.02)
        await ended(task)


async def test_a_client_of_the_socket_speaks_to_the_store(api, tmp_path):
    store, _ = api
    async with config.unix_socket(tmp_path / "api") as client:
        created = await client.create(CONFIG_MAPS, config_map("a"))
    assert await store.get(CONFIG_MAPS, ObjectKey("default", "a")) == created
