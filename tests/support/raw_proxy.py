"""The whole request path in a thread, its engine in front of the test, and a client that blocks.

One proxy serves hundreds of cases: the real activator, metrics and access log, one Model `m1`.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from typing import Any

import uvloop
from tests.support.background import beside
from tests.support.models import manifest
from tests.support.proxy import Engine, Received, Script

from flexinfer.api import codec
from flexinfer.clock import SystemClock
from flexinfer.kube.informer import Informer
from flexinfer.kube.memory import MemoryStore
from flexinfer.kube.store import ENDPOINT_SLICES, MODELS
from flexinfer.metrics.proxy import ProxyMetrics
from flexinfer.metrics.registry import Registry
from flexinfer.proxy.accesslog import AccessLog
from flexinfer.proxy.activator import Activator
from flexinfer.proxy.app import Server
from flexinfer.proxy.endpoints import EndpointSlice, decode_slice
from flexinfer.proxy.gate import Gate
from flexinfer.proxy.settings import ProxySettings

TIMEOUT_S = 10.0


def slice_of(model: str, port: int) -> dict[str, Any]:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": model, "namespace": "default", "labels": {"kubernetes.io/service-name": model}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": port}],
        "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": True}}],
    }


class RawProxy:
    """Runs from `running` on; what `script` says is how its engine answers, and may be changed between cases."""

    def __init__(self, script: Script, gate: Gate | None, settings: ProxySettings) -> None:
        self.engine = Engine(script)
        self.port = 0
        self.access_lines: list[dict[str, Any]] = []
        self.answered: list[tuple[str, int]] = []
        """Request id and status of every answer that a Client has read."""
        self._gate = gate
        self._settings = settings
        self._ready = threading.Event()
        self._end: Callable[[], object] = bool
        self._thread = threading.Thread(target=self._run, name="raw proxy", daemon=True)

    @contextmanager
    def running(self) -> Iterator[RawProxy]:
        self._thread.start()
        assert self._ready.wait(TIMEOUT_S)
        try:
            yield self
        finally:
            self._end()
            self._thread.join(TIMEOUT_S)
            assert not self._thread.is_alive()

    def client(self) -> Client:
        return Client(self)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        clock = SystemClock()
        store = MemoryStore(clock)
        models = Informer(store, MODELS, codec.from_object)
        slices: Informer[EndpointSlice] = Informer(store, ENDPOINT_SLICES, decode_slice)
        metrics = ProxyMetrics(clock)
        activator = Activator(store, models, slices, metrics, clock)
        access = AccessLog(self._take_lines, clock)
        server = Server(activator, self._settings, Registry(metrics).render, clock, gate=self._gate, access=access)
        over = asyncio.Event()
        loop = asyncio.get_running_loop()
        self._end = lambda: loop.call_soon_threadsafe(over.set)
        async with AsyncExitStack() as stack:
            endpoint = await self.engine.start()
            stack.push_async_callback(self.engine.stop)
            await store.create(MODELS, manifest("m1"))
            await store.create(ENDPOINT_SLICES, slice_of("m1", endpoint.port))
            for work in (models.run(), slices.run(), activator.run()):
                await stack.enter_async_context(beside(work))
            await models.wait_synced()
            await slices.wait_synced()
            await activator.started.wait()
            self.port = await server.start("127.0.0.1", 0)
            stack.push_async_callback(server.stop)
            self._ready.set()
            await over.wait()

    def _take_lines(self, block: bytes) -> None:
        assert block.endswith(b"\n")
        self.access_lines += [json.loads(line) for line in block[:-1].split(b"\n")]

    # what tests look at

    def series(self) -> set[str]:
        """Names and labels of all metric series."""
        client = self.client()
        client.send(b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        answer = client.answer()
        client.close()
        return {line.rpartition(b" ")[0].decode() for line in answer.body.splitlines() if not line.startswith(b"#")}


class RawAnswer:
    def __init__(self, head: bytes) -> None:
        assert re.fullmatch(
            rb"HTTP/1\.1 [1-5][0-9]{2} [ -~\x80-\xff]*\r\n(?:[!-9;-~]+:[\t -~\x80-\xff]*\r\n)*\r\n", head
        ), head
        self.head = head
        self.status = int(head[9:12])
        self.body = b""
        self.whole = True
        """It ended where its framing says."""

    def header(self, name: str) -> list[str]:
        return Received(self.head, b"").header(name)

    @property
    def code(self) -> str:
        """Of an error of ours."""
        if not self.body.startswith(b'{"error":'):
            return ""
        error = json.loads(self.body)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["message"].isprintable(), error
        return str(error["code"])


class Client:
    def __init__(self, proxy: RawProxy) -> None:
        self._proxy = proxy
        self._socket = socket.create_connection(("127.0.0.1", proxy.port), TIMEOUT_S)
        self._buffer = b""
        self.was_reset = False

    def send(self, data: bytes) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # the answer is there all the same
            self._socket.sendall(data)

    def end(self) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def _more(self) -> bool:
        try:
            data = self._socket.recv(1 << 18)
        except ConnectionResetError:
            self.was_reset = True
            data = b""
        self._buffer += data
        return bool(data)

    def _line_end(self, mark: bytes) -> int:
        at = 0
        while True:
            found = self._buffer.find(mark, at)
            if found >= 0:
                return found + len(mark)
            at = max(0, len(self._buffer) - len(mark))
            if not self._more():
                return -1

    def _take(self, size: int) -> bytes:
        while len(self._buffer) < size and self._more():
            pass
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken

    def answer(self, *, to_head: bool = False) -> RawAnswer:
        end = self._line_end(b"\r\n\r\n")
        assert end > 0, f"no answer, but {self._buffer[:200]!r}"
        answer = RawAnswer(self._take(end))
        lengths, codings = answer.header("content-length"), answer.header("transfer-encoding")
        assert len(lengths) + len(codings) <= 1, answer.head
        if answer.status >= 200:
            [request_id] = answer.header("x-request-id")
            self._proxy.answered.append((request_id, answer.status))
        if to_head or answer.status < 200 or answer.status in (204, 304):
            return answer
        if codings:
            assert codings == ["chunked"]
            self._chunks(answer)
        elif lengths:
            answer.body = self._take(int(lengths[0]))
            answer.whole = len(answer.body) == int(lengths[0])
        else:
            assert answer.header("connection") == ["close"], answer.head
            answer.body = self.rest()
        return answer

    def _chunks(self, answer: RawAnswer) -> None:
        while True:
            end = self._line_end(b"\r\n")
            if end < 0:
                answer.whole = False
                return
            line = self._take(end)
            assert re.fullmatch(rb"[0-9A-Fa-f]+(?:;[\t -~]*)?\r\n", line), line
            size = int(line.split(b";")[0], 16)
            if size == 0:
                break
            data = self._take(size + 2)
            answer.body += data[:size]
            if len(data) < size + 2:
                answer.whole = False
                return
            assert data.endswith(b"\r\n"), data
        while True:
            end = self._line_end(b"\r\n")
            if end < 0:
                answer.whole = False
                return
            if self._take(end) == b"\r\n":
                return

    def rest(self) -> bytes:
        """Everything until the other side closes."""
        while self._more():
            pass
        return self._take(len(self._buffer))

    def close(self) -> None:
        self._socket.close()
