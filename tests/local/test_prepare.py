"""The calls before Ready, to a real server that answers as Ollama does, and as it should not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp
import pytest
from aiohttp import web

from flexinfer.backends.base import LaunchPlan
from flexinfer.local import prepare
from flexinfer.local.prepare import PrepareFailed

Pull = Callable[..., Awaitable[list[float | None]]]


class Engine:
    """Answers every call with these lines; `cut` breaks the answer off after them."""

    def __init__(self) -> None:
        self.status = 200
        self.lines: list[bytes] = [b'{"status":"success"}\n']
        self.cut = False
        self.calls: list[tuple[str, str, bytes, str]] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.calls.append((request.method, request.path, await request.read(), request.headers["Content-Type"]))
        answer = web.StreamResponse(status=self.status)
        await answer.prepare(request)
        for line in self.lines:
            await answer.write(line)
        if self.cut:
            assert request.transport is not None
            request.transport.close()
        return answer


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
async def pull(engine: Engine) -> AsyncIterator[Pull]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", engine.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]

    async def pull(*calls: tuple[str, str, bytes], at: int = port) -> list[float | None]:
        told: list[float | None] = []
        plan = LaunchPlan(
            program="ollama",
            args=(),
            port=at,
            health_path="/",
            slots=1,
            prepare=calls or (("POST", "/api/pull", b"{}"),),
        )
        async with aiohttp.ClientSession() as session:
            await asyncio.wait_for(prepare.run(session, plan, told.append), 5)
        return told

    yield pull
    await runner.cleanup()


async def test_nothing_to_prepare_is_done(pull: Pull, engine: Engine):
    plan = LaunchPlan(program="x", args=(), port=1, health_path="/", slots=1)
    async with aiohttp.ClientSession() as session:
        await prepare.run(session, plan, lambda _share: None)
    assert engine.calls == []


async def test_calls_are_made_in_order_with_their_bodies(pull: Pull, engine: Engine):
    calls = ("POST", "/api/pull", b'{"model":"a"}'), ("POST", "/api/generate", b'{"model":"b"}')
    await pull(*calls)
    assert engine.calls == [(*call, "application/json") for call in calls]


async def test_progress_is_told_by_whole_percents(pull: Pull, engine: Engine):
    engine.lines = [
        b'{"status":"pulling manifest"}\n',
        b'{"status":"pulling","total":1000,"completed":0}\n',
        b'{"status":"pulling","total":1000,"completed":250}\n{"status":"pulling","total":1000,"compl',
        b'eted":255}\n',
        b'{"status":"pulling","total":1000,"completed":100}\n',
        b'{"status":"pulling","total":1000,"completed":1000}\n',
        b'{"status":"success"}',
    ]
    assert await pull() == [None, 0.0, 0.25, 1.0]


async def test_lines_that_are_no_json_are_passed_over(pull: Pull, engine: Engine):
    engine.lines = [b"\n", b"hello\n", b"[1]\n", b'{"status":"\xff"}\n']
    engine.lines += [b'{"total":2,"completed":1}\n', b'{"total":"x"}\n']
    assert await pull() == [None, 0.5]


@pytest.mark.parametrize(
    ("status", "lines", "cut", "said"),
    [
        pytest.param(
            200, [b'{"status":"pulling"}\n', b'{"error":"no space left"}\n'], False, "no space left",
            id="an error in the stream",
        ),
        pytest.param(
            404, [b'{"error":"model not found"}'], False, "model not found", id="an error in an error answer"
        ),
        pytest.param(500, [b"oops"], False, "the engine answered 500", id="an error answer without a word"),
        pytest.param(200, [b'{"status":"pulling"}\n'], True, "POST /api/pull broke off", id="it breaks off"),
        pytest.param(
            200, [b"x" * 2**20], False, "POST /api/pull answered with a line that does not end", id="a line without end"
        ),
    ],
)  # fmt: skip
async def test_a_call_that_fails_says_why(pull: Pull, engine: Engine, status, lines, cut, said):
    engine.status, engine.lines, engine.cut = status, lines, cut
    with pytest.raises(PrepareFailed) as caught:
        await pull()
    assert str(caught.value).startswith(said)


async def test_nobody_listens(pull: Pull, unused_tcp_port: int):
    with pytest.raises(PrepareFailed, match="POST /api/pull broke off"):
        await pull(at=unused_tcp_port)
