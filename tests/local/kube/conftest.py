from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from flexinfer.kube.client import HttpStore
from flexinfer.kube.connection import Connection, Target

Serve = Callable[..., Awaitable[HttpStore]]


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    """Serves an aiohttp application on a Unix socket; returns a client of it."""
    async with AsyncExitStack() as stack:

        async def served(app: web.Application, **options: Any) -> HttpStore:
            how = {name: options.pop(name) for name in ("timeout_s", "sleep") if name in options}
            # Servers that never answer are part of the tests: nobody waits for them in the end.
            runner = web.AppRunner(app, shutdown_timeout=0.05)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            socket = tmp_path / "api.sock"
            await web.UnixSite(runner, str(socket)).start()
            session = aiohttp.ClientSession(connector=aiohttp.UnixConnector(path=str(socket), limit=0))
            connection = Connection(session, Target("http://localhost"), **how)
            return await stack.enter_async_context(HttpStore(connection, **options))

        yield served
