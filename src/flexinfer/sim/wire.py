"""HTTP/1.1 for the simulator: asyncio protocols over httptools, with every way to break an answer off.

A general web framework takes longer to import than a simulated engine may take to start, and it ends
answers properly even when asked not to.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping

import httptools
import msgspec

REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 500: "Internal Server Error"}
MAX_BODY_BYTES = 64 * 2**20


class Request(msgspec.Struct, kw_only=True):
    method: str
    path: str
    headers: Mapping[str, str]
    """Names in lower case; of a repeated one the last."""
    body: bytes


class Exchange:
    """One request and the means to answer it, or not to."""

    def __init__(self, request: Request, connection: Connection) -> None:
        self.request = request
        self._connection = connection
        self.answered = False
        """Whether the head of the answer is out."""
        self.closed_at: float | None = None
        """Unix time at which the client was seen to have gone; None while it is there."""

    def answer(
        self, status: int, body: bytes, content_type: str = "application/json", headers: Mapping[str, str] | None = None
    ) -> None:
        """A whole answer."""
        self._head(status, content_type, {"Content-Length": str(len(body)), **(headers or {})}, body)

    def begin(self, content_type: str) -> None:
        """The head of a chunked answer."""
        self._head(200, content_type, {"Transfer-Encoding": "chunked", "Cache-Control": "no-cache"}, b"")

    async def send(self, data: bytes) -> None:
        """One chunk; waits while the client is slower than we are."""
        self._connection.write(b"%x\r\n%b\r\n" % (len(data), data))
        await self._connection.writable.wait()

    def finish(self) -> None:
        """The proper end of a chunked answer."""
        self._connection.write(b"0\r\n\r\n")

    def close(self) -> None:
        """Close the connection as it stands: what was sent arrives, then end of file."""
        self._connection.close()

    def reset(self) -> None:
        """Reset the connection: what was not yet read may be lost."""
        self._connection.reset()

    def _head(self, status: int, content_type: str, headers: Mapping[str, str], body: bytes) -> None:
        self.answered = True
        lines = [f"HTTP/1.1 {status} {REASONS.get(status, 'Unknown')}", f"Content-Type: {content_type}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._connection.write("\r\n".join([*lines, "", ""]).encode() + body)


Handler = Callable[[Exchange], Awaitable[None]]


class Connection(asyncio.Protocol):
    """One client; its requests are answered one after the other."""

    def __init__(self, handler: Handler, open_connections: set[Connection]) -> None:
        self._handler = handler
        self._all = open_connections
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._waiting: deque[Request] = deque()
        self._exchange: Exchange | None = None
        self._task: asyncio.Task[None] | None = None
        self._url = b""
        self._headers: dict[str, str] = {}
        self._body = bytearray()
        self._last = False
        self.writable = asyncio.Event()
        self.writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._all.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._all.discard(self)
        self.writable.set()
        if self._exchange is not None:
            self._exchange.closed_at = time.time()
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.close()
        except httptools.HttpParserError:
            self.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            self.close()

    def on_message_begin(self) -> None:
        self._url, self._headers, self._body = b"", {}, bytearray()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        if self._headers.get("expect", "").lower() == "100-continue":
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._body += body
        if len(self._body) > MAX_BODY_BYTES:
            self.close()

    def on_message_complete(self) -> None:
        self._last = not self._parser.should_keep_alive()
        method = self._parser.get_method().decode()
        path = httptools.parse_url(self._url).path.decode()
        self._waiting.append(Request(method=method, path=path, headers=self._headers, body=bytes(self._body)))
        self._next()

    def write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def reset(self) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        # Closing with a linger time of zero makes the system send RST in place of FIN.
        connection: socket.socket = self._transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def _next(self) -> None:
        if self._task is None and self._waiting:
            self._exchange = Exchange(self._waiting.popleft(), self)
            self._task = asyncio.get_running_loop().create_task(self._handler_task(self._exchange))

    async def _handler_task(self, exchange: Exchange) -> None:
        try:
            await self._handler(exchange)
        except asyncio.CancelledError:
            # The client has gone; there is nobody to answer.
            return
        except Exception:
            # A mistake of ours; the client must not wait for its outcome.
            self.abort()
            raise
        finally:
            self._task = self._exchange = None
        if self._last and not self._waiting:
            self.close()
        else:
            self._next()


class Listener:
    """A bound port that refuses connections until `listen` is called, and all connections made to it."""

    def __init__(self, host: str, port: int) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((host, port))
        except OSError:
            self._socket.close()
            raise
        self.host: str = host
        self.port: int = self._socket.getsockname()[1]
        self.connections: set[Connection] = set()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    async def listen(self, handler: Handler) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Connection(handler, self.connections), sock=self._socket, backlog=1024
        )

    def close(self) -> None:
        """Refuse new connections; those that are open stay."""
        if self._server is not None:
            self._server.close()
        else:
            self._socket.close()

    async def close_connections(self, flush_s: float) -> None:
        """End every connection; what is written arrives if the client takes it within `flush_s`."""
        for connection in list(self.connections):
            connection.close()
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + flush_s
        while self.connections and loop.time() < deadline_s:
            await asyncio.sleep(0.001)
        for connection in list(self.connections):
            connection.abort()
        while self.connections:
            await asyncio.sleep(0)
