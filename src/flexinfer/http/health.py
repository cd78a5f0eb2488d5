"""The ports of a long-running process that kubelets and Prometheus look at: /healthz, /readyz, /metrics.

`/healthz` answers as long as the event loop turns. `/readyz` answers 503 with the reason while the
process is of no use to anybody yet, or no more.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

from aiohttp import web

from flexinfer.api.hosts import literal
from flexinfer.errors import InvalidField
from flexinfer.metrics.registry import CONTENT_TYPE

STOP_LIMIT_S = 1.0
"""What an open scrape gets when the process ends."""


class Bind(NamedTuple):
    """Where to listen. Port 0 is any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{literal(self.host)}:{self.port}"


def parse_bind(path: str, text: str) -> Bind | None:
    """`:8080` (every address), `127.0.0.1:8080`, `[::1]:8080`, or a port; `0` and nothing are None: do not listen.

    `path` names the setting in the InvalidField that anything else raises.
    """
    if text in ("", "0"):
        return None
    host, _, number = text.rpartition(":")
    if not (number.isascii() and number.isdigit() and int(number) <= 65535):
        raise InvalidField(path, text, "an address with a port, such as :8080 or 127.0.0.1:8080, or 0 for none")
    return Bind(host.removeprefix("[").removesuffix("]") or "0.0.0.0", int(number))


def health_app(not_ready: Callable[[], str]) -> web.Application:
    """`not_ready` says why the process cannot be used, or nothing."""

    async def healthz(_request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_request: web.Request) -> web.Response:
        reason = not_ready()
        return web.Response(status=503, text=f"{reason}\n") if reason else web.Response(text="ok\n")

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz)])
    return app


def metrics_route(render: Callable[[], bytes]) -> web.RouteDef:
    async def metrics(_request: web.Request) -> web.Response:
        return web.Response(body=render(), headers={"Content-Type": CONTENT_TYPE})

    return web.get("/metrics", metrics)


def metrics_app(render: Callable[[], bytes]) -> web.Application:
    app = web.Application()
    app.add_routes([metrics_route(render)])
    return app


@asynccontextmanager
async def serving(app: web.Application, bind: Bind) -> AsyncIterator[Bind]:
    """Listen inside the block; yields where. Raises OSError where the address is taken."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=STOP_LIMIT_S)
    await runner.setup()
    try:
        await web.TCPSite(runner, bind.host, bind.port).start()
        host, port = runner.addresses[0][:2]
        yield Bind(host, port)
    finally:
        await runner.cleanup()
