"""The cold path on a real API server: a request asks for a Model, and its replica gets the request."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import aiohttp
from tests.support import asking
from tests.support.cluster.cluster import Cluster
from tests.support.cluster.controlplane import ControlPlane, Settings
from tests.support.cluster.manager import Operator, operator
from tests.support.cluster.proxies import RIGHTS, Models, Proxy, proxy

from benchmarks.table import Table, percentile
from flexinfer.api.meta import ObjectKey
from flexinfer.kube.informer import Informer
from flexinfer.kube.store import DEPLOYMENTS, Object, Selection

HOST = "127.0.0.1"
MODELS = 100
PAUSE_S = 1.0
"""Between two Models: the cluster's own controllers and its scheduler have work with the pod of the one before."""
WITHIN_S = 60.0
_BUILD = Path(__file__).parent.parent / "hack" / "cluster-tools.sh"
_ANSWER = b'{"id":"1","object":"chat.completion","choices":[]}'


def main(_seconds: float = 0.0) -> Table:
    tools = Path(subprocess.check_output([_BUILD], text=True).splitlines()[-1])
    with ControlPlane(tools, Settings(address=HOST)) as plane:
        rows = asyncio.run(measured(plane))
    return Table(
        title="Cold path on a cluster",
        command="python -m benchmarks cluster_wake",
        columns=("from", "to", "p50 ms", "p99 ms", "aim, p99"),
        rows=rows,
        notes=[
            f"{MODELS} sleeping Models, woken one by one with pauses; API server, manager and proxy share two cores.",
            "The scale patch counts as issued when a watch shows the Deployment with a replica.",
            "A pod is ready when an EndpointSlice says so; what kubelet and EndpointSlice controller take is left out.",
        ],
    )


async def measured(plane: ControlPlane) -> list[Sequence[str]]:
    async with Cluster(plane) as cluster, operator(cluster) as manager:
        identity = await cluster.identity("proxy", namespace=manager.namespace, rules=RIGHTS)
        for number in range(MODELS):
            await manager.apply(f"m{number}")
        for number in range(MODELS):
            await manager.phase(f"m{number}", "Idle")
        models = Models(cluster, manager.namespace)
        async with proxy(identity, "--namespace", manager.namespace, "--no-access-log", host=HOST) as front:
            await front.until_ready()
            async with Engine() as engine, Scaling(manager) as scaling:
                took = [await wake(front, models, engine, scaling, f"m{number}") for number in range(MODELS)]
    to_patch, to_byte = ([pair[index] * 1000 for pair in took] for index in (0, 1))
    return [
        ("request on a sleeping Model", "scale patch", *_percentiles(to_patch), "≤ 50 ms"),
        ("pod ready", "first byte upstream", *_percentiles(to_byte), "≤ 100 ms"),
    ]


def _percentiles(values_ms: list[float]) -> tuple[str, str]:
    return f"{percentile(values_ms, 0.5):.1f}", f"{percentile(values_ms, 0.99):.1f}"


async def wake(front: Proxy, models: Models, engine: Engine, scaling: Scaling, name: str) -> tuple[float, float]:
    """Seconds from the request to the scale patch, and from a ready replica to the request's first byte there."""
    await asyncio.sleep(PAUSE_S)
    async with asking.client() as session:
        asked_at = time.monotonic()
        asking_task = asyncio.create_task(_ask(session, front.url, name))
        scaled_at = await asyncio.wait_for(scaling.seen(name), WITHIN_S)
        engine.reached_at = None
        ready_at = time.monotonic()
        await models.replicas(engine.port, name=name, host=engine.host)
        assert await asyncio.wait_for(asking_task, WITHIN_S) == 200
        assert engine.reached_at is not None
        return scaled_at - asked_at, engine.reached_at - ready_at


async def _ask(session: aiohttp.ClientSession, url: str, name: str) -> int:
    body = {"model": name, "messages": asking.MESSAGES}
    async with session.post(f"{url}/v1/chat/completions", json=body) as answer:
        return answer.status


class Scaling:
    """When a watch first showed the Deployment of a Model with a replica."""

    def __init__(self, manager: Operator) -> None:
        selection = Selection(manager.namespace)
        self._informer: Informer[Object] = Informer(manager.cluster.admin, DEPLOYMENTS, lambda obj: obj, selection)
        self._informer.add_handler(self._changed)
        self._seen: dict[str, asyncio.Future[float]] = {}
        self._watching: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._watching = asyncio.create_task(self._informer.run())
        await self._informer.wait_synced()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._watching is not None
        self._watching.cancel()

    def seen(self, name: str) -> asyncio.Future[float]:
        return self._seen.setdefault(name, asyncio.get_running_loop().create_future())

    def _changed(self, key: ObjectKey, _old: Object | None, new: Object | None) -> None:
        seen = self.seen(key.name)
        if new is not None and new["spec"].get("replicas") and not seen.done():
            seen.set_result(time.monotonic())


def own_address() -> str:
    """One of this machine that is not loopback: EndpointSlices take no other."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        # Of a datagram socket this sends nothing: the kernel chooses the address that it would send from.
        sock.connect(("192.0.2.1", 9))
        address: str = sock.getsockname()[0]
        return address


class Engine:
    """Answers a chat, and knows when its first byte came."""

    def __init__(self) -> None:
        self.host = own_address()
        self.port = 0
        self.reached_at: float | None = None
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, self.host, 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.read(65536):
            self.reached_at = self.reached_at or time.monotonic()
            head = (
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
            )
            writer.write(head % len(_ANSWER) + _ANSWER)
            await writer.drain()
        writer.close()
