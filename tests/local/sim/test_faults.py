"""Every way a simulated engine can fail, as a client meets it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from tests.support.waiting import until

from flexinfer.sim.faults import Faults

DONE = b"data: [DONE]\n\n"
LAST_CHUNK = b"0\r\n\r\n"


async def broken(start: Any, connect: Any, chat: Any, how: Any, **faults: Any) -> Any:
    simulator = await start(faults=Faults(break_after=2, break_how=how, **faults), output_tokens=5)
    raw = await connect(simulator)
    raw.send("POST", "/v1/chat/completions", chat(stream=True), "Connection: close\r\n")
    assert await raw.head() == 200
    return raw


@pytest.mark.parametrize(
    ("how", "has_done", "ends_whole"),
    [
        pytest.param("close", False, False, id="end of file within the answer"),
        pytest.param("end", False, True, id="a proper end without [DONE]"),
        pytest.param("truncate", False, False, id="half an event"),
        pytest.param("error", True, True, id="an error event, then [DONE]"),
        pytest.param("abort", True, True, id="finish reason abort, then [DONE]"),
    ],
)
async def test_a_stream_that_breaks_off(
    start: Any, connect: Any, chat: Any, how: str, has_done: bool, ends_whole: bool
) -> None:
    stream = await (await broken(start, connect, chat, how)).rest()
    assert (DONE in stream, stream.endswith(LAST_CHUNK)) == (has_done, ends_whole)
    assert stream.count(b'"delta":{"content":" ') == 1
    assert (b'data: {"error":{"message":' in stream) == (how == "error")
    assert (b'"finish_reason":"abort"' in stream) == (how == "abort")


async def test_half_an_event_has_no_end(start: Any, connect: Any, chat: Any) -> None:
    stream = await (await broken(start, connect, chat, "truncate")).rest()
    last = stream.rsplit(b"data: ", 1)[1]
    assert b"\n\n" not in last.rstrip(b"\r\n")


async def test_a_stream_that_is_reset(start: Any, connect: Any, chat: Any) -> None:
    raw = await broken(start, connect, chat, "reset")
    with pytest.raises(ConnectionResetError):
        await raw.rest()


@pytest.mark.parametrize("how", ["silent", "stall"])
async def test_a_stream_that_goes_silent_stays_open_until_the_client_goes(
    start: Any, connect: Any, chat: Any, how: str
) -> None:
    simulator = await start(faults=Faults(break_after=2, break_how=how))
    raw = await connect(simulator)
    raw.send("POST", "/v1/chat/completions", chat(stream=True))
    await raw.reader.readuntil(b'"content":" ')
    with pytest.raises(TimeoutError):
        await raw.rest(within_s=0.2)
    assert simulator.stats.in_flight == 1
    await raw.close()
    await until(lambda: simulator.stats.in_flight == 0)
    assert simulator.stats.cancelled == 1


async def test_a_stream_that_drips(start: Any, connect: Any, chat: Any) -> None:
    stream = await (await broken(start, connect, chat, "drip", drip_seconds=0.0001)).rest()
    assert stream.count(b"1\r\n") > 100
    assert stream.endswith(LAST_CHUNK)


async def test_a_break_before_the_first_token_and_one_after_the_last(start: Any, connect: Any, chat: Any) -> None:
    for after, expected in ((0, 0), (3, 3)):
        simulator = await start(faults=Faults(break_after=after, break_how="error"), output_tokens=3)
        raw = await connect(simulator)
        raw.send("POST", "/v1/chat/completions", chat(stream=True), "Connection: close\r\n")
        stream = await raw.rest()
        assert stream.count(b'"delta":{"content":') == expected
        assert b'{"error":{' in stream


@pytest.mark.parametrize(
    ("how", "status", "whole"),
    [
        pytest.param("close", 200, False, id="half a body"),
        pytest.param("error", 500, True, id="an error"),
        pytest.param("abort", 200, True, id="finish reason abort"),
    ],
)
async def test_an_answer_without_a_stream_breaks_too(
    start: Any, connect: Any, chat: Any, how: str, status: int, whole: bool
) -> None:
    simulator = await start(faults=Faults(break_after=2, break_how=how))
    raw = await connect(simulator)
    raw.send("POST", "/v1/chat/completions", chat(), "Connection: close\r\n")
    assert await raw.head() == status
    body = await raw.rest()
    if whole:
        answer = json.loads(body)
        assert answer.get("error", {}).get("code") == (500 if how == "error" else None)
    else:
        assert not body.endswith(LAST_CHUNK)


@pytest.mark.parametrize(
    ("hang", "head"), [pytest.param("before-head", False, id="no head"), pytest.param("after-head", True, id="a head")]
)
@pytest.mark.parametrize("stream", [True, False])
async def test_a_request_that_is_never_answered(
    start: Any, connect: Any, chat: Any, hang: str, head: bool, stream: bool
) -> None:
    simulator = await start(faults=Faults(hang=hang))
    raw = await connect(simulator)
    raw.send("POST", "/v1/chat/completions", chat(stream=stream))
    if head:
        assert await raw.head() == 200
    with pytest.raises(TimeoutError):
        await raw.rest(within_s=0.1)
    await raw.close()
    await until(lambda: simulator.stats.cancelled == 1)


async def test_comment_lines_fill_the_time_until_the_first_token(start: Any, connect: Any, chat: Any) -> None:
    simulator = await start(faults=Faults(hang="after-head", ping_seconds=0.01))
    raw = await connect(simulator)
    raw.send("POST", "/v1/chat/completions", chat(stream=True))
    async with asyncio.timeout(5):
        for _ in range(3):
            await raw.reader.readuntil(b": ping\n\n")


async def test_errors_while_health_is_well_and_the_other_way_round(start: Any, connect: Any, chat: Any) -> None:
    simulator = await start(faults=Faults(error_status=500))
    for faults, expected in ((Faults(error_status=500), [200, 500]), (Faults(unhealthy=True), [500, 200])):
        simulator.set_faults(faults)
        raw = await connect(simulator)
        raw.send("GET", "/health")
        raw.send("POST", "/v1/chat/completions", chat(), "Connection: close\r\n")
        answers = await raw.rest()
        assert [int(part[:3]) for part in answers.split(b"HTTP/1.1 ")[1:]] == expected


async def test_faults_are_set_counted_and_cleared_over_http(start: Any, connect: Any, chat: Any) -> None:
    simulator = await start()

    async def call(method: str, path: str, body: Any = None) -> tuple[int, Any]:
        raw = await connect(simulator)
        raw.send(method, path, body, "Connection: close\r\n")
        status = await raw.head()
        return status, json.loads(await raw.rest())

    assert (await call("POST", "/sim/faults", {"error_status": 500, "times": 2}))[0] == 200
    statuses = [(await call("POST", "/v1/chat/completions", chat()))[0] for _ in range(3)]
    assert statuses == [500, 500, 200]
    assert (await call("GET", "/sim/faults"))[1]["times"] == 0
    assert (await call("DELETE", "/sim/faults"))[1]["error_status"] == 0
    assert await call("POST", "/sim/faults", {"eror_status": 500}) == (
        400,
        {"error": "Object contains unknown field `eror_status`"},
    )
    assert (await call("POST", "/sim/faults", {"break_how": "sideways"}))[0] == 400
    assert (await call("POST", "/sim/faults", b"["))[0] == 400
    assert (await call("POST", "/sim/faults", b'{"hang":"\xff"}'))[0] == 400
    assert (await call("PUT", "/sim/faults"))[0] == 404
    stats = (await call("GET", "/sim/stats"))[1]
    assert (stats["total"], stats["faulted"], stats["completed"]) == (3, 2, 1)
