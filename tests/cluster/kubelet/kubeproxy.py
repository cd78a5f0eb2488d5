"""Plays kube-proxy: whoever dials a Service's own address reaches one of its ready pods.

In its own way, since a machine may lack the kernel's address translation: all addresses of the Services are
local ones of the bridge's network namespace, and a listener on each passes bytes on. So pods see connections
as coming from the bridge, and a pod that refuses shows as a reset. A Service without a ready pod refuses.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence

from tests.cluster.kubelet.servicetable import Front, Target

from flexinfer import logs

log = logs.get("kubeproxy")

_CONNECT_WITHIN_S = 10.0
_CHUNK = 65536
# A thousand Services that change at once are looked at a few times, not a thousand.
_GATHERED_S = 0.02


class KubeProxy:
    def __init__(self, fronts: Callable[[], Mapping[Front, Sequence[Target]]]) -> None:
        self._fronts = fronts
        self._targets: Mapping[Front, Sequence[Target]] = {}
        self._open: dict[Front, asyncio.Server] = {}
        self._changed = asyncio.Event()

    def changed(self) -> None:
        self._changed.set()

    async def run(self) -> None:
        """Until cancelled; connections that stand stay, whatever becomes of their Service."""
        try:
            while True:
                self._changed.clear()
                await self._follow()
                await self._changed.wait()
                await asyncio.sleep(_GATHERED_S)
        finally:
            for server in self._open.values():
                server.close()

    async def _follow(self) -> None:
        self._targets = self._fronts()
        for front in [front for front in self._open if front not in self._targets]:
            self._open.pop(front).close()
        for front in self._targets:
            if front not in self._open:
                try:
                    self._open[front] = await asyncio.start_server(self._door(front), front.address, front.port)
                except OSError as error:
                    log.warning("service not served", address=front.address, port=front.port, error=repr(error))

    def _door(self, front: Front) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            targets = self._targets.get(front)
            if targets:
                await _join(reader, writer, random.choice(targets))
            else:
                writer.transport.abort()

        return serve


async def _join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: Target) -> None:
    writers = [writer]
    try:
        async with asyncio.timeout(_CONNECT_WITHIN_S):
            back_reader, back_writer = await asyncio.open_connection(*target)
        writers.append(back_writer)
        async with asyncio.TaskGroup() as both:
            both.create_task(_pass(reader, back_writer))
            both.create_task(_pass(back_reader, writer))
        # What is still to be sent is sent.
        while writers:
            writers.pop().close()
    except* OSError:
        # Whatever broke one side breaks the other.
        pass
    finally:
        for one in writers:
            one.transport.abort()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_CHUNK):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
