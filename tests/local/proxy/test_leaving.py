"""A proxy that leaves the others: ready no more, it serves whoever comes, and closes no connection unannounced."""

from __future__ import annotations

import asyncio

import pytest
from tests.support.proxy import SSE_HEAD, TOKEN, answers, code_of, event, get, json_answer, post


async def test_whoever_comes_is_served_and_told_to_come_back_elsewhere(start):
    setup = await start(answers(json_answer()))
    client = await setup.client()
    setup.server.begin_leaving()
    client.send(get("/readyz"))
    answer = await client.answer()
    assert (answer.status, code_of(answer), answer.header("connection")) == (503, "shutting_down", ["close"])
    assert await client.closed()
    late = await setup.client()
    late.send(post())
    answer = await late.answer()
    assert (answer.status, answer.header("connection")) == (200, ["close"])
    assert await late.closed()


async def test_a_connection_whose_answer_had_begun_stays_until_it_is_told(start):
    """A client that had no reason to expect its end would send the next request into it."""
    go = asyncio.Event()

    async def stream(engine, reader, writer):
        writer.write(SSE_HEAD + event(TOKEN))
        await go.wait()
        writer.write(event(b"[DONE]") + b"0\r\n\r\n")

    setup = await start(stream)
    client = await setup.client()
    client.send(post())
    await client.reader.readuntil(b"\r\n\r\n")
    setup.server.begin_leaving()
    go.set()
    rest = await client.reader.readuntil(b"0\r\n\r\n")
    assert b"[DONE]" in rest
    setup.engine.script = answers(json_answer())
    client.send(post())
    answer = await client.answer()
    assert (answer.status, answer.header("connection")) == (200, ["close"])


async def test_in_the_end_it_refuses_and_closes(start):
    setup = await start(answers(json_answer()))
    idle = await setup.client()
    idle.send(get("/healthz"))
    assert (await idle.answer()).status == 200
    setup.server.begin_leaving()
    assert await setup.server.drain(1.0) == 0
    assert await idle.closed()
    with pytest.raises(ConnectionError):
        await setup.client()
