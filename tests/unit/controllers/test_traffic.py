"""Traffic of Models, read from the metrics of proxies that answer, restart and fall silent."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from tests.support.models import model

from flexinfer.api.meta import ObjectKey
from flexinfer.controllers.traffic import ProxyTraffic, Told, told, traffic
from flexinfer.controllers.wake import Seen
from flexinfer.lifecycle.observed import Traffic
from flexinfer.resources.wakeslice import Slice

KEY = ObjectKey("team", "m")
TEXT = """# TYPE flexinfer_tokens_per_second gauge
flexinfer_tokens_per_second{model="m",namespace="team",backend="vllm",node="a"} 20.5
flexinfer_tokens_per_second{model="m",namespace="team",backend="vllm",node="b"} 1e+01
flexinfer_proxy_request_duration_seconds_bucket{model="m",namespace="team",le="0.1"} 3
flexinfer_proxy_request_duration_seconds_sum{model="m",namespace="team"} 6.0
flexinfer_proxy_request_duration_seconds_count{model="m",namespace="team"} 12
flexinfer_proxy_request_duration_seconds_count{model="m",namespace="other"} 0
"""


def test_the_nodes_of_a_model_are_summed_and_its_namespace_counts():
    assert told(TEXT) == {KEY: Told(30.5, 6.0, 12.0), ObjectKey("other", "m"): Told()}


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        pytest.param({}, {"p": Told(5, 6, 12)}, Traffic(tokens_per_second=5, latency_avg_s=0.5), id="a first look"),
        pytest.param(
            {"p": Told(5, 6, 12)},
            {"p": Told(7, 8, 13)},
            Traffic(tokens_per_second=7, latency_avg_s=2.0),
            id="only what ended since the last look counts for the latency",
        ),
        pytest.param({"p": Told(5, 6, 12)}, {"p": Told(0, 6, 12)}, None, id="no request ended"),
        pytest.param(
            {"p": Told(5, 600, 1200)},
            {"p": Told(1, 3, 2)},
            Traffic(tokens_per_second=1, latency_avg_s=1.5),
            id="a proxy that was started anew counts from nothing",
        ),
        pytest.param(
            {"p": Told(1, 1, 1), "gone": Told(9, 9, 9)},
            {"p": Told(1, 2, 2), "q": Told(2, 3, 1)},
            Traffic(tokens_per_second=3, latency_avg_s=2.0),
            id="proxies are summed, one that is gone is forgotten",
        ),
    ],
)
def test_traffic_between_two_looks(before: dict[str, Told], now: dict[str, Told], expected: Traffic | None):
    found = traffic({one: {KEY: was} for one, was in before.items()}, {one: {KEY: is_} for one, is_ in now.items()})
    assert found.get(KEY) == expected


class Listed:
    def __init__(self, *items: Any) -> None:
        self.all = list(items)

    def items(self) -> list[Any]:
        return self.all


class Proxy:
    def __init__(self) -> None:
        self.asked = 0
        self.status = 200

    async def metrics(self, _request: web.Request) -> web.Response:
        self.asked += 1
        return web.Response(text=TEXT, status=self.status)


@pytest.fixture
async def proxy() -> AsyncIterator[tuple[Proxy, int]]:
    one = Proxy()
    app = web.Application()
    app.router.add_get("/metrics", one.metrics)
    async with TestServer(app) as server:
        assert server.port is not None
        yield one, server.port


def slices() -> Listed:
    seen = Seen("proxies", "u", "flexinfer-proxy", False, Slice("IPv4", ("127.0.0.1",), 8080))
    return Listed((ObjectKey("system", "proxies"), seen))


async def test_a_proxy_that_falls_silent_for_once_makes_no_traffic(proxy: tuple[Proxy, int]):
    one, port = proxy
    ready = model("m")
    ready.status.phase = "Ready"
    found = ProxyTraffic(Listed((KEY, ready)), slices(), port=port)
    async with aiohttp.ClientSession() as session:
        await found.look(session)
        assert found.of(KEY) == Traffic(tokens_per_second=30.5, latency_avg_s=0.5)
        one.status = 500
        await found.look(session)
        assert found.of(KEY) is None
        one.status = 200
        await found.look(session)
        assert found.of(KEY) is None


async def test_nobody_is_asked_while_every_model_sleeps(proxy: tuple[Proxy, int]):
    one, port = proxy
    found = ProxyTraffic(Listed((KEY, model("m"))), slices(), port=port)
    async with aiohttp.ClientSession() as session:
        await found.look(session)
    assert (one.asked, found.of(KEY)) == (0, None)
