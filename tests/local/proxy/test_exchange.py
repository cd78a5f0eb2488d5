"""A request on its way to an engine and back: bytes, accounts and broken ends, over real sockets."""

from __future__ import annotations

import asyncio
import json

import pytest
from msgspec import structs
from tests.support.proxy import (
    ANSWER,
    CHAT,
    DONE,
    LAST,
    SSE_HEAD,
    STREAM,
    TOKEN,
    answers,
    closed_port,
    closes_after,
    code_of,
    event,
    full_backlog,
    get,
    hangs,
    json_answer,
    paced,
    post,
    stands_still,
)
from tests.support.waiting import until

from flexinfer.errors import RequestError
from flexinfer.openai.sse import Reader


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


async def test_a_refused_port_is_queued_once_and_then_answered(start):
    setup = await start(answers(json_answer()))
    good = setup.admission.endpoint
    setup.admission.endpoint = structs.replace(good, port=await closed_port())
    setup.admission.again = True
    client = await setup.client()
    client.send(post())
    await until(lambda: setup.admission.tickets and setup.admission.tickets[0].refusals == 1)
    setup.admission.tickets[0].waiter.dispatch(good)
    assert (await client.answer()).status == 200

    setup.admission.again = False
    client.send(post())
    answer = await client.answer()
    assert (answer.status, code_of(answer)) == (502, "bad_gateway")
    assert setup.admission.tickets[1].releases == [("error", 0)]


async def test_an_address_that_is_not_allowed_is_not_dialled(start):
    setup = await start(answers(json_answer()), check_address=lambda host: f"{host} is not allowed")
    client = await setup.client()
    client.send(post())
    answer = await client.answer()
    assert (answer.status, code_of(answer)) == (502, "bad_gateway")
    assert "127.0.0.1 is not allowed" in json.loads(answer.body)["error"]["message"]
    assert setup.engine.connections == 0


async def test_an_endpoint_gets_its_own_key_and_authority(start, tmp_path):
    (tmp_path / "key").write_text("sk-engine\n")
    setup = await start(answers(json_answer()))
    setup.admission.endpoint = structs.replace(
        setup.admission.endpoint, api_key_file=str(tmp_path / "key"), authority="api.example"
    )
    client = await setup.client()
    client.send(post(CHAT, "/v1/chat/completions", "Authorization: Bearer client"))
    assert (await client.answer()).status == 200
    request = setup.engine.requests[0]
    assert request.header("authorization") == ["Bearer sk-engine"]
    assert request.header("host") == ["api.example"]


async def test_a_missing_key_file_is_a_bad_gateway_that_names_no_key(start, tmp_path):
    setup = await start(answers(json_answer()))
    setup.admission.endpoint = structs.replace(setup.admission.endpoint, api_key_file=str(tmp_path / "none"))
    client = await setup.client()
    client.send(post())
    assert (await client.answer()).status == 502


async def test_the_model_is_renamed_only_where_the_engine_knows_another_name(start):
    setup = await start(answers(json_answer()), served={"m1": "org/real:7b"})
    client = await setup.client()
    client.send(post())
    assert (await client.answer()).status == 200
    request = setup.engine.requests[0]
    assert request.body == CHAT.replace(b'"m1"', b'"org/real:7b"')
    assert request.header("content-length") == [str(len(request.body))]


async def test_a_chunked_request_reaches_the_engine_with_a_length(start):
    setup = await start(answers(json_answer()))
    client = await setup.client()
    head = post(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    client.send(head)
    for at in range(0, len(CHAT), 7):
        piece = CHAT[at : at + 7]
        client.send(b"%x;ext=1\r\n%b\r\n" % (len(piece), piece))
        await asyncio.sleep(0)
    client.send(b"0\r\nX-Trailer: 1\r\n\r\n")
    assert (await client.answer()).status == 200
    request = setup.engine.requests[0]
    assert request.body == CHAT
    assert request.header("transfer-encoding") == []
    client.send(post())
    assert (await client.answer()).status == 200


async def test_a_large_body_passes_and_comes_back(start):
    body = b'{"x":"' + b"a" * 5_000_000 + b'","model":"m1"}'
    setup = await start(answers(json_answer(body)))
    client = await setup.client()
    client.send(post(body))
    answer = await client.answer()
    assert answer.body == body
    assert setup.engine.requests[0].body == body
    assert setup.server._body_bytes == 0


@pytest.mark.parametrize(
    ("raw", "status", "body"),
    [
        pytest.param(b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, b"hello", id="HTTP/1.0 with a length"),
        pytest.param(b"HTTP/1.0 200 OK\r\n\r\nhello", 200, b"hello", id="HTTP/1.0 that ends by closing"),
        pytest.param(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello", 200, b"hello", id="an end by closing"),
        pytest.param(b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", id="204"),
        pytest.param(b"HTTP/1.1 400 Bad\r\nContent-Length: 2\r\n\r\n{}", 400, b"{}", id="the engine's own 400"),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n" * 3 + json_answer(b"{}"), 200, b"{}", id="interim answers"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: X-Hop\r\nX-Hop: 1\r\n\r\n", 200, b"", id="empty"
        ),
        pytest.param(json_answer() + json_answer(b"second"), 200, ANSWER, id="a second answer in the pipe"),
    ],
)
async def test_answers_of_all_kinds(start, raw, status, body):
    setup = await start(closes_after(raw))
    client = await setup.client()
    for _ in range(2):
        client.send(post())
        answer = await client.answer()
        assert (answer.status, answer.body, answer.whole) == (status, body, True)
        assert answer.header("x-hop") == []
    assert setup.engine.connections == 2


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Le", id="half a head"),
        pytest.param(b"garbage\r\n\r\n", id="garbage"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", id="CL and TE"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX: a\rb\r\n\r\n", id="a bare CR in a field"),
        pytest.param(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", id="a switch of protocols"),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000, id="a thousand interim answers"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000, id="an endless head"),
    ],
)
@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
async def test_answers_that_are_no_http_are_a_bad_gateway(start, raw, reset):
    setup = await start(closes_after(raw, reset=reset))
    client = await setup.client()
    client.send(post())
    answer = await client.answer()
    assert (answer.status, code_of(answer)) == (502, "bad_gateway")
    assert setup.admission.tickets[0].releases == [("error", 0)]
    client.send(get("/healthz"))
    assert (await client.answer()).status == 200


STREAM_BODY = event(TOKEN) + event(TOKEN)


@pytest.mark.parametrize(
    ("rest", "text"),
    [
        pytest.param(b"", b"", id="between two events"),
        pytest.param(b"2", b"", id="inside a chunk size"),
        pytest.param(b"20\r\ndata: {", b"data: {", id="inside a chunk"),
        pytest.param(b"fffff\r\ndata: {", b"data: {", id="inside a huge chunk"),
        pytest.param(b"8\r\ndata: {}\r", b"data: {}", id="inside the end of a chunk"),
        pytest.param(b"0\r\n", b"", id="inside the last chunk"),
        pytest.param(LAST, b"", id="by a clean end without DONE"),
        pytest.param(b"zz\r\n", b"", id="by a malformed chunk"),
    ],
)
@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
async def test_a_stream_that_breaks_ends_with_an_error_event_and_never_cleanly(start, rest, text, reset):
    setup = await start(paced(SSE_HEAD + STREAM_BODY, rest, reset=reset))
    client = await setup.client()
    client.send(post(STREAM))
    answer = await client.answer()
    assert not answer.whole
    good = b"data: " + TOKEN + b"\n\n" + b"data: " + TOKEN + b"\n\n"
    assert answer.body.startswith(good + text)
    assert b"[DONE]" not in answer.body
    events = Reader().feed(answer.body)
    assert events[-1].event == b"error"
    assert json.loads(events[-1].data)["error"]["code"] == "bad_gateway"
    ticket = setup.admission.tickets[0]
    await ticket.released.wait()
    assert ticket.releases == [("error", 2)]


async def test_an_engines_own_error_event_is_passed_on_and_accounted(start):
    body = event(TOKEN) + event(b'{"error":{"message":"out of memory"}}') + DONE + LAST
    setup = await start(answers(SSE_HEAD + body))
    client = await setup.client()
    client.send(post(STREAM))
    answer = await client.answer()
    assert (answer.raw_body, answer.whole) == (body, True)
    assert setup.admission.tickets[0].releases[0][0] == "error"


async def test_a_json_answer_that_breaks_is_cut(start):
    setup = await start(closes_after(json_answer()[:-10]))
    client = await setup.client()
    client.send(post())
    answer = await client.answer()
    assert (answer.status, answer.body, answer.whole) == (200, ANSWER[:-10], False)
    assert setup.admission.tickets[0].releases == [("error", 3)] or setup.admission.tickets[0].releases == [
        ("error", 0)
    ]


async def test_an_old_client_gets_a_stream_without_chunks(start):
    setup = await start(answers(SSE_HEAD + event(TOKEN) + DONE + LAST))
    client = await setup.client()
    client.send(post(STREAM).replace(b"HTTP/1.1", b"HTTP/1.0"))
    answer = await client.answer()
    assert answer.header("transfer-encoding") == []
    assert answer.body == b"data: " + TOKEN + b"\n\ndata: [DONE]\n\n"


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("phase", ["queued", "before the first byte", "mid-stream", "non-streaming"])
async def test_a_client_that_leaves_closes_the_upstream_and_frees_its_slot(start, phase, reset):
    async def streams_and_hangs(engine, reader, writer):
        writer.write(SSE_HEAD + event(TOKEN))
        await reader.read()

    setup = await start(streams_and_hangs if phase == "mid-stream" else hangs, cold=phase == "queued")
    client = await setup.client()
    client.send(post(CHAT if phase == "non-streaming" else STREAM))
    if phase == "queued":
        await until(lambda: setup.admission.tickets)
    else:
        await setup.engine.arrived.wait()
    if phase == "mid-stream":
        await client.reader.readuntil(b"\n\n")
    ticket = setup.admission.tickets[0]
    setup.engine.lost.clear()
    if reset:
        client.writer.transport.abort()
    else:
        client.close()
    await asyncio.wait_for(ticket.released.wait(), 1)
    assert ticket.releases[0][0] == "cancelled"
    if phase != "queued":
        await asyncio.wait_for(setup.engine.lost.wait(), 1)


async def test_a_slow_client_slows_the_engine_and_loses_nothing(start):
    size = 20_000_000
    sent = 0

    async def floods(engine, reader, writer):
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size // 100_000):
            writer.write(b"x" * 100_000)
            await writer.drain()
            sent += 100_000

    setup = await start(floods, write_buffer_bytes=64 * 1024)
    reader, writer = await asyncio.open_connection("127.0.0.1", setup.port, limit=64 * 1024)
    writer.write(post())
    await reader.readuntil(b"\r\n\r\n")
    await stands_still(lambda: sent)
    assert sent < size
    connection = next(iter(setup.server._connections))
    assert connection.transport.get_write_buffer_size() < 1024 * 1024
    assert len(await reader.readexactly(size)) == size
    writer.close()


@pytest.mark.parametrize(
    ("settings", "script", "status"),
    [
        pytest.param({"first_byte_timeout_s": 0.1}, hangs, 504, id="no first byte"),
        pytest.param({"total_timeout_s": 0.1}, hangs, 504, id="the total"),
        pytest.param({"connect_timeout_s": 0.1}, None, 502, id="no connection"),
    ],
)
async def test_time_is_up_before_the_first_byte(start, settings, script, status):
    setup = await start(script or hangs, sweep_interval_s=0.02, **settings)
    if script is None:
        setup.admission.endpoint, blocked = await full_backlog()
    client = await setup.client()
    client.send(post())
    answer = await client.answer()
    assert (answer.status, code_of(answer)) == (status, "upstream_timeout" if status == 504 else "bad_gateway")
    assert setup.admission.tickets[0].releases == [("error", 0)]
    assert setup.admission.tickets[0].timeouts == ("first_byte_timeout_s" in settings)
    if script is not None:
        await asyncio.wait_for(setup.engine.lost.wait(), 5)
    if script is None:
        for sock in blocked:
            sock.close()


@pytest.mark.parametrize(
    "settings", [{"stream_idle_timeout_s": 0.1}, {"total_timeout_s": 0.3}], ids=["silence", "pings past the total"]
)
async def test_time_is_up_in_a_stream(start, settings):
    async def pings(engine, reader, writer):
        writer.write(SSE_HEAD + event(TOKEN))
        while "total_timeout_s" in settings and not writer.is_closing():
            writer.write(b"8\r\n: ping\n\n\r\n")
            await asyncio.sleep(0.05)
        await reader.read()

    setup = await start(pings, sweep_interval_s=0.02, **settings)
    client = await setup.client()
    client.send(post(STREAM))
    answer = await client.answer()
    assert not answer.whole
    assert json.loads(Reader().feed(answer.body)[-1].data)["error"]["code"] == "upstream_timeout"
    assert setup.admission.tickets[0].timeouts == ("stream_idle_timeout_s" in settings)
    await asyncio.wait_for(setup.engine.lost.wait(), 1)


@pytest.mark.parametrize(
    ("piece", "counts"),
    [
        pytest.param(event(TOKEN), False, id="the engine goes on with another stream"),
        pytest.param(b"8\r\n: ping\n\n\r\n", True, id="comments alone are no work"),
        pytest.param(b"", True, id="the other one is silent too"),
    ],
)
async def test_who_waits_while_the_engine_works_for_another_says_nothing_against_it(start, piece, counts):
    async def one_at_a_time(engine, reader, writer):
        if len(engine.requests) == 1:
            writer.write(SSE_HEAD)
            while not writer.is_closing():
                writer.write(piece)
                await asyncio.sleep(0.02)
        await reader.read()

    setup = await start(one_at_a_time, sweep_interval_s=0.02, first_byte_timeout_s=0.3)
    first, second = await setup.client(), await setup.client()
    first.send(post(STREAM))
    await until(lambda: len(setup.engine.requests) == 1)
    second.send(post())
    assert code_of(await second.answer()) == "upstream_timeout"
    assert setup.admission.tickets[1].timeouts == counts


async def test_a_pooled_connection_that_was_idle_too_long_is_not_used_again(start):
    setup = await start(answers(json_answer()), upstream_idle_s=0.05, sweep_interval_s=0.02)
    client = await setup.client()
    client.send(post())
    await client.answer()
    await asyncio.wait_for(setup.engine.lost.wait(), 2)
    client.send(post())
    assert (await client.answer()).status == 200
    assert setup.engine.connections == 2


async def test_bytes_that_nobody_asked_for_close_the_pooled_connection(start):
    async def talks_on(engine, reader, writer):
        writer.write(json_answer())
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.write(json_answer(b"late"))

    setup = await start(talks_on)
    client = await setup.client()
    for _ in range(2):
        setup.engine.lost.clear()
        client.send(post())
        assert (await client.answer()).body == ANSWER
        await asyncio.wait_for(setup.engine.lost.wait(), 2)
    assert setup.engine.connections == 2


async def test_a_compressed_stream_is_left_alone(start):
    raw = SSE_HEAD.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n") + b"3\r\n\x1f\x8b\x08\r\n" + LAST
    setup = await start(answers(raw))
    client = await setup.client()
    client.send(post(STREAM, "/v1/chat/completions", "Accept-Encoding: gzip"))
    answer = await client.answer()
    assert (answer.body, answer.whole) == (b"\x1f\x8b\x08", True)
    assert setup.engine.requests[0].header("accept-encoding") == []
