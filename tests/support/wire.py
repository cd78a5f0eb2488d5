"""The whole request path without sockets: a test hands it bytes, in any pieces, and sees what it wrote.

The connections, the server and the exchange are the real ones; only transports and admission are of here.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.manual_clock import ManualClock
from tests.support.proxy import FixedAdmission, FixedTicket, json_answer

from flexinfer.proxy.app import Server
from flexinfer.proxy.connection import ClientConnection
from flexinfer.proxy.requesthead import RequestHead
from flexinfer.proxy.settings import ProxySettings
from flexinfer.proxy.upstream import EndpointPool, Sink, UpstreamConnection, Upstreams
from flexinfer.routing.base import Endpoint

ENGINE = Endpoint(name="e1", host="127.0.0.1", port=1)
EXAMPLES = 2000
_OWN_ID = re.compile(rb"(?<=X-Request-ID: )[0-9a-f]{12}(?=-)")
QUIET, _ = socket.socketpair()
"""A pooled connection is looked at before it is used; nothing ever waits in this one."""

cuts = st.lists(st.integers(0, 4000), max_size=12)


def every(*strategies):
    """A property of a parser: 2,000 examples in `make test`."""

    def decorate(test):
        return settings(max_examples=EXAMPLES, deadline=None)(given(*strategies)(test))

    return decorate


def chunked(payloads: list[bytes]) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in payloads) + b"0\r\n\r\n"


def pieces(data: bytes, at: list[int]) -> list[bytes]:
    marks = sorted({min(cut, len(data)) for cut in at} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(marks)]


def splits(data: bytes, at: list[int]) -> Iterable[list[bytes]]:
    """In one piece, cut as `at` says, and byte by byte."""
    return [data], pieces(data, at), [data[n : n + 1] for n in range(len(data))]


class Pipe:
    """A transport that keeps what is written. Its end reaches the protocol at the next `Wire.settle`."""

    def __init__(self) -> None:
        self.out = bytearray()
        self.over = False
        self.lost = False
        self.held = False
        """Nobody reads what comes in here just now."""

    def write(self, data: bytes) -> None:
        if not self.over:
            self.out += data

    def write_eof(self) -> None:
        self.out += b"<end>"
        self.over = True

    def can_write_eof(self) -> bool:
        return True

    def close(self) -> None:
        if not self.over:
            self.out += b"<closed>"
        self.over = True

    abort = close

    def setsockopt(self, level: int, option: int, value: bytes) -> None:
        """Lingering is set so that the end is a reset."""
        self.out += b"<reset>"

    def get_extra_info(self, name: str) -> object:
        return {"socket": self}.get(name)

    def fileno(self) -> int:
        return QUIET.fileno()

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        raise OSError  # nobody knows what the other side has acknowledged

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int) -> None: ...

    def pause_reading(self) -> None:
        self.held = True

    def resume_reading(self) -> None:
        self.held = False


class Turns:
    """Stands for the event loop while connections are called: its timers are due when a test says so."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self._timers: list[tuple[float, Callable[..., object], tuple[object, ...]]] = []
        self._soon: list[Callable[..., object]] = []

    def call_later(self, delay_s: float, callback: Callable[..., object], *args: object) -> None:
        self._timers.append((self._clock.monotonic() + delay_s, callback, args))

    def call_soon(self, callback: Callable[..., object]) -> None:
        self._soon.append(callback)

    @contextmanager
    def one(self) -> Iterator[None]:
        asyncio._set_running_loop(self)  # type: ignore[arg-type]
        try:
            yield
            self.end()
        finally:
            asyncio._set_running_loop(None)

    def end(self) -> None:
        """What was put off to the end of this turn."""
        while self._soon:
            self._soon.pop(0)()

    def run_due(self) -> None:
        due = [timer for timer in self._timers if timer[0] <= self._clock.monotonic()]
        self._timers = [timer for timer in self._timers if timer not in due]
        for _, callback, args in due:
            callback(*args)


class NoSockets(Upstreams):
    """Connects at once."""

    def __init__(self, settings: ProxySettings) -> None:
        super().__init__(settings)
        self.turn.under_way = 100  # as where many ask: what is written leaves at the end of a turn
        self.made: list[tuple[UpstreamConnection, Pipe]] = []

    def dial(self, pool: EndpointPool, sink: Sink) -> None:
        connection, pipe = UpstreamConnection(pool), Pipe()
        connection.connection_made(pipe)  # type: ignore[arg-type]
        self.made.append((connection, pipe))
        pool.opened(connection)
        sink.connected(connection)


class _Server(Server):
    """Writes down what it acts on."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.handled: list[tuple[bytes, bytes, bytes]] = []

    def handle(self, connection: ClientConnection, head: RequestHead, body: bytes) -> None:
        self.handled.append((head.method, head.target, body))
        super().handle(connection, head, body)


class Wire:
    """One client, one proxy, one engine."""

    def __init__(self, limits: ProxySettings | None = None) -> None:
        self.admission = FixedAdmission(ENGINE)
        clock = ManualClock()
        self._turns = Turns(clock)
        self._server = _Server(self.admission, limits or ProxySettings(), clock=clock)
        self._upstreams = self._server.upstreams = NoSockets(self._server.settings)
        self._server.turn = self._upstreams.turn
        self._client = Pipe()
        self.connection = ClientConnection(self._server)
        self.connection.connection_made(self._client)  # type: ignore[arg-type]

    def from_client(self, data: bytes) -> None:
        if data and not self._client.lost:
            with self._turns.one():
                self.connection.data_received(data)
                self.settle()

    def from_engine(self, data: bytes) -> None:
        """On the connection to the engine that was opened last."""
        connection, pipe = self._upstreams.made[-1]
        if data and not pipe.over:
            with self._turns.one():
                connection.data_received(data)
                self.settle()

    def engine_ends(self, error: OSError | None = None) -> None:
        connection, pipe = self._upstreams.made[-1]
        if not pipe.lost:
            pipe.over = pipe.lost = True
            with self._turns.one():
                connection.connection_lost(error)
                self.settle()

    def client_ends(self) -> None:
        if not self._client.lost:
            self._client.lost = True
            with self._turns.one():
                self.connection.connection_lost(None)
                self.settle()

    def settle(self) -> None:
        """The turn ends. What was closed on this side is lost now. After write_eof the client may still send."""
        self._turns.end()
        for connection, pipe in self._upstreams.made:
            if pipe.over and not pipe.lost:
                pipe.lost = True
                connection.connection_lost(None)
        if self._client.out.endswith(b"<closed>") and not self._client.lost:
            self._client.lost = True
            self.connection.connection_lost(None)

    @property
    def waiting(self) -> bool:
        """The engine has a request that it has not answered."""
        return bool(self._upstreams.made) and self._upstreams.made[-1][0].sink is not None

    @property
    def handled(self) -> list[tuple[bytes, bytes, bytes]]:
        """Method, target and body of each request that was whole and had a valid framing."""
        return self._server.handled

    @property
    def to_client(self) -> bytes:
        return _OWN_ID.sub(b"", bytes(self._client.out))

    @property
    def to_engine(self) -> bytes:
        return _OWN_ID.sub(b"", b"".join(bytes(pipe.out) for _, pipe in self._upstreams.made))

    @property
    def tickets(self) -> list[FixedTicket]:
        return self.admission.tickets


def answered(data: Iterable[bytes], answer: bytes = json_answer()) -> tuple[bytes, bytes]:
    """What engine and client get of the client's bytes; the engine answers each request when it has come."""
    wire = Wire()
    for piece in data:
        wire.from_client(piece)
        while wire.waiting:
            wire.from_engine(answer)
    wire.client_ends()
    assert all(len(ticket.releases) == 1 for ticket in wire.tickets)
    return wire.to_engine, wire.to_client


class Verdicts(NamedTuple):
    answers: list[tuple[int, bytes]]
    """Status, and the code of an error or the body of an answer; without interim answers."""
    closed: bool


def verdicts(to_client: bytes) -> Verdicts:
    """What a client reads in the bytes of answers with a length."""
    answers: list[tuple[int, bytes]] = []
    while to_client.startswith(b"HTTP/1.1 "):
        head, _, to_client = to_client.partition(b"\r\n\r\n")
        status = int(head[9:12])
        if status < 200:
            continue
        length = re.search(rb"(?i)\r\ncontent-length: ([0-9]+)", head)
        to_head = to_client.startswith((b"HTTP/1.1 ", b"<")) or not to_client
        size = 0 if to_head or length is None else int(length[1])
        body, to_client = to_client[:size], to_client[size:]
        code = re.search(rb'"code":"([a-z_]+)"', body) if status >= 400 else None
        answers.append((status, code[1] if code is not None else body))
    assert to_client in (b"", b"<end>", b"<closed>"), to_client
    return Verdicts(answers, bool(to_client))
