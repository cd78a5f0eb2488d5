"""Reports on gateways: slots that stay taken, engines that stall others, streams cut by limits nobody set."""

from __future__ import annotations

import asyncio
import json
import random
import time

import aiohttp
import pytest
from tests.support.asking import ask, client
from tests.support.figures import metric, stats
from tests.support.proxy import SSE_HEAD, Engine, json_answer
from tests.support.running import running, write


async def test_fr_001_clients_that_hang_up_leave_no_generation_behind(tmp_path, manifest):
    """One slot, answers of 30 s: four clients give up, the fifth gets the slot at once."""
    file = write(tmp_path / "m.yaml", manifest("m", "simulator", config={"slots": 1, "decodeRate": 20}))
    async with running(tmp_path, [file]) as up, client() as session:
        assert (await ask(session, up.url, "m", max_tokens=1)).served
        left = []
        for _ in range(4):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(ask(session, up.url, "m", max_tokens=600), 0.5)
            left.append(time.time())
        began = time.monotonic()
        assert (await ask(session, up.url, "m", max_tokens=2)).served
        assert time.monotonic() - began < 1
        seen = await stats(session, up, "m")
        assert (seen["max_in_flight"], seen["cancelled"], seen["completed"]) == (1, 4, 2)
        assert all(close["at"] - at < 1 for close, at in zip(seen["closes"], left, strict=True))
        for status, count in (("cancelled", 4), ("success", 2), ("error", 0)):
            assert await metric(session, up.url, "flexinfer_proxy_requests_total", model="m", status=status) == count
        assert await metric(session, up.url, "flexinfer_proxy_active_connections", model="m") == 0


async def test_fr_003_an_engine_that_never_answers_stalls_nobody_else(tmp_path, manifest):
    """200 requests hang on A; B and the list answer as ever, and each of A's ends with its own code."""
    silent = manifest("a", "simulator", config={"hang": "before-head", "slots": 64})
    well = manifest("b", "simulator", config={"decodeRate": 0, "prefillRate": 0}, serverless={"minReplicas": 1})
    file = write(tmp_path / "m.yaml", silent, well)
    async with running(tmp_path, [file], "--first-byte-timeout", "2s") as up, client() as session:
        await up.phase("b", "Ready")
        hanging = [asyncio.create_task(ask(session, up.url, "a")) for _ in range(200)]
        await up.phase("a", "Ready")
        took = []
        for number in range(70):
            began = time.monotonic()
            if number < 50:
                assert (await ask(session, up.url, "b", max_tokens=2)).served
            else:
                async with session.get(f"{up.url}/v1/models") as answer:
                    assert [model["id"] for model in (await answer.json())["data"]] == ["a", "b"]
            took.append(time.monotonic() - began)
        assert max(took) < 0.5
        ends = [(answer.status, json.loads(answer.body)["error"]["code"]) for answer in await asyncio.gather(*hanging)]
    # An engine that hangs is ended after three time-outs, and what it has taken since with it.
    assert set(ends) - {(502, "bad_gateway")} == {(504, "upstream_timeout"), (503, "queue_full")}
    # All came while A was loading, or some when it had its 64 slots.
    assert 200 - 64 - 100 <= ends.count((503, "queue_full")) <= 200 - 100


async def test_fr_004_a_burst_from_zero_is_held_and_released_at_the_pace_of_the_slots(tmp_path, manifest):
    """700 requests a second at a model that has to load: no 502, and answered plus refused is all of them."""
    config = {"loadSeconds": 1.5, "slots": 4, "decodeRate": 400, "prefillRate": 0}
    file = write(tmp_path / "m.yaml", manifest("m", "simulator", config=config))
    async with running(tmp_path, [file]) as up, client() as session:

        async def one(number: int) -> tuple[int, str | None, float]:
            await asyncio.sleep(number / 700)
            body = {"model": "m", "max_tokens": 4, "messages": [{"role": "user", "content": "hi"}]}
            began = time.monotonic()
            async with session.post(f"{up.url}/v1/chat/completions", json=body) as answer:
                code = None if answer.status == 200 else (await answer.json())["error"]["code"]
                assert (answer.status == 200) or 1 <= int(answer.headers["Retry-After"]) <= 60
                return answer.status, code, time.monotonic() - began

        found = await asyncio.gather(*(one(number) for number in range(2100)))
        seen = await stats(session, up, "m")
        logs = list((tmp_path / "state" / "logs" / "m").glob("*.log"))
    kinds = {(status, code) for status, code, _ in found}
    assert kinds == {(200, None), (503, "queue_full")}
    served = [status for status, _, _ in found].count(200)
    assert 100 <= served < 2100
    assert (seen["total"], seen["completed"]) == (served, served)
    assert seen["max_in_flight"] <= 4
    assert len(logs) == 1


async def test_fr_006_a_connection_that_the_engine_closes_is_not_reused(tmp_path, manifest):
    """250 clients come back to an engine at the moment at which it closes its idle connections: 5 s."""
    begun = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal begun
        try:
            while head := await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5):
                if head.startswith(b"POST"):
                    length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
                    await reader.readexactly(length)
                    begun += 1
                writer.write(json_answer())
        except (asyncio.IncompleteReadError, ConnectionError, TimeoutError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=1000)
    source = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    file = write(tmp_path / "m.yaml", manifest("m", "external", source, config={"slots": 300}))
    chance = random.Random(6)
    async with server, running(tmp_path, [file], "--queue-size", "300") as up, client() as session:
        assert (await ask(session, up.url, "m")).served

        async def rounds() -> list[int]:
            first = await ask(session, up.url, "m")
            await asyncio.sleep(chance.uniform(4.9, 5.1))
            return [first.status, (await ask(session, up.url, "m")).status]

        found = await asyncio.gather(*(rounds() for _ in range(250)))
    assert [status for pair in found for status in pair] == [200] * 500
    assert begun == 501


async def test_fr_007_a_limit_that_is_set_ends_a_stream_with_its_own_code(tmp_path, manifest):
    file = write(tmp_path / "m.yaml", manifest("m", "simulator", config={"decodeRate": 5}))
    async with running(tmp_path, [file], "--total-timeout", "3s") as up, client() as session:
        assert (await ask(session, up.url, "m", max_tokens=1)).served
        began = time.monotonic()
        cut = await ask(session, up.url, "m", stream=True, max_tokens=100)
        assert 2.9 <= time.monotonic() - began < 4.5
    assert (cut.status, cut.whole, b"[DONE]" in cut.body) == (200, False, False)
    assert b'"code":"upstream_timeout"' in cut.body.replace(b": ", b":")


@pytest.mark.soak
@pytest.mark.timeout(300)
async def test_fr_007_slow_streams_run_to_their_end_by_default(tmp_path, manifest):
    """A token every 5 s for 180 s; and 75 s of silence before the first one."""
    slow = manifest("slow", "simulator", config={"decodeRate": 0.2, "outputTokens": 37})
    late = manifest("late", "simulator", config={"prefillRate": 0.04})
    session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None))
    async with running(tmp_path, [write(tmp_path / "m.yaml", slow, late)]) as up, session:
        found = await asyncio.gather(
            ask(session, up.url, "slow", stream=True, max_tokens=37), ask(session, up.url, "late", stream=True)
        )
    assert [answer.served and answer.body.rstrip().endswith(b"data: [DONE]") for answer in found] == [True, True]


CHUNK = b'{"choices":[{"index":0,"delta":{"content":"x"}}]}'
USAGE = b'{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":7,"total_tokens":12}}'


def stream(*events: bytes, end: bytes = b"\n") -> bytes:
    return b"".join(b"data: " + event + end + end for event in events)


WITH_USAGE = stream(*[CHUNK] * 7, USAGE, b"[DONE]")
SPLITS = [
    pytest.param([(WITH_USAGE, b"")], 7, id="usage and end marker in one write"),
    pytest.param(
        [(WITH_USAGE[:-14], WITH_USAGE[-14:])], 7, id="the end marker in a write of its own"
    ),
    pytest.param(
        [(WITH_USAGE[:at], WITH_USAGE[at:]) for at in range(len(WITH_USAGE) - 300, len(WITH_USAGE))], 300 * 7,
        id="cut at each of the last 300 bytes",
    ),
    pytest.param([(stream(*[CHUNK] * 7, USAGE, b"[DONE]", end=b"\r\n"), b"")], 7, id="lines that end in CRLF"),
    pytest.param([(stream(*[CHUNK] * 4, b"[DONE]"), b"")], 4, id="without usage the events are counted"),
]  # fmt: skip


@pytest.mark.parametrize(("writes", "tokens"), SPLITS)
async def test_fr_058_tokens_of_a_stream_are_counted_however_it_is_cut(tmp_path, manifest, scripted, writes, tokens):
    waiting = list(reversed(writes))

    async def script(engine: Engine, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not engine.requests[-1].head.startswith(b"POST"):
            writer.write(json_answer())
            return
        first, rest = waiting.pop()
        writer.write(SSE_HEAD)
        writer.write(b"%x\r\n%b\r\n" % (len(first), first))
        if rest:
            await asyncio.sleep(0.003 if len(writes) > 1 else 0.05)
            writer.write(b"%x\r\n%b\r\n" % (len(rest), rest))
        writer.write(b"0\r\n\r\n")

    engine = await scripted(script)
    file = write(tmp_path / "m.yaml", manifest("m", "external", f"http://127.0.0.1:{engine.port}"))
    async with running(tmp_path, [file]) as up, client() as session:
        for first, rest in writes:
            answer = await ask(session, up.url, "m", stream=True)
            assert (answer.whole, answer.body) == (True, first + rest)
        name = "flexinfer_proxy_request_completion_tokens_sum"
        assert await metric(session, up.url, name, model="m") == tokens
