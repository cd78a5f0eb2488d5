"""A pooled connection on which something has come that was not read yet is not taken for the next request."""

from __future__ import annotations

import asyncio
import socket

import pytest

from flexinfer.proxy.settings import ProxySettings
from flexinfer.proxy.upstream import EndpointPool, UpstreamConnection, Upstreams
from flexinfer.routing.base import Endpoint


@pytest.mark.parametrize(
    ("stale", "taken"),
    [
        pytest.param(lambda engine: None, True, id="silent"),
        pytest.param(lambda engine: engine.send(b"HTTP/1.1 200 OK\r\n\r\n"), False, id="a second answer"),
        pytest.param(lambda engine: engine.shutdown(socket.SHUT_WR), False, id="an end"),
        pytest.param(lambda engine: engine.close(), False, id="both sides closed"),
    ],
)
async def test_what_has_come_meanwhile(stale, taken):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        upstreams = Upstreams(ProxySettings())
        pool = EndpointPool(Endpoint(name="e", host="127.0.0.1", port=listener.getsockname()[1]), upstreams)
        loop = asyncio.get_running_loop()
        transport, connection = await loop.create_connection(lambda: UpstreamConnection(pool), *listener.getsockname())
        engine, _ = listener.accept()
        pool.put_back(connection)
        stale(engine)  # the event loop has no turn to see it
        assert (pool.take(upstreams.now) is connection) is taken
        transport.abort()
        await asyncio.sleep(0)
        engine.close()
