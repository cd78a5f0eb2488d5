"""The access line: what it says of each way a request can go, and what it never says."""

from __future__ import annotations

import asyncio
import json

import pytest
from tests.support.proxy import (
    CHAT,
    DONE,
    LAST,
    SSE_HEAD,
    STREAM,
    TOKEN,
    answers,
    closed_port,
    closes_after,
    event,
    get,
    hangs,
    json_answer,
    paced,
    post,
)
from tests.support.waiting import until

from flexinfer.clock import SystemClock
from flexinfer.proxy.accesslog import AccessLog, Times
from flexinfer.proxy.gate import Gate
from flexinfer.proxy.keys import KeyRing
from flexinfer.proxy.requesthead import RequestReader

ABORT = event(b'{"choices":[{"delta":{},"finish_reason":"abort"}]}')
ERROR = event(b'{"error":{"message":"out of memory"}}')


class Lines:
    def __init__(self) -> None:
        self.blocks: list[bytes] = []
        self.log = AccessLog(self.blocks.append, SystemClock())

    async def all(self, count: int = 1) -> list[dict[str, object]]:
        await until(lambda: b"".join(self.blocks).count(b"\n") >= count)
        return [json.loads(line) for line in b"".join(self.blocks).splitlines()]


@pytest.fixture
def lines() -> Lines:
    return Lines()


def part(line: dict[str, object], *names: str) -> tuple[object, ...]:
    return tuple(line.get(name) for name in names)


async def test_a_line_of_a_served_request_says_all_of_it(start, lines, tmp_path):
    file = tmp_path / "keys"
    file.write_text("alice:canary-canary-canary\n")
    gate = Gate(KeyRing(file, 0.0))
    setup = await start(answers(json_answer()), server={"access": lines.log, "gate": gate})
    client = await setup.client()
    fields = ("Authorization: Bearer canary-canary-canary", "X-Request-ID: trace-7", "traceparent: 00-aa-bb-01")
    client.send(post(CHAT.replace(b'"hi"', b'"canary-prompt"'), "/v1/chat/completions?canary=query", *fields))
    answer = await client.answer()
    assert answer.header("x-request-id") == ["trace-7"]
    (line,) = await lines.all()
    times = [line.pop(name) for name in ("queue_ms", "first_byte_ms", "duration_ms")]
    assert times == sorted(times)
    assert str(line.pop("timestamp"))[10:].endswith("Z")
    assert line == {
        "level": "info",
        "component": "access",
        "event": "request",
        "request_id": "trace-7",
        "method": "POST",
        "path": "/v1/chat/completions",
        "status": 200,
        "outcome": "success",
        "model": "m1",
        "key_name": "alice",
        "tokens": 3,
    }
    assert b"canary" not in b"".join(lines.blocks)
    (request,) = setup.engine.requests
    assert (request.header("traceparent"), request.header("x-request-id")) == (["00-aa-bb-01"], ["trace-7"])


@pytest.mark.parametrize(
    ("key_name", "tokens", "there"),
    [
        pytest.param("alice", 3, {"key_name": "alice", "tokens": 3}, id="both"),
        pytest.param("", 0, {}, id="neither"),
    ],
)
@pytest.mark.parametrize("target", [b"/v1/chat/completions", b"/v1/chat/completions?x=1"], ids=["usual", "other"])
async def test_what_there_is_not_is_left_out_of_every_line(lines, target, key_name, tokens, there):
    head = RequestReader(10).read(b"POST " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n")
    head.model, head.key_name = "m", key_name
    lines.log.forwarded(head, b"X-Request-ID: 7\r\n", 200, "success", "", Times(1.0, 1.5, 2.0, 2.5), tokens)
    (line,) = await lines.all()
    line.pop("timestamp")
    assert line == {
        "level": "info", "component": "access", "event": "request", "request_id": "7", "method": "POST",
        "path": "/v1/chat/completions", "status": 200, "outcome": "success", "model": "m", "queue_ms": 500.0,
        "first_byte_ms": 1000.0, "duration_ms": 1500.0, **there,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("script", "status", "reason"),
    [
        pytest.param(answers(json_answer(status="500 X")), 500, "engine_500", id="a status of 500"),
        pytest.param(answers(json_answer(b'{"error":{"message":"x"}}')), 200, "engine_error", id="an error with 200"),
        pytest.param(
            answers(json_answer(b'{"choices":[{"finish_reason": "abort"}]}')), 200, "engine_error", id="aborted"
        ),
        pytest.param(answers(SSE_HEAD + event(TOKEN) + ABORT + DONE + LAST), 200, "engine_abort", id="stream: abort"),
        pytest.param(answers(SSE_HEAD + event(TOKEN) + ERROR + DONE + LAST), 200, "engine_error", id="stream: error"),
        pytest.param(
            answers(SSE_HEAD + event(TOKEN) + ERROR + LAST), 200, "engine_error", id="stream: error, no [DONE]"
        ),
        pytest.param(answers(SSE_HEAD + event(TOKEN) + LAST), 200, "engine_cut", id="stream: a clean end, no [DONE]"),
        pytest.param(paced(SSE_HEAD + event(TOKEN), b""), 200, "bad_gateway", id="stream: the connection ends"),
        pytest.param(closes_after(b""), 502, "bad_gateway", id="no answer at all"),
        pytest.param(hangs, 504, "upstream_timeout", id="silence before the first byte"),
    ],
)
async def test_however_an_engine_fails_it_is_an_error(start, lines, script, status, reason):
    setup = await start(script, server={"access": lines.log}, first_byte_timeout_s=0.1, sweep_interval_s=0.02)
    client = await setup.client()
    client.send(post(STREAM))
    await client.answer()
    (line,) = await lines.all()
    assert part(line, "status", "outcome", "reason", "model") == (status, "error", reason, "m1")
    assert [ticket.releases[0][0] for ticket in setup.admission.tickets] == ["error"]


async def test_a_stream_that_falls_silent_is_an_error(start, lines):
    async def stalls(engine, reader, writer):
        writer.write(SSE_HEAD + event(TOKEN))
        await reader.read()

    setup = await start(stalls, server={"access": lines.log}, stream_idle_timeout_s=0.1, sweep_interval_s=0.02)
    client = await setup.client()
    client.send(post(STREAM))
    answer = await client.answer()
    assert (b"upstream_timeout" in answer.body, answer.whole) == (True, False)
    (line,) = await lines.all()
    assert part(line, "status", "outcome", "reason") == (200, "error", "upstream_timeout")


async def test_a_port_that_is_closed_is_told(start, lines):
    setup = await start(hangs, server={"access": lines.log})
    setup.admission.endpoint = type(setup.admission.endpoint)(name="e", host="127.0.0.1", port=await closed_port())
    client = await setup.client()
    client.send(post(CHAT))
    assert (await client.answer()).status == 502
    (line,) = await lines.all()
    assert part(line, "status", "reason", "first_byte_ms") == (502, "bad_gateway", None)


@pytest.mark.parametrize("cold", [False, True], ids=["before the first byte", "queued"])
async def test_a_client_that_left_has_no_status(start, lines, cold):
    setup = await start(hangs, server={"access": lines.log}, cold=cold)
    client = await setup.client()
    client.send(post(CHAT))
    await until(lambda: setup.admission.tickets and (cold or setup.engine.requests))
    client.close()
    (line,) = await lines.all()
    assert part(line, "status", "outcome", "reason") == (None, "cancelled", None)
    assert ("queue_ms" in line) is not cold


@pytest.mark.parametrize(
    ("raw", "wanted"),
    [
        pytest.param(get("/v1/models"), ("GET", "/v1/models", 200, None, None), id="the list"),
        pytest.param(get("/v1/models/m1?x=secret"), ("GET", "/v1/models/{id}", 200, None, None), id="one model"),
        pytest.param(get("/secret\\n"), ("", "", 400, "bad_request", None), id="a target that is none"),
        pytest.param(get("/secret/path"), ("GET", "other", 404, "not_found", None), id="a path that is not served"),
        pytest.param(
            post(b'{"model":"secret"}'),
            ("POST", "/v1/chat/completions", 404, "model_not_found", None),
            id="a model that is not known",
        ),
        pytest.param(b"\x16\x03\x01 secret", ("", "", 400, "bad_request", None), id="TLS"),
        pytest.param(
            post(CHAT, "/v1/chat/completions", "Origin: https://secret.test"),
            ("POST", "/v1/chat/completions", 403, "origin_not_allowed", None),
            id="a foreign page",
        ),
    ],
)
async def test_what_no_engine_saw_has_a_line_without_what_the_client_made_up(start, lines, raw, wanted):
    setup = await start(answers(json_answer()), server={"access": lines.log})
    client = await setup.client()
    client.send(raw)
    answer = await client.answer()
    (line,) = await lines.all()
    assert part(line, "method", "path", "status", "reason", "model") == wanted
    assert [line["request_id"]] == answer.header("x-request-id")
    assert b"secret" not in b"".join(lines.blocks)


async def test_a_refusal_of_a_known_model_names_it(start, lines):
    from flexinfer.openai.errors import refuse

    setup = await start(hangs, server={"access": lines.log})
    setup.admission.refuse_with = refuse("queue_full", "full")
    client = await setup.client()
    client.send(post(CHAT))
    assert (await client.answer()).status == 503
    (line,) = await lines.all()
    assert part(line, "status", "outcome", "reason", "model") == (503, "error", "queue_full", "m1")


async def test_a_reader_that_is_stuck_holds_up_no_request_and_what_is_lost_is_counted(start):
    released = asyncio.Event()
    loop = asyncio.get_running_loop()
    written: list[bytes] = []

    def stuck(block: bytes) -> None:
        asyncio.run_coroutine_threadsafe(released.wait(), loop).result()
        written.append(block)

    log = AccessLog(stuck, SystemClock())
    setup = await start(answers(json_answer()), server={"access": log})
    client = await setup.client()
    for _ in range(50):
        client.send(post(CHAT))
        assert (await client.answer()).status == 200
        await asyncio.sleep(0.005)
    assert written == []
    released.set()
    await setup.server.stop()
    assert b"".join(written).count(b"\n") == 50


async def test_lines_are_one_line_each_whatever_the_client_sends(start, lines):
    setup = await start(answers(json_answer()), server={"access": lines.log})
    client = await setup.client()
    client.send(post(CHAT, "/v1/chat/completions", 'X-Request-ID: a"b\\c'))
    await client.answer()
    client.send(post(CHAT, "/v1/chat/completions", "X-Request-ID: " + "x" * 129))
    await client.answer()
    first, second = await lines.all(2)
    assert '"' not in str(first["request_id"])
    assert len(str(second["request_id"])) < 64
