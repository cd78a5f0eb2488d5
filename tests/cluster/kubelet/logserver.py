"""What the API server asks a kubelet for `kubectl logs`: GET /containerLogs/NAMESPACE/POD/CONTAINER."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from aiohttp import web
from tests.cluster.kubelet.containerlogs import tail
from tests.cluster.kubelet.status import ContainerRecord, Running, Waiting

_PIECE = 64 * 1024
_LOOKS_EVERY_S = 0.1
_NOT_PLAYED = ("timestamps", "sinceSeconds", "sinceTime")


class Logged(Protocol):
    @property
    def records(self) -> list[ContainerRecord]: ...
    def log_files(self, container: str) -> list[Path]: ...


FindPod = Callable[[str, str], Logged | None]
"""By namespace and name."""


class LogServer:
    def __init__(self, find: FindPod) -> None:
        self._find = find
        app = web.Application()
        app.router.add_get("/containerLogs/{namespace}/{pod}/{container}", self._logs)
        self._runner = web.AppRunner(app, access_log=None)

    async def listen(self, host: str, certificate: Path, key: Path) -> int:
        """The port."""
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate, key)
        await self._runner.setup()
        await web.TCPSite(self._runner, host, 0, ssl_context=tls).start()
        return int(self._runner.addresses[0][1])

    async def close(self) -> None:
        await self._runner.cleanup()

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        query, wanted = request.query, request.match_info
        pod = self._find(wanted["namespace"], wanted["pod"])
        if pod is None:
            raise web.HTTPNotFound(text=f"pod {wanted['pod']} is not on this node")
        if asked := [name for name in _NOT_PLAYED if query.get(name) not in {None, "", "false"}]:
            raise web.HTTPBadRequest(text=f"{asked[0]}: logs of the test cluster carry no times")
        record = next((one for one in pod.records if one.name == wanted["container"]), None)
        files = pod.log_files(wanted["container"])
        previous = query.get("previous") == "true"
        if previous and record is not None and not isinstance(record.state, Waiting):
            files = files[:-1]
        if record is None or not files:
            kind = "previous terminated container" if previous else "container"
            raise web.HTTPBadRequest(text=f'{kind} "{wanted["container"]}" in pod "{wanted["pod"]}" not found')
        return await self._send(request, record, files[-1], follow=query.get("follow") == "true" and not previous)

    async def _send(
        self, request: web.Request, record: ContainerRecord, file: Path, *, follow: bool
    ) -> web.StreamResponse:
        data = await asyncio.to_thread(file.read_bytes)
        position = len(data)
        if "tailLines" in request.query:
            data = tail(data, int(request.query["tailLines"]))
        if "limitBytes" in request.query:
            data = data[: int(request.query["limitBytes"])]
        answer = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await answer.prepare(request)
        await answer.write(data)
        attempt = record.state
        while follow:
            ended = record.state != attempt or not isinstance(record.state, Running)
            with file.open("rb") as source:
                source.seek(position)
                fresh = source.read(_PIECE)
            position += len(fresh)
            if fresh:
                await answer.write(fresh)
            elif ended:
                break
            else:
                await asyncio.sleep(_LOOKS_EVERY_S)
        await answer.write_eof()
        return answer
