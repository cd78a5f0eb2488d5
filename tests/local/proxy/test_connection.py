"""A client's connection, byte by byte: what is answered, what is refused, and that the next request is served."""

from __future__ import annotations

import asyncio
import json

import pytest
from tests.support.proxy import (
    ANSWER,
    CHAT,
    DONE,
    LAST,
    SSE_HEAD,
    STREAM,
    TOKEN,
    answers,
    code_of,
    event,
    get,
    hangs,
    json_answer,
    post,
)
from tests.support.waiting import until

H = b"Host: a\r\nContent-Type: application/json\r\n"
P = b"POST /v1/chat/completions HTTP/1.1\r\n" + H
SMUGGLED = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"

REFUSED = [
    (P + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED, 400, "CL.TE"),
    (P + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + SMUGGLED, 400, "TE.CL"),
    (P + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + SMUGGLED, 400, "a space before the colon"),
    (P + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + SMUGGLED, 400, "an obfuscated coding"),
    (P + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n" + SMUGGLED, 400, "a folded coding"),
    (P + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n", 400, "two codings"),
    (P + b"Content-Length: 59\r\nContent-Length: 0\r\n\r\n" + CHAT, 400, "two lengths"),
    (P + b"Content-Length: +59\r\n\r\n" + CHAT, 400, "a length with a sign"),
    (P + b"Content-Length: 5_9\r\n\r\n" + CHAT, 400, "a length with an underscore"),
    (P + b"Content-Length: 999999999999999999999\r\n\r\n" + CHAT, 400, "a length past 64 bits"),
    (P + b"Content-Length: 999999999\r\n\r\n" + CHAT, 413, "a length past the limit"),
    (P + b"Transfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n", 400, "a chunk size with 0x"),
    (P + b"Transfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n", 400, "a chunk size with a bare LF"),
    (P + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n", 400, "a chunk size that overflows"),
    (P + b"Transfer-Encoding: chunked\r\n\r\n5;a\x00\r\nhello\r\n0\r\n\r\n", 400, "a NUL in a chunk extension"),
    (P + b"Transfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 5\r\n\r\n", 400, "a forbidden trailer"),
    (P + b"X: a\x00b\r\n\r\n", 400, "a NUL"),
    (P + b"X: a\nY: b\r\n\r\n", 400, "a bare LF"),
    (P + b"X: a\rY: b\r\n\r\n", 400, "a bare CR"),
    (P + b"X: a\r\n b\r\n\r\n", 400, "a folded line"),
    (P + b"no colon\r\n\r\n", 400, "no colon"),
    (P + b"Host: b\r\n\r\n", 400, "two hosts"),
    (b"POST / HTTP/1.1\r\n\r\n", 400, "no host"),
    (b"POST / HTTP/1.1\r\nHost: a@b\r\n\r\n", 400, "a user in the host"),
    (b"POST  / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "two spaces"),
    (b"GET /\r\n\r\n", 400, "HTTP/0.9"),
    (b"GET / HTTP/3.0\r\nHost: a\r\n\r\n", 400, "HTTP/3.0"),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "the preface of HTTP/2"),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "a TLS hello"),
    (b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", 400, "CONNECT"),
    (b"FOO /healthz HTTP/1.1\r\nHost: a\r\n\r\n", 400, "an unknown method"),
    (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 431, "a target of 70 KB"),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 70_000, 431, "a head of 70 KB without end"),
    (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 200 + b"\r\n", 431, "200 fields"),
    (b"POST /nowhere HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nx", 404, "a body for an unknown path"),
    (b"PUT /v1/models HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nx", 405, "a body for a wrong method"),
    (P + b"Expect: magic\r\nContent-Length: 59\r\n\r\n" + CHAT, 400, "an unknown expectation"),
]


@pytest.mark.parametrize(("raw", "status"), [pytest.param(raw, status, id=name) for raw, status, name in REFUSED])
async def test_a_refused_request_closes_its_connection_and_reaches_no_engine(start, raw, status):
    setup = await start(answers(json_answer()))
    client = await setup.client()
    client.send(raw)
    answer = await client.answer()
    assert answer.status == status
    assert answer.header("connection") == ["close"]
    assert json.loads(answer.body)["error"]["message"].isprintable()
    assert await client.closed()
    assert setup.engine.requests == []
    assert setup.admission.tickets == []
    other = await setup.client()
    other.send(post())
    assert (await other.answer()).status == 200


KEPT = [
    (post(b"{"), 400, "invalid_request_body", "a body that is no JSON"),
    (post(b'{"x":1}'), 400, "missing_required_field", "no model"),
    (post(b'{"model":"other"}'), 404, "model_not_found", "an unknown model"),
    (post().replace(b"application/json", b"text/plain"), 415, "unsupported_media_type", "another content type"),
    (post(CHAT, "/v1/load_lora_adapter"), 404, "not_found", "an admin route of an engine"),
    (get("/v1/chat/completions"), 405, "method_not_allowed", "GET on chat"),
    (get("/v1/models/none"), 404, "model_not_found", "an unknown model in the path"),
    (get("/healthz/../v1/models"), 404, "not_found", "dot segments"),
    (get("/nothing", method="TRACE"), 404, "not_found", "TRACE"),
]


@pytest.mark.parametrize(
    ("raw", "status", "code"), [pytest.param(raw, status, code, id=name) for raw, status, code, name in KEPT]
)
async def test_a_wrong_request_is_answered_and_the_connection_goes_on(start, raw, status, code):
    setup = await start(answers(json_answer()))
    client = await setup.client()
    client.send(raw)
    answer = await client.answer()
    assert (answer.status, code_of(answer)) == (status, code)
    client.send(post())
    assert (await client.answer()).status == 200
    assert len(setup.engine.requests) == 1


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(post(), id="plain"),
        pytest.param(b"\r\n" + post(), id="after an empty line"),
        pytest.param(post(CHAT, "http://elsewhere/v1/chat/completions"), id="absolute form"),
        pytest.param(
            post(CHAT, "/v1/chat/completions", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c"), id="h2c"
        ),
        pytest.param(post(CHAT, "/v1/chat/completions", "Connection: x", "X: 1"), id="Connection names a field"),
        pytest.param(post(CHAT, "/v1/chat/completions?x=1"), id="a query"),
    ],
)
@pytest.mark.parametrize("step", [1, 10_000], ids=["byte by byte", "at once"])
async def test_odd_but_good_requests_are_served(start, raw, step):
    setup = await start(answers(json_answer()))
    client = await setup.client()
    for _ in range(2):
        for at in range(0, len(raw), step):
            client.send(raw[at : at + step])
            if step == 1:
                await asyncio.sleep(0)
        assert (await client.answer()).body == ANSWER
    assert [r.body for r in setup.engine.requests] == [CHAT, CHAT]
    assert not {"upgrade", "http2-settings", "x"} & {
        line.split(b":")[0].decode().lower() for line in setup.engine.requests[0].head.split(b"\r\n")
    }


async def test_requests_sent_ahead_are_answered_in_order(start):
    setup = await start(answers(json_answer()))
    client = await setup.client()
    client.send(get("/healthz") + post() + get("/v1/models") + post() + get("/healthz", "Connection: close"))
    assert (await client.answer()).body == b'{"status":"ok"}'
    assert (await client.answer()).body == ANSWER
    assert json.loads((await client.answer()).body)["object"] == "list"
    assert (await client.answer()).body == ANSWER
    assert (await client.answer()).header("connection") == ["close"]
    assert await client.closed()


async def test_many_requests_sent_ahead_are_bounded_and_all_answered(start):
    setup = await start(answers(json_answer()))
    client = await setup.client()
    client.send(get("/healthz") * 3000)
    for _ in range(3000):
        assert (await client.answer()).status == 200


async def test_expect_100_continue(start):
    setup = await start(answers(json_answer()))
    client = await setup.client()
    raw = post(CHAT, "/v1/chat/completions", "Expect: 100-continue")
    client.send(raw[: -len(CHAT)])
    assert (await client.answer()).status == 100
    client.send(CHAT)
    assert (await client.answer()).status == 200
    assert setup.engine.requests[0].header("expect") == []


async def test_an_expectation_of_a_body_that_is_refused_is_not_continued(start):
    setup = await start(answers(json_answer()), max_body_bytes=10)
    client = await setup.client()
    client.send(post(CHAT, "/v1/chat/completions", "Expect: 100-continue")[: -len(CHAT)])
    answer = await client.answer()
    assert (answer.status, code_of(answer)) == (413, "request_too_large")


@pytest.mark.parametrize("framing", ["length", "chunks"])
async def test_a_body_past_the_limit_is_told_though_the_client_is_still_sending(start, framing):
    setup = await start(answers(json_answer()), max_body_bytes=100_000)
    client = await setup.client()
    if framing == "length":
        client.send(post(b"").replace(b"Content-Length: 0", b"Content-Length: 5000000"))
    else:
        client.send(post(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked"))
    for _ in range(30):
        client.send(b"2710\r\n" + b"x" * 10_000 + b"\r\n")
    answer = await client.answer()
    assert (answer.status, code_of(answer)) == (413, "request_too_large")
    assert setup.server._body_bytes == 0


async def test_bodies_above_the_memory_for_them_are_refused(start):
    setup = await start(answers(json_answer()), body_memory_bytes=150_000)
    first, second = await setup.client(), await setup.client()
    raw = post(b'{"model":"m1","x":"' + b"a" * 100_000 + b'"}')
    first.send(raw[:60_000])
    await until(lambda: setup.server._body_bytes > 50_000)
    second.send(raw[:1000])
    answer = await second.answer()
    assert (answer.status, code_of(answer)) == (503, "overloaded")
    first.send(raw[60_000:])
    assert (await first.answer()).status == 200
    assert setup.server._body_bytes == 0


async def test_bodies_that_trickle_take_no_memory_from_others(start):
    setup = await start(answers(json_answer()), body_memory_bytes=150_000)
    raw = post(b'{"model":"m1","x":"' + b"a" * 100_000 + b'"}')
    for _ in range(20):
        trickling = await setup.client()
        trickling.send(raw[:300])
    await until(lambda: setup.server._body_bytes)
    client = await setup.client()
    client.send(raw)
    assert (await client.answer()).status == 200


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/m1", "/v1/models/none"])
async def test_head_requests_have_no_body(start, path):
    setup = await start(answers(json_answer()))
    client = await setup.client()
    client.send(get(path) + get(path, method="HEAD"))
    whole = await client.answer()
    answer = await client.answer(head_request=True)
    assert (answer.status, answer.header("content-length")) == (whole.status, [str(len(whole.body))])
    client.send(get("/healthz"))
    assert (await client.answer()).body == b'{"status":"ok"}'


async def test_models_are_listed_and_found_by_ids_with_slashes(start):
    setup = await start(answers(json_answer()), served={"m1": None, "acme/tiny:v1": None})
    client = await setup.client()
    client.send(get("/v1/models"))
    listed = json.loads((await client.answer()).body)
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == ["m1", "acme/tiny:v1"]
    one = listed["data"][1]
    assert (one["object"], one["owned_by"], one["root"], one["ready"]) == ("model", "flexinfer", "acme/tiny:v1", True)
    for path in ("/v1/models/acme/tiny:v1", "/v1/models/acme%2Ftiny%3Av1"):
        client.send(get(path))
        assert json.loads((await client.answer()).body) == one


async def test_health_readiness_and_metrics(start):
    setup = await start(answers(json_answer()))
    client = await setup.client()
    client.send(get("/"))
    found = json.loads((await client.answer()).body)
    assert (found["service"], "GET, HEAD /v1/models" in found["endpoints"]) == ("flexinfer", True)
    client.send(get("/metrics"))
    answer = await client.answer()
    assert (answer.body, answer.header("content-type")) == (b"m 1\n", ["text/plain; version=0.0.4; charset=utf-8"])
    client.send(get("/readyz"))
    assert (await client.answer()).status == 200
    setup.admission.is_draining = True
    client.send(get("/readyz"))
    answer = await client.answer()
    assert (answer.status, code_of(answer)) == (503, "shutting_down")
    client.send(get("/healthz"))
    assert (await client.answer()).status == 200


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        pytest.param("abc-DEF_1.2", True, id="a harmless id is kept"),
        pytest.param('a"b', False, id="quotes are not"),
        pytest.param("a" * 200, False, id="a long one is not"),
    ],
)
async def test_request_ids(start, sent, kept):
    setup = await start(answers(json_answer()))
    client = await setup.client()
    client.send(post(CHAT, "/v1/chat/completions", f"X-Request-ID: {sent}"))
    answer = await client.answer()
    [request_id] = answer.header("x-request-id")
    assert (request_id == sent) is kept
    assert setup.engine.requests[0].header("x-request-id") == [request_id]


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        pytest.param(b"", None, id="nothing"),
        pytest.param(b"POST /v1/chat/completions HTTP/1.1\r\nHo", 408, id="half a head"),
        pytest.param(post()[:-10], 408, id="half a body"),
    ],
)
async def test_slow_requests(start, raw, status):
    setup = await start(
        answers(json_answer()), header_timeout_s=0.1, body_timeout_s=0.1, keepalive_timeout_s=0.1, sweep_interval_s=0.02
    )
    client = await setup.client()
    client.send(raw)
    if status is not None:
        answer = await client.answer()
        assert (answer.status, code_of(answer)) == (status, "request_timeout")
    assert await asyncio.wait_for(client.closed(), 3)
    await until(lambda: not setup.server._connections)


async def test_an_idle_connection_is_closed_after_its_time(start):
    setup = await start(answers(json_answer()), keepalive_timeout_s=0.1, sweep_interval_s=0.02)
    client = await setup.client()
    client.send(get("/healthz"))
    await client.answer()
    assert await asyncio.wait_for(client.closed(), 3)


async def test_header_bytes_that_trickle_do_not_extend_their_time(start):
    setup = await start(answers(json_answer()), header_timeout_s=0.2, sweep_interval_s=0.02)
    client = await setup.client()
    loop = asyncio.get_running_loop()
    begin = loop.time()
    reading = asyncio.create_task(client.answer())
    while not reading.done():
        client.send(b"A")
        await asyncio.sleep(0.02)
    assert (await reading).status == 408
    assert loop.time() - begin < 2


async def test_a_client_that_takes_nothing_is_cut_off(start):
    async def floods(engine, reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
        while True:
            writer.write(b"x" * 100_000)
            await writer.drain()

    setup = await start(floods, client_stall_timeout_s=0.2, sweep_interval_s=0.02, write_buffer_bytes=64 * 1024)
    _, writer = await asyncio.open_connection("127.0.0.1", setup.port, limit=1024)
    writer.write(post())
    await until(lambda: setup.admission.tickets)
    await asyncio.wait_for(setup.admission.tickets[0].released.wait(), 5)
    assert setup.admission.tickets[0].releases[0][0] == "cancelled"
    await asyncio.wait_for(setup.engine.lost.wait(), 1)
    writer.close()


async def test_connections_above_the_limit_are_told_so(start):
    setup = await start(answers(json_answer()), max_connections=2)
    clients = [await setup.client() for _ in range(3)]
    await until(lambda: len(setup.server._connections) == 3)
    answer = await clients[2].answer()
    assert (answer.status, code_of(answer), answer.header("retry-after")) == (503, "overloaded", ["5"])
    assert await clients[2].closed()
    clients[0].send(post())
    assert (await clients[0].answer()).status == 200


async def test_a_hundred_silent_engines_do_not_slow_the_model_list(start):
    setup = await start(hangs)
    waiting = [await setup.client() for _ in range(100)]
    for client in waiting:
        client.send(post())
    client = await setup.client()
    async with asyncio.timeout(2):
        for _ in range(20):
            client.send(get("/v1/models"))
            assert (await client.answer()).status == 200


async def test_drain_lets_open_streams_finish_and_refuses_new_requests(start):
    go = asyncio.Event()

    async def waits(engine, reader, writer):
        writer.write(SSE_HEAD + event(TOKEN))
        await go.wait()
        writer.write(event(TOKEN) + DONE + LAST)

    setup = await start(waits)
    streams = [await setup.client() for _ in range(50)]
    idle = await setup.client()
    idle.send(get("/healthz"))
    await idle.answer()
    for client in streams:
        client.send(post(STREAM))
    await until(lambda: len(setup.engine.requests) == 50)
    setup.server.begin_drain()
    late = await setup.client()
    late.send(post())
    answer = await late.answer()
    assert (answer.status, code_of(answer), answer.header("connection")) == (503, "shutting_down", ["close"])
    draining = asyncio.create_task(setup.server.drain(10))
    assert await idle.closed()
    with pytest.raises(ConnectionError):
        await setup.client()
    go.set()
    assert await draining == 0
    for client in streams:
        answer = await client.answer()
        assert answer.whole
        assert answer.body.endswith(b"[DONE]\n\n")
    assert {t.releases[0] for t in setup.admission.tickets} == {("success", 2)}


async def test_drain_cuts_what_is_left_when_its_grace_is_over(start):
    async def endless(engine, reader, writer):
        writer.write(SSE_HEAD + event(TOKEN))
        await reader.read()

    setup = await start(endless)
    streaming, waiting = await setup.client(), await setup.client()
    streaming.send(post(STREAM))
    await streaming.reader.readuntil(b"\r\n\r\n")
    setup.engine.script = hangs
    waiting.send(post())
    await until(lambda: len(setup.engine.requests) == 2)
    assert await setup.server.drain(0.05) == 2
    rest = await streaming.reader.read()
    assert b"shutting_down" in rest
    assert not rest.endswith(LAST)
    answer = await waiting.answer()
    assert (answer.status, code_of(answer)) == (503, "shutting_down")
    await setup.server.stop()


async def test_nothing_runs_while_nobody_is_connected(start):
    setup = await start(answers(json_answer()), sweep_interval_s=0.01, upstream_idle_s=0.02)
    client = await setup.client()
    client.send(get("/healthz"))
    await client.answer()
    client.close()
    await until(lambda: setup.server._sweeper is None)
