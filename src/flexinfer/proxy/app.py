"""The server of the OpenAI API: which request goes where, and how the whole of it starts and drains.

Inference requests become an Exchange; everything else is answered here.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
from collections.abc import Callable
from typing import Protocol

import msgspec

from flexinfer import __version__, logs
from flexinfer.clock import Clock, SystemClock
from flexinfer.errors import RequestError
from flexinfer.openai import paths
from flexinfer.openai.errors import refuse
from flexinfer.openai.request import parse
from flexinfer.proxy import listener
from flexinfer.proxy.accesslog import AccessLog
from flexinfer.proxy.admission import Admission
from flexinfer.proxy.connection import ClientConnection
from flexinfer.proxy.exchange import Exchange
from flexinfer.proxy.gate import Gate
from flexinfer.proxy.listener import Listener
from flexinfer.proxy.origins import is_preflight, preflight_fields
from flexinfer.proxy.requesthead import RequestHead, RequestReader
from flexinfer.proxy.retries import RetryBudget
from flexinfer.proxy.settings import ProxySettings
from flexinfer.proxy.upstream import Upstreams

log = logs.get("proxy")

LARGE_BODY_BYTES = 8 * 1024 * 1024
"""One so large is taken only where memory has room for it, and memory is read again for so many bytes of bodies."""

_JSON = (("Content-Type", "application/json"),)
_METRICS = (("Content-Type", "text/plain; version=0.0.4; charset=utf-8"),)
_WELCOME = (
    msgspec.json.format(
        msgspec.json.encode(
            {
                "service": "flexinfer",
                "version": __version__,
                "api": "OpenAI's; the models are at /v1/models",
                "endpoints": [f"{route.allow} {route.path}" for route in paths.ROUTES],
            }
        )
    )
    + b"\n"
)
_SANE_ID = re.compile(rb"[A-Za-z0-9._\-]{1,128}")


class ByHost(Protocol):
    """Whom the Host of a request lets it see."""

    def called(self, head: RequestHead, model: str) -> Admission:
        """For a request whose body names this model, or none (""). Raises RequestError."""
        ...

    def listing(self, head: RequestHead) -> Admission:
        """For a look at the list of models. Raises RequestError."""
        ...


class Server:
    """The request path of one port. All methods are called from the event loop it was started in."""

    def __init__(
        self,
        admission: Admission,
        settings: ProxySettings | None = None,
        render_metrics: Callable[[], bytes] | None = bytes,
        clock: Clock | None = None,
        *,
        check_address: Callable[[str], str | None] | None = None,
        gate: Gate | None = None,
        access: AccessLog | None = None,
        by_host: ByHost | None = None,
        memory_overload: Callable[[int], str | None] | None = None,
    ) -> None:
        """`memory_overload` says why so many bytes more may not be taken, or None."""
        self.admission = admission
        self.settings = settings or ProxySettings()
        self.heads = RequestReader(self.settings.max_header_fields)
        self.clock: Clock = clock or SystemClock()
        self.now = self.clock.monotonic()
        self.draining = False
        """Not ready any more: answers end their connections."""
        self.ending = False
        """Requests are refused, and connections close with whatever answer comes last on them."""
        self.overloaded: str | None = None
        self.access = access
        self.requests = 0
        """Forwarded or refused by admission, since the start."""
        self._by_host = by_host
        self._gate = gate or Gate()
        self._guarded = self._gate.guarded
        self._memory_overload = memory_overload
        self._retries = RetryBudget()
        self.upstreams = Upstreams(self.settings, check_address)
        self.turn = self.upstreams.turn
        self._monotonic = self.clock.monotonic
        self._render_metrics = render_metrics
        self._connections: set[ClientConnection] = set()
        self._listener: Listener | None = None
        self._most_connections = 0
        self._sweeper: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._body_bytes = 0
        self._unread_bytes = 0
        """Of bodies that came since memory was last read."""
        self._emptied: asyncio.Event | None = None
        self._id_prefix = os.urandom(6).hex().encode()
        self._id_count = 0

    # life

    async def start(self, host: str = "127.0.0.1", port: int = 0, *, sock: socket.socket | None = None) -> int:
        """Listen on `sock`, or on host and port; the bound port. OSError if that is not possible."""
        self._loop = asyncio.get_running_loop()
        sockets = [sock] if sock is not None else await listener.bind(host, port)
        self._most_connections = listener.client_limit()
        self._listener = Listener(sockets, self._protocol, self._may_accept)
        return self._listener.port

    def _may_accept(self) -> bool:
        starting = self._listener.starting if self._listener is not None else 0
        return len(self._connections) + starting < self._most_connections

    def _protocol(self) -> ClientConnection:
        return ClientConnection(self)

    def begin_leaving(self) -> None:
        """From here on `/readyz` answers 503, and clients are to come back elsewhere; whoever comes is served."""
        self.draining = True

    def begin_drain(self) -> None:
        """From here on `/readyz` answers 503 and new requests 503 `shutting_down`; open ones go on."""
        self.draining = self.ending = True

    def stop_listening(self) -> None:
        """Accept what waits, then no more; whoever is connected is served on."""
        if self._listener is not None:
            self._listener.close()

    async def drain(self, grace_s: float) -> int:
        """Close the listener, wait for open requests, cut the rest; how many had to be cut."""
        self.begin_drain()
        self.stop_listening()
        for connection in tuple(self._connections):
            if connection.idle:
                connection.close()
        self._emptied = asyncio.Event()
        if self.busy:
            try:
                await asyncio.wait_for(self._emptied.wait(), grace_s)
            except TimeoutError:
                pass
        open_ones = [c.pending for c in self._connections if isinstance(c.pending, Exchange)]
        for exchange in open_ones:
            exchange.cut(refuse("shutting_down", "the proxy is shutting down", retry_after_s=5))
        return len(open_ones)

    async def stop(self) -> None:
        """Close everything at once; after `drain`, what is left."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        # One turn for what was just written; a connection that is closing flushes by itself.
        await asyncio.sleep(0)
        for connection in tuple(self._connections):
            connection.close()
        for _ in range(100):
            if not self._connections:
                break
            await asyncio.sleep(0.01)
        for connection in tuple(self._connections):
            connection.abort()
        await self.upstreams.close()
        if self.access is not None:
            await self.access.close()
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None

    @property
    def busy(self) -> bool:
        """An answer is pending, or not yet taken by its client."""
        return any(connection.busy for connection in self._connections)

    @property
    def open_requests(self) -> int:
        return sum(1 for connection in self._connections if connection.pending is not None)

    # time: one timer for all connections, and none when there are none

    def read_clock(self) -> float:
        now = self.now = self.upstreams.now = self._monotonic()
        return now

    def _start_sweeping(self) -> None:
        if self._sweeper is None and self._loop is not None:
            self.read_clock()
            self._sweeper = self._loop.call_later(self.settings.sweep_interval_s, self._sweep)

    def _sweep(self) -> None:
        self._sweeper = None
        now = self.read_clock()
        for connection in tuple(self._connections):
            connection.check(now)
        self.upstreams.sweep(now)
        self._retries.mark(self.requests, now)
        self._check_memory()
        if self._connections or self.upstreams.busy or self.overloaded:
            self._start_sweeping()

    def _check_memory(self) -> None:
        if self._memory_overload is None:
            return
        self._unread_bytes = 0
        before, self.overloaded = self.overloaded, self._memory_overload(0)
        if self.overloaded and not before:
            log.warning("new requests are refused", reason=self.overloaded)
        elif before and not self.overloaded:
            log.info("new requests are taken again")

    def may_retry(self) -> bool:
        """Whether one more request may be sent a second time; it then counts."""
        return self._retries.take(self.requests, self.read_clock())

    # Service

    def opened(self, connection: ClientConnection) -> bool:
        self._connections.add(connection)
        self._start_sweeping()
        return len(self._connections) <= self.settings.max_connections

    def closed(self, connection: ClientConnection) -> None:
        self._connections.discard(connection)
        if self._emptied is not None and not self.busy:
            self._emptied.set()
        if self._listener is not None and self._listener.paused:
            self._listener.resume()

    def reserve(self, size: int) -> None:
        if self._body_bytes + size > self.settings.body_memory_bytes:
            raise refuse("overloaded", "too many request bodies are held at once", retry_after_s=5)
        self._unread_bytes += size
        if self._unread_bytes >= LARGE_BODY_BYTES:
            # Whose bytes are too many is refused, which gives them back; the others may go on.
            self._unread_bytes = 0
            self._check_room(0)
        self._body_bytes += size

    def check_room(self, size: int) -> None:
        if size >= LARGE_BODY_BYTES:
            self._check_room(size)

    def _check_room(self, size: int) -> None:
        reason = self._memory_overload(size) if self._memory_overload is not None else None
        if reason is not None:
            raise _overloaded(reason)

    def release(self, size: int) -> None:
        self._body_bytes -= size

    def id_line(self, head: RequestHead | None) -> bytes:
        """With the client's own id if it is harmless, else one of ours."""
        if head is None:
            return self._own_id_line()
        if not head.id_line:
            own = head.request_id and _SANE_ID.fullmatch(head.request_id)
            head.id_line = b"X-Request-ID: %b\r\n" % head.request_id if own else self._own_id_line()
        return head.id_line

    def _own_id_line(self) -> bytes:
        self._id_count += 1
        return b"X-Request-ID: %b-%x\r\n" % (self._id_prefix, self._id_count)

    def check_route(self, head: RequestHead) -> None:
        if self._guarded or head.origin:
            self._gate.enter(head, self.now)
            if head.origin and is_preflight(head.method, head.fields):
                return
        paths.find(head.method, head.target)
        self._check_open()

    def _check_open(self) -> None:
        if self.ending:
            raise _shutting_down()
        if self.overloaded:
            raise _overloaded(self.overloaded)

    def handle(self, connection: ClientConnection, head: RequestHead, body: bytes) -> None:
        try:
            if self._guarded or head.origin:
                self._gate.enter(head, self.now)
            if head.target in paths.INFERENCE_TARGETS and head.method == b"POST":
                self._forward(connection, head, body)
            else:
                self._other(connection, head, body)
        except RequestError as error:
            connection.respond_error(head, error)
        except Exception:
            # The border of a request: whatever broke, this client gets an answer and the others go on.
            log.exception("request failed", target=head.target[:200].decode("ascii", "replace"))
            broken = refuse("internal_error", "FlexInfer failed on this request")
            if isinstance(connection.pending, Exchange):
                connection.pending.cut(broken)
            else:
                connection.respond_error(head, broken)

    def _forward(self, connection: ClientConnection, head: RequestHead, body: bytes) -> None:
        if self.ending or self.overloaded:
            self._check_open()
        admission = self.admission
        if self._by_host is None:
            request = parse(body, head.content_type)
        else:
            request = parse(body, head.content_type, may_be_nameless=True)
            admission = self._by_host.called(head, request.model)
        if len(body) >= LARGE_BODY_BYTES:
            self.check_room(len(body))  # for the copy that goes to the engine
        self.requests += 1
        Exchange(self, connection, head, body).start(request, admission, self.read_clock())

    def _other(self, connection: ClientConnection, head: RequestHead, body: bytes) -> None:
        if head.origin and is_preflight(head.method, head.fields):
            connection.respond(head, 204, preflight_fields(head.fields), b"")
            return
        match = paths.find(head.method, head.target)
        kind = match.route.kind
        if kind == "inference":
            self._forward(connection, head, body)
        elif kind == "models":
            listed = {"object": "list", "data": self._listing(head).models()}
            connection.respond(head, 200, _JSON, msgspec.json.encode(listed))
        elif kind == "model":
            connection.respond(head, 200, _JSON, msgspec.json.encode(self._listing(head).listed(match.model_id)))
        elif kind == "root":
            connection.respond(head, 200, _JSON, _WELCOME)
        elif kind == "metrics" and self._render_metrics is None:
            raise refuse("not_found", "metrics are served on a port of their own")
        elif kind == "metrics" and self._render_metrics is not None:
            connection.respond(head, 200, _METRICS, self._render_metrics())
        elif kind == "readyz" and (self.draining or self.admission.draining()):
            raise _shutting_down()
        else:
            connection.respond(head, 200, _JSON, b'{"status":"ok"}')

    def _listing(self, head: RequestHead) -> Admission:
        return self.admission if self._by_host is None else self._by_host.listing(head)


def _shutting_down() -> RequestError:
    return refuse("shutting_down", "the proxy is shutting down", retry_after_s=5)


def _overloaded(reason: str) -> RequestError:
    return refuse("overloaded", f"no new request is taken: {reason}", retry_after_s=5)
