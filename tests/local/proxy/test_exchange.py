"""A request on its way to an engine and back: bytes, accounts and broken ends, over real sockets."""

from __future__ import annotations

import asyncio
import json

from tests.support.proxy import (
    ANSWER,
    CHAT,
    DONE,
    LAST,
    SSE_HEAD,
    STREAM,
    TOKEN,
    answers,
    event,
    get,
    json_answer,
    post,
)

from flexinfer.errors import RequestError


async def test_a_json_answer_comes_back_byte_for_byte_and_is_accounted(start):
    setup = await start(answers(json_answer()))
    client = await setup.client()
    client.send(post(CHAT, "/v1/chat/completions", "Authorization: Bearer secret", "X-Custom: 1", "TE: trailers"))
    answer = await client.answer()
    assert (answer.status, answer.body) == (200, ANSWER)
    request = setup.engine.requests[0]
    assert request.body == CHAT
    assert request.header("authorization") == []
    assert request.header("te") == []
    assert request.header("x-custom") == ["1"]
    assert request.header("host") == [f"127.0.0.1:{setup.engine.port}"]
    assert request.header("x-request-id") == answer.header("x-request-id")
    assert setup.admission.tickets[0].releases == [("success", 3)]
    assert setup.admission.tickets[0].first_bytes == 1


async def test_two_connections_are_kept_open_for_a_hundred_requests(start):
    setup = await start(answers(json_answer()))
    client = await setup.client()
    for _ in range(100):
        client.send(post())
        assert (await client.answer()).status == 200
    assert setup.engine.connections == 1


async def test_a_stream_passes_in_its_own_chunks(start):
    body = event(TOKEN) + event(TOKEN) + event(b'{"choices":[],"usage":{"completion_tokens":2}}') + DONE + LAST
    setup = await start(answers(SSE_HEAD + body))
    client = await setup.client()
    client.send(post(STREAM))
    answer = await client.answer()
    assert answer.whole
    assert answer.raw_body == body
    assert setup.admission.tickets[0].releases == [("success", 2)]
    client.send(post(STREAM))
    assert (await client.answer()).raw_body == body
    assert setup.engine.connections == 1


async def test_a_cold_request_waits_for_its_endpoint(start):
    setup = await start(answers(json_answer()), cold=True)
    client = await setup.client()
    client.send(post())
    while not setup.admission.tickets:
        await asyncio.sleep(0.01)
    assert setup.engine.requests == []
    setup.admission.tickets[0].waiter.dispatch(setup.engine.endpoint)
    assert (await client.answer()).status == 200


async def test_a_cold_request_is_told_why_it_failed(start):
    setup = await start(answers(json_answer()), cold=True)
    client = await setup.client()
    client.send(post())
    while not setup.admission.tickets:
        await asyncio.sleep(0.01)
    error = RequestError(503, "model_loading", "Loading: 40 %", retry_after_s=300)
    setup.admission.tickets[0].waiter.reject(error)
    answer = await client.answer()
    assert answer.status == 503
    assert answer.header("retry-after") == ["60"]
    assert json.loads(answer.body)["error"]["code"] == "model_loading"
    client.send(get("/healthz"))
    assert (await client.answer()).status == 200
