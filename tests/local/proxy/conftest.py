"""Fixtures of the request path: start engines, servers and clients, and see that all of them end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import uvloop
from tests.support.proxy import Engine, FixedAdmission, RawClient, Script

from flexinfer.proxy.app import Server
from flexinfer.proxy.settings import ProxySettings


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> dict[str, Callable[[], object]]:
    """The request path runs on uvloop, and on the standard loop where there is none."""
    return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


class Setup:
    """One engine, one server in front of it."""

    def __init__(self, engine: Engine, admission: FixedAdmission, server: Server, port: int) -> None:
        self.engine = engine
        self.admission = admission
        self.server = server
        self.port = port
        self.clients: list[RawClient] = []

    async def client(self) -> RawClient:
        client = await RawClient.connect(self.port)
        self.clients.append(client)
        return client


Start = Callable[..., Awaitable[Setup]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """start(script, served=…, cold=…, server={…}, **settings) -> Setup; `server` goes to Server as it is."""
    setups: list[Setup] = []

    async def _start(
        script: Script,
        *,
        served: dict[str, str | None] | None = None,
        cold: bool = False,
        check_address: Callable[[str], str | None] | None = None,
        server: dict[str, object] | None = None,
        **settings: object,
    ) -> Setup:
        engine = Engine(script)
        endpoint = await engine.start()
        admission = FixedAdmission(None if cold else endpoint, served)
        limits = ProxySettings(**settings)  # type: ignore[arg-type]
        proxy = Server(admission, limits, lambda: b"m 1\n", check_address=check_address, **(server or {}))  # type: ignore[arg-type]
        port = await proxy.start("127.0.0.1", 0)
        setups.append(Setup(engine, admission, proxy, port))
        return setups[-1]

    yield _start
    for setup in setups:
        for client in setup.clients:
            client.close()
        await setup.server.stop()
        await setup.engine.stop()
