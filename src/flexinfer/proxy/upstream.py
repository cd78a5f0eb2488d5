"""Pooled connections to engines: one request out, its answer back as bytes, cut off when nobody wants it.

A connection reads an answer only to find its end; the bytes go on as they came. It is used again
only after an answer that ended exactly where its framing said, and only while it is fresh: engines
close idle connections after a few seconds, and a POST that meets such a close may have been begun.
"""

from __future__ import annotations

import asyncio
import errno
import select
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Literal, Protocol, cast

from flexinfer.api import hosts
from flexinfer.proxy.answerhead import AnswerHead, AnswerReader, BadAnswer
from flexinfer.proxy.chunks import BadChunk, ChunkReader
from flexinfer.proxy.outgoing import Sender, Turn
from flexinfer.proxy.retries import bytes_acked
from flexinfer.proxy.settings import ProxySettings
from flexinfer.routing.base import Endpoint

_IDLE, _HEAD, _LENGTH, _CHUNKED, _CLOSE, _OVER = range(6)

REST_S = 0.25
"""Some engines close a connection after each stream without saying so (llama.cpp in the xllamacpp wheel), a
moment after its end. Until one of an endpoint has stayed open for so long, none that streamed is used again."""


NotConnected = Literal["refused", "exhausted", "failed"]
"""The port was closed; this process has no descriptors left; anything else."""


class Sink(Protocol):
    """Who takes the answer. All calls come from the event loop; after `failed` or `ended` none follows."""

    @property
    def heard_at(self) -> float:
        """When the engine last sent a part of this stream; 0: it has sent no event of one."""
        ...

    def connected(self, upstream: UpstreamConnection) -> None:
        """A connection is there: send the request."""
        ...

    def not_connected(self, reason: str, why: NotConnected) -> None:
        """No connection could be made; no byte was sent."""
        ...

    def head(self, head: AnswerHead, *, body_follows: bool) -> None:
        """The head of the answer; `body_follows`: the first bytes of the body came with it."""
        ...

    def body(self, raw: bytes, payload: bytes) -> None:
        """Bytes as they came, and the payload in them."""
        ...

    def ended(self, tail: bytes) -> None:
        """The answer is complete; `tail` is the last chunk of a chunked one."""
        ...

    def failed(self, reason: str, *, unseen: bool) -> None:
        """The engine broke, or what it sent is not HTTP. `unseen`: no byte of the request had reached it."""
        ...


class UpstreamConnection(Sender):
    __slots__ = ("_buffer", "_chunks", "_interim", "_keep_alive", "_left", "_max_head", "_pool", "_readable", "_sent",
                 "_sent_before", "_state", "idle_since", "sink")  # fmt: skip

    def __init__(self, pool: EndpointPool) -> None:
        super().__init__(pool.turn)
        self._pool = pool
        self._max_head = pool.settings.max_answer_header_bytes
        self._state = _IDLE
        self._buffer = b""
        self._left = 0
        self._interim = 0
        self._sent = 0
        self._sent_before = 0
        """Bytes of the requests before this one."""
        self._keep_alive = False
        self._chunks: ChunkReader | None = None
        self.sink: Sink | None = None
        self._readable: select.poll | None = None
        self.idle_since = 0.0

    @property
    def chunks(self) -> ChunkReader | None:
        """The state of a chunked answer, for whoever has to end it in another way."""
        return self._chunks

    def send(self, sink: Sink, request: bytes) -> None:
        assert self.transport is not None
        self.sink = sink
        self._state = _HEAD
        self._interim = 0
        self._sent_before = self._sent
        self._sent += len(request)
        self.write_soon(request)

    @property
    def silent(self) -> bool:
        """No bytes and no end have come that were not read yet; they would be taken for the next answer."""
        readable = self._readable
        return self._state == _IDLE and self.transport is not None and readable is not None and not readable.poll(0)

    @property
    def reused(self) -> bool:
        """It has carried a request before."""
        return self._sent_before > 0

    def abort(self) -> None:
        """Close at once; the engine stops computing. The sink hears nothing more."""
        self.sink = None
        self._state = _OVER
        self._unsent = b""
        if self.transport is not None:
            self.transport.abort()

    def pause_reading(self) -> None:
        if self.transport is not None and self._state != _OVER:
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if self.transport is not None and self._state != _OVER:
            self.transport.resume_reading()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._readable = select.poll()
        self._readable.register(transport.get_extra_info("socket").fileno(), select.POLLIN | select.POLLRDHUP)

    def connection_lost(self, exc: Exception | None) -> None:
        state, self._state = self._state, _OVER
        sink, self.sink = self.sink, None
        unseen = sink is not None and state == _HEAD and self._unseen(exc)
        self.transport = None
        self._pool.forget(self)
        if sink is None:
            return
        if state == _CLOSE and exc is None:
            sink.ended(b"")
        elif state == _HEAD:
            sink.failed("it closed the connection before it answered", unseen=unseen)
        else:
            sink.failed("it closed the connection in the middle of its answer", unseen=False)

    def _unseen(self, exc: Exception | None) -> bool:
        """Whether the connection ended before a byte of the request had reached the engine.

        An orderly end acknowledges what came before it, so what it left out never arrived. A reset does
        not: on a connection that was used before, acknowledgements are delayed, and the engine may have
        read what looks as if it had not arrived.
        """
        if self._unsent:
            return True
        transport = self.transport
        if transport is None or self._buffer or self._interim:
            return False
        if isinstance(exc, ConnectionResetError) and self.reused:
            return False
        sock = transport.get_extra_info("socket")
        if sock is None or transport.get_extra_info("ssl_object") is not None:
            return False
        acked = bytes_acked(sock)
        return acked is not None and acked <= self._sent_before

    def data_received(self, data: bytes) -> None:
        sink = self.sink
        if sink is None:
            # Bytes that nobody asked for: they must never reach the next client.
            self.abort()
            return
        state = self._state
        if state == _CHUNKED:
            chunks = self._chunks
            assert chunks is not None
            try:
                payload = chunks.feed(data)
            except BadChunk as error:
                self._fail(sink, f"its answer is not valid HTTP: {error}")
                return
            if chunks.raw:
                sink.body(chunks.raw, payload)
            if chunks.done and self.sink is sink:
                if chunks.extra:
                    self._keep_alive = False
                self._end(sink, chunks.tail)
        elif state == _HEAD:
            self._head(sink, data)
        elif state == _LENGTH:
            self._length(sink, data)
        elif state == _CLOSE:
            sink.body(data, data)

    def _head(self, sink: Sink, data: bytes) -> None:
        if self._unsent:
            self._fail(sink, "it answered before it was asked", unseen=True)
            return
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        heads = self._pool.heads
        while True:
            end = data.find(b"\r\n\r\n") + 4
            if end < 4 or end > self._max_head:
                if len(data) >= self._max_head:
                    self._fail(sink, "the head of its answer is too large")
                else:
                    self._buffer = data
                return
            raw = data[:end]
            try:
                head = heads.known(raw) or heads.read(raw)
            except BadAnswer as error:
                self._fail(sink, f"its answer is not valid HTTP: {error}")
                return
            data = data[end:]
            if head.status >= 200:
                break
            self._interim += 1
            if self._interim > self._pool.settings.max_interim_answers:
                self._fail(sink, "it sent too many interim answers")
                return
            if not data:
                return
        self._start_body(sink, head, data)

    def _start_body(self, sink: Sink, head: AnswerHead, data: bytes) -> None:
        self._keep_alive = head.keep_alive
        if head.status == 204 or head.status == 304 or head.content_length == 0:
            self._state = _LENGTH
            self._left = 0
        elif head.chunked:
            self._state = _CHUNKED
            self._left = -1
            self._chunks = ChunkReader()
        elif head.content_length > 0:
            self._state = _LENGTH
            self._left = head.content_length
        else:
            self._state = _CLOSE
            self._left = -1
            self._keep_alive = False
        sink.head(head, body_follows=bool(data) and self._left != 0)
        if self.sink is not sink:
            return
        if self._state == _LENGTH:
            self._length(sink, data)
        elif data:
            self.data_received(data)

    def _length(self, sink: Sink, data: bytes) -> None:
        extra = len(data) > self._left
        if extra:
            data = data[: self._left]
            self._keep_alive = False
        self._left -= len(data)
        if data:
            sink.body(data, data)
        if self._left == 0 and self.sink is sink:
            self._end(sink, b"")

    def _end(self, sink: Sink, tail: bytes) -> None:
        self.sink = None
        chunked = self._chunks is not None
        self._chunks = None
        self._state = _IDLE
        if self._keep_alive:
            self._pool.put_back(self, chunked=chunked)
        else:
            self.abort()
        sink.ended(tail)

    def _fail(self, sink: Sink, reason: str, *, unseen: bool = False) -> None:
        self.sink = None
        sink.failed(reason, unseen=unseen)
        self.abort()


class EndpointPool:
    """The connections to one endpoint."""

    def __init__(self, endpoint: Endpoint, upstreams: Upstreams) -> None:
        self.endpoint = endpoint
        self.settings = upstreams.settings
        self.heads = upstreams.heads
        self.turn = upstreams.turn
        self.last_used = 0.0
        self.key_line = b""
        authority = endpoint.authority or f"{hosts.literal(endpoint.host)}:{endpoint.port}"
        self.host_line = b"Host: " + authority.encode("ascii")
        self._upstreams = upstreams
        self._idle: list[UpstreamConnection] = []
        self._open: set[UpstreamConnection] = set()
        self._open_after_chunks = False
        """Seen: this engine does not close a connection behind a chunked answer."""

    def take(self, now: float) -> UpstreamConnection | None:
        """A fresh idle connection, if there is one."""
        self.last_used = now
        idle = self._idle
        while idle:
            connection = idle.pop()
            if now - connection.idle_since <= self.settings.upstream_idle_s and connection.silent:
                return connection
            connection.abort()
        return None

    def dial(self, sink: Sink) -> None:
        """Calls `sink.connected` or `sink.not_connected` later."""
        self._upstreams.dial(self, sink)

    def put_back(self, connection: UpstreamConnection, *, chunked: bool = False) -> None:
        """`chunked`: how its last answer came."""
        connection.idle_since = self._upstreams.now
        if chunked and not self._open_after_chunks:
            asyncio.get_running_loop().call_later(REST_S, self._rested, connection)
        else:
            self._idle.append(connection)

    def _rested(self, connection: UpstreamConnection) -> None:
        """Its time is over: it may be used again if the engine has left it open."""
        if connection.silent:
            self._open_after_chunks = True
            self._idle.append(connection)
        else:
            connection.abort()

    def opened(self, connection: UpstreamConnection) -> None:
        self._open.add(connection)

    def forget(self, connection: UpstreamConnection) -> None:
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def heard_since(self, at: float) -> bool:
        """Whether a part of a stream that is open has come since then."""
        return any(connection.sink is not None and connection.sink.heard_at > at for connection in self._open)

    def sweep(self, now: float) -> bool:
        """Closes what was idle too long; True if nothing is open and it has not been used for a minute."""
        limit = now - self.settings.upstream_idle_s
        for connection in [c for c in self._idle if c.idle_since < limit]:
            connection.abort()
            self._idle.remove(connection)
        return not self._open and now - self.last_used > 60.0

    def close(self) -> None:
        self._idle.clear()
        for connection in tuple(self._open):
            connection.abort()


class Upstreams:
    """All connections to engines of one server."""

    def __init__(
        self,
        settings: ProxySettings,
        check_address: Callable[[str], str | None] | None = None,
    ) -> None:
        self.settings = settings
        self.heads = AnswerReader()
        self.turn = Turn()
        self.now = 0.0
        """Monotonic time, at most one sweep old; a connection never seems fresher than it is."""
        self._check_address = check_address
        self._pools: dict[int, EndpointPool] = {}
        self._dials: set[asyncio.Task[None]] = set()
        self._tls: ssl.SSLContext | None = None

    def pool(self, endpoint: Endpoint) -> EndpointPool:
        # By identity: hashing all fields costs more than the rest of the look-up. The pool keeps its
        # endpoint alive, so the id stays its own.
        pool = self._pools.get(id(endpoint))
        if pool is None:
            pool = next((p for p in self._pools.values() if p.endpoint == endpoint), None)
            if pool is None:
                pool = EndpointPool(endpoint, self)
                self._pools[id(endpoint)] = pool
        return pool

    def sweep(self, now: float) -> None:
        for key in [key for key, pool in self._pools.items() if pool.sweep(now)]:
            del self._pools[key]

    @property
    def busy(self) -> bool:
        return bool(self._pools or self._dials)

    def dial(self, pool: EndpointPool, sink: Sink) -> None:
        task = asyncio.get_running_loop().create_task(self._dial(pool, sink))
        self._dials.add(task)
        task.add_done_callback(self._dials.discard)

    async def _dial(self, pool: EndpointPool, sink: Sink) -> None:
        endpoint = pool.endpoint
        reason = self._check_address(endpoint.host) if self._check_address is not None else None
        if reason is not None:
            sink.not_connected(reason, "failed")
            return
        loop = asyncio.get_running_loop()
        try:
            pool.key_line = _key_line(endpoint.api_key_file)
            # No name is looked up: host is an address.
            _, connection = await asyncio.wait_for(
                loop.create_connection(
                    lambda: UpstreamConnection(pool),
                    endpoint.host,
                    endpoint.port,
                    ssl=self._tls_context() if endpoint.tls_server_name else None,
                    server_hostname=endpoint.tls_server_name or None,
                ),
                self.settings.connect_timeout_s,
            )
        except ConnectionRefusedError:
            sink.not_connected("connection refused", "refused")
            return
        except TimeoutError:
            sink.not_connected(f"no connection within {self.settings.connect_timeout_s:g} s", "failed")
            return
        except OSError as error:
            exhausted = error.errno in (errno.EMFILE, errno.ENFILE)
            sink.not_connected(error.strerror or str(error), "exhausted" if exhausted else "failed")
            return
        if connection.transport is None:
            # Taken by the kernel of an engine that was just ending; nothing has been sent.
            sink.not_connected("it closed the connection at once", "refused")
            return
        pool.opened(connection)
        sink.connected(connection)
        if connection.sink is None and connection.transport is not None:
            pool.put_back(connection)  # whoever asked for it is gone

    def _tls_context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context()
        return self._tls

    async def close(self) -> None:
        for task in tuple(self._dials):
            task.cancel()
        if self._dials:
            await asyncio.gather(*self._dials, return_exceptions=True)
        for pool in self._pools.values():
            pool.close()
        self._pools.clear()


def _key_line(path: str) -> bytes:
    """The Authorization field for an endpoint whose key stands in `path`; empty without one."""
    if not path:
        return b""
    lines = Path(path).read_bytes().splitlines()
    key = lines[0].strip() if lines else b""
    if not key or not key.isascii() or any(byte <= 0x20 or byte == 0x7F for byte in key):
        raise OSError(f"{path} holds no usable key")
    return b"Authorization: Bearer " + key + b"\r\n"
