"""A pooled connection on which something has come that was not read yet is not taken for the next request."""

from __future__ import annotations

import asyncio
import socket

import pytest
from tests.support.proxy import DONE, LAST, SSE_HEAD, STREAM, TOKEN, answers, event, post

from flexinfer.proxy import upstream
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


WHOLE = SSE_HEAD + event(TOKEN) + DONE + LAST


async def closes_behind_a_stream(engine, reader, writer):
    """Without a word in the head, and a moment late: what comes meanwhile is read and thrown away."""
    writer.write(WHOLE)
    await asyncio.sleep(0.01)
    writer.get_extra_info("socket").shutdown(socket.SHUT_WR)
    await reader.read()
    writer.close()


async def test_a_request_never_meets_the_close_behind_a_stream(start):
    setup = await start(closes_behind_a_stream)
    client = await setup.client()
    for _ in range(10):
        client.send(post(STREAM))
        answer = await client.answer()
        assert (answer.status, answer.whole) == (200, True)
    assert (setup.engine.connections, len(setup.engine.requests)) == (10, 10)


async def test_once_seen_to_stay_open_behind_a_stream_connections_are_used_again_at_once(start):
    setup = await start(answers(WHOLE))
    client = await setup.client()
    for wait_s in (upstream.REST_S + 0.1, 0.0, 0.0, 0.0):
        client.send(post(STREAM))
        assert (await client.answer()).whole
        await asyncio.sleep(wait_s)
    assert (setup.engine.connections, len(setup.engine.requests)) == (1, 4)
