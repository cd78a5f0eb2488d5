"""Requests in flight, read from the metrics of proxies that answer, that do not, and that answer nonsense."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from tests.manual_clock import ManualClock
from tests.support.models import model

from flexinfer.api.meta import ObjectKey
from flexinfer.api.v1alpha2.model import Model
from flexinfer.controllers import inflight
from flexinfer.controllers.inflight import InFlight, in_flight
from flexinfer.controllers.wake import Seen
from flexinfer.lifecycle.load import STABLE_S
from flexinfer.resources.wakeslice import Slice

KEY = ObjectKey("default", "m")
TEXT = """# TYPE flexinfer_proxy_active_connections gauge
flexinfer_proxy_active_connections{model="m",namespace="default"} 12
flexinfer_proxy_active_connections{model="m",namespace="other"} 100
flexinfer_proxy_queue_depth{model="m",namespace="default"} 5.0
flexinfer_proxy_endpoint_count{model="m",namespace="default"} 3
flexinfer_proxy_requests_total{model="m",namespace="default",status="success"} 900
"""


class World:
    """One proxy at 127.0.0.1, which says `text`; more addresses where nobody answers."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.models: dict[ObjectKey, Model] = {KEY: model(serverless={"maxReplicas": 5})}
        self.addresses = ("127.0.0.1",)
        self.text = TEXT
        self.status = 200
        self.asked = 0
        self.told: list[ObjectKey] = []

    async def metrics(self, _request: web.Request) -> web.Response:
        self.asked += 1
        return web.Response(text=self.text, status=self.status)

    def slices(self) -> list[tuple[ObjectKey, Seen]]:
        found = Seen("proxies", "u", "flexinfer-proxy", False, Slice("IPv4", self.addresses, 8080))
        return [(ObjectKey("system", "proxies"), found)]


class Listed:
    def __init__(self, items) -> None:
        self.items = items


@pytest.fixture
async def world(clock: ManualClock) -> World:
    return World(clock)


@pytest.fixture
async def load(world: World) -> AsyncIterator[tuple[InFlight, aiohttp.ClientSession]]:
    app = web.Application()
    app.router.add_get("/metrics", world.metrics)
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        assert server.port is not None
        models = Listed(lambda: list(world.models.items()))
        yield InFlight(models, Listed(world.slices), world.clock, world.told.append, port=server.port), session


def test_active_and_waiting_ones_count_by_model():
    assert in_flight(TEXT) == {KEY: 17, ObjectKey("other", "m"): 100}


async def test_the_load_asks_for_replicas_and_the_model_is_looked_at(world: World, load):
    counter, session = load
    await counter.look(session)
    assert (counter.replicas(KEY, 8, 1), world.told) == (3, [KEY])
    await counter.look(session)
    assert world.told == [KEY]


@pytest.mark.parametrize(
    ("addresses", "status", "text"),
    [
        pytest.param(("127.0.0.1", "127.0.0.2"), 200, TEXT, id="one of two does not answer"),
        pytest.param(("127.0.0.1",), 500, TEXT, id="an error"),
        pytest.param((), 200, TEXT, id="there is no proxy"),
    ],
)
async def test_who_does_not_tell_takes_no_replica_away(world: World, load, addresses, status, text):
    counter, session = load
    world.addresses, world.status, world.text = addresses, status, text
    for _ in range(3):
        await counter.look(session)
        world.clock.advance(STABLE_S)
    assert counter.replicas(KEY, 8, 5) == 5


async def test_when_all_have_told_for_long_enough_it_goes_down(world: World, load):
    counter, session = load
    for _ in range(3):
        await counter.look(session)
        world.clock.advance(STABLE_S - 1)
    assert counter.replicas(KEY, 8, 5) == 3


async def test_more_than_can_be_read_is_no_answer(world: World, load):
    counter, session = load
    world.text = TEXT + "#" * inflight.MAX_BYTES
    await counter.look(session)
    assert counter.replicas(KEY, 8, 4) == 4


async def test_nobody_is_asked_where_no_model_may_be_scaled(world: World, load):
    counter, session = load
    world.models = {KEY: model(serverless={"maxReplicas": 1}), ObjectKey("default", "n"): model("n")}
    await counter.look(session)
    assert (world.asked, world.told) == (0, [])
