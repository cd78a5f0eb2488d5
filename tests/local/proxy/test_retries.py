"""A request is sent again only where no engine can have begun it, over real sockets and the kernel's own count."""

from __future__ import annotations

import asyncio
import socket
import struct

import pytest
from tests.support.proxy import CHAT, Engine, answers, code_of, json_answer, post
from tests.support.waiting import until

from flexinfer.proxy.retries import bytes_acked
from flexinfer.proxy.upstream import UpstreamConnection

LINGER_0 = struct.pack("ii", 1, 0)


class Failing:
    """Answers the first request of a connection; breaks the second one as told."""

    def __init__(self, *, reset: bool) -> None:
        self.reset = reset

    async def __call__(self, engine: Engine, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(engine.requests) == 1:
            writer.write(json_answer())
            await writer.drain()
            return
        if self.reset:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_0)
        writer.close()


async def closed_while_pooled(setup, client) -> None:
    """The engine closes the pooled connection between the proxy's look at it and the next request."""
    client.send(post(CHAT))
    assert (await client.answer()).status == 200
    pool = setup.server.upstreams.pool(setup.engine.endpoint)
    pooled = pool.take(setup.server.read_clock())
    assert pooled is not None
    pooled.transport.pause_reading()
    pooled._readable.unregister(pooled.transport.get_extra_info("socket").fileno())
    pool.put_back(pooled)
    setup.engine.close_connections()
    await asyncio.sleep(0.02)
    client.send(post(CHAT))
    await asyncio.sleep(0.02)
    pooled.transport.resume_reading()


async def test_f43_a_pooled_connection_that_was_closed_is_replaced_once_and_the_post_begun_once(start):
    setup = await start(answers(json_answer()), upstream_idle_s=60.0)
    client = await setup.client()
    await closed_while_pooled(setup, client)
    assert (await client.answer()).status == 200
    assert (len(setup.engine.requests), setup.engine.connections) == (2, 2)
    ticket = setup.admission.tickets[1]
    assert (ticket.retries, ticket.refusals, ticket.releases) == (["stale_connection"], 0, [("success", 3)])


async def test_without_budget_the_client_is_told(start):
    setup = await start(answers(json_answer()), upstream_idle_s=60.0)
    for _ in range(3):
        assert setup.server.may_retry()
    assert not setup.server.may_retry()
    client = await setup.client()
    await closed_while_pooled(setup, client)
    answer = await client.answer()
    assert (answer.status, code_of(answer)) == (502, "bad_gateway")
    assert len(setup.engine.requests) == 1


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
async def test_a_post_that_the_engine_has_read_is_never_sent_again(start, reset):
    setup = await start(Failing(reset=reset))
    client = await setup.client()
    client.send(post(CHAT))
    assert (await client.answer()).status == 200
    client.send(post(CHAT))
    answer = await client.answer()
    assert (answer.status, code_of(answer)) == (502, "bad_gateway")
    assert len(setup.engine.requests) == 2
    assert setup.admission.tickets[1].retries == []


async def test_a_connection_that_is_lost_before_it_is_handed_over_is_one_that_was_refused(start, monkeypatch):
    """The kernel of an engine that is killed takes connections up to its last moment."""
    made = UpstreamConnection.connection_made
    broken: list[UpstreamConnection] = []

    def breaks_once(self: UpstreamConnection, transport: asyncio.Transport) -> None:
        made(self, transport)
        if not broken:
            broken.append(self)
            transport.abort()

    monkeypatch.setattr(UpstreamConnection, "connection_made", breaks_once)
    setup = await start(answers(json_answer()))
    setup.admission.again = True
    client = await setup.client()
    client.send(post(CHAT))
    await until(lambda: setup.admission.tickets and setup.admission.tickets[0].refusals == 1)
    setup.admission.tickets[0].waiter.dispatch(setup.engine.endpoint)
    assert (await client.answer()).status == 200
    assert len(setup.engine.requests) == 1


async def test_bytes_that_the_peer_has_are_counted(start):
    listener = socket.create_server(("127.0.0.1", 0))
    sock = socket.create_connection(listener.getsockname())
    other, _ = listener.accept()
    assert bytes_acked(sock) == 0
    sock.sendall(b"x" * 1000)
    await until(lambda: bytes_acked(sock) == 1000)
    for each in (listener, sock, other):
        each.close()
    with socket.socket(socket.AF_UNIX) as local:
        assert bytes_acked(local) is None
