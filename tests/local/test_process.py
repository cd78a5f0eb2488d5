"""Readiness of real engines: health, log patterns, foreign listeners, engines that end first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp
import pytest
from aiohttp import web

from flexinfer.local.ports import Ports, PortsExhausted, is_free
from flexinfer.local.process import EngineEnded, EngineProcess, Exit, Loading, Probe
from flexinfer.local.progress import Load

Start = Callable[..., Awaitable[EngineProcess]]


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
def port() -> int:
    return Ports().take()


async def test_ready_when_health_answers_200(start: Start, session: aiohttp.ClientSession, port: int) -> None:
    seen: list[Loading] = []
    engine = await start("serve", f"{port},0.3")
    loading = await asyncio.wait_for(
        engine.wait_ready(session, Probe(port=port, health_path="/health"), seen.append), 5
    )
    assert loading == Loading(load=Load(substage="LoadingWeights", progress=0.5), healthy=True)
    assert seen == [msg for msg in seen if msg.load.substage == "LoadingWeights"]
    assert seen[-1] == loading


async def test_ready_needs_the_log_line_too(start: Start, session: aiohttp.ClientSession, port: int) -> None:
    engine = await start("serve", str(port))
    probe = Probe(port=port, health_path="/health", ready_log=r"offloaded [1-9]\d*/\d+ layers to GPU")
    loading = await asyncio.wait_for(engine.wait_ready(session, probe), 5)
    assert loading.ready_line == "load_tensors: offloaded 33/33 layers to GPU"
    never = Probe(port=port, health_path="/health", ready_log="the line that never comes")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(engine.wait_ready(session, never), 0.3)


async def test_a_line_that_says_cpu_ends_the_wait(start: Start, session: aiohttp.ClientSession, port: int) -> None:
    engine = await start("serve", str(port))
    probe = Probe(port=port, health_path="/health", ready_log="never", cpu_log="offloaded .* to GPU")
    loading = await asyncio.wait_for(engine.wait_ready(session, probe), 5)
    assert (loading.cpu_line != "", loading.ready_line, loading.healthy) == (True, "", True)


async def test_an_engine_that_ends_first(start: Start, session: aiohttp.ClientSession, port: int) -> None:
    engine = await start("crash")
    with pytest.raises(EngineEnded) as ended:
        await asyncio.wait_for(engine.wait_ready(session, Probe(port=port, health_path="/health")), 5)
    assert ended.value.exit == Exit(signal="SIGSEGV")
    assert str(ended.value) == "killed by SIGSEGV"


async def test_a_stranger_on_the_port_is_not_taken_for_the_engine(
    start: Start, session: aiohttp.ClientSession, port: int
) -> None:
    async def answer(_request: web.Request) -> web.Response:
        return web.Response()

    stranger = web.Application()
    stranger.router.add_get("/health", answer)
    runner = web.AppRunner(stranger, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    engine = await start("sleep")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(engine.wait_ready(session, Probe(port=port, health_path="/health")), 0.5)
    await runner.cleanup()


async def test_no_port_is_handed_out_twice_and_a_taken_one_never() -> None:
    first = next(p for p in range(29000, 29800) if all(is_free(p + i) for i in range(4)))
    ports = Ports(first, first + 3)
    server = await asyncio.start_server(lambda _r, _w: None, "127.0.0.1", first + 1)
    async with server:
        taken = [ports.take() for _ in range(3)]
        assert sorted(taken) == [first, first + 2, first + 3]
        with pytest.raises(PortsExhausted, match=f"from {first} to {first + 3}"):
            ports.take()
        ports.release(taken[1])
        assert ports.take() == taken[1]
