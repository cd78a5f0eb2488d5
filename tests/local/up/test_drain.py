"""How an `up` ends: refused at once, finished in their grace, cut, or all at once."""

from __future__ import annotations

import asyncio
import json
import signal

import aiohttp
import pytest
from tests.support.asking import DONE, MESSAGES, ask, client
from tests.support.processes import live, tree
from tests.support.running import running, write
from tests.support.waiting import until


async def get(session: aiohttp.ClientSession, url: str) -> int | str:
    """The status, or how it was refused."""
    try:
        async with session.get(url) as answer:
            return answer.status
    except aiohttp.ClientConnectorError:
        return "no connection"


@pytest.mark.usefixtures("many_files")
@pytest.mark.parametrize("streams", [200, pytest.param(1000, marks=pytest.mark.soak)])
async def test_every_open_stream_ends_whole_on_sigterm(tmp_path, manifest, streams):
    """F45."""
    spec = manifest("m", "simulator", config={"decodeRate": 10, "slots": streams})
    async with running(tmp_path, [write(tmp_path / "m.yaml", spec)], "--queue-size", "2000") as up, client() as session:
        begun = asyncio.Semaphore(0)
        tasks = [
            asyncio.create_task(ask(session, up.url, "m", begun.release, stream=True, max_tokens=30))
            for _ in range(streams)
        ]
        for _ in range(streams):
            await asyncio.wait_for(begun.acquire(), 30)
        up.process.send_signal(signal.SIGTERM)
        async with client() as other:
            while (refusal := await get(other, f"{up.url}/readyz")) == 200:
                await asyncio.sleep(0.01)
            assert refusal in (503, "no connection")
        answers = await asyncio.gather(*tasks)
        whole = [answer for answer in answers if answer.served and answer.body.rstrip().endswith(DONE)]
        assert len(whole) == streams
        assert await up.ended() == 0


async def test_the_drain_delay_refuses_before_the_port_closes(tmp_path, manifest):
    file = write(tmp_path / "m.yaml", manifest("m", "simulator", config={"decodeRate": 20}))
    async with running(tmp_path, [file], "--drain-delay", "1s") as up, client() as session:
        begun = asyncio.Event()
        stream = asyncio.create_task(ask(session, up.url, "m", begun.set, stream=True, max_tokens=50))
        await asyncio.wait_for(begun.wait(), 10)
        up.process.send_signal(signal.SIGTERM)
        signalled = asyncio.get_running_loop().time()
        while await get(session, f"{up.url}/readyz") == 200:
            await asyncio.sleep(0.01)
        assert await get(session, f"{up.url}/readyz") == 503
        assert await get(session, f"{up.url}/healthz") == 200
        body = {"model": "m", "messages": MESSAGES}
        async with session.post(f"{up.url}/v1/chat/completions", json=body) as refused:
            error = json.loads(await refused.read())["error"]
            assert (refused.status, error["code"]) == (503, "shutting_down")
            assert refused.headers["Connection"] == "close"
            assert 1 <= int(refused.headers["Retry-After"]) <= 60
        while await get(session, f"{up.url}/healthz") == 200:
            await asyncio.sleep(0.01)
        assert 0.9 <= asyncio.get_running_loop().time() - signalled < 2
        assert await get(session, f"{up.url}/healthz") == "no connection"
        assert (await stream).body.rstrip().endswith(DONE)
        assert await up.ended() == 0


async def test_what_outlasts_the_grace_is_cut_with_an_error_event(tmp_path, manifest):
    file = write(tmp_path / "m.yaml", manifest("m", "simulator", config={"decodeRate": 5}))
    async with running(tmp_path, [file], "--grace", "500ms") as up, client() as session:
        begun = asyncio.Event()
        stream = asyncio.create_task(ask(session, up.url, "m", begun.set, stream=True, max_tokens=500))
        await asyncio.wait_for(begun.wait(), 10)
        up.process.send_signal(signal.SIGINT)
        answer = await asyncio.wait_for(stream, 5)
        assert (answer.status, answer.whole, DONE in answer.body) == (200, False, False)
        assert b'"code":"shutting_down"' in answer.body
        assert await up.ended() == 1


async def test_a_second_ctrl_c_ends_at_once_and_leaves_no_engine(tmp_path, manifest):
    spec = manifest("m", "simulator", config={"decodeRate": 5, "extraArgs": ["--worker"]})
    file = write(tmp_path / "m.yaml", spec)
    async with running(tmp_path, [file]) as up, client() as session:
        begun = asyncio.Event()
        stream = asyncio.create_task(ask(session, up.url, "m", begun.set, stream=True, max_tokens=500))
        await asyncio.wait_for(begun.wait(), 10)
        family = tree(up.process.pid)
        assert len(family) >= 3
        up.process.send_signal(signal.SIGINT)
        await asyncio.sleep(0.3)
        assert up.process.poll() is None
        up.process.send_signal(signal.SIGINT)
        assert await up.ended(1.0) == 1
        await until(lambda: not live(family), limit_s=1.0)
        assert not (await stream).whole
