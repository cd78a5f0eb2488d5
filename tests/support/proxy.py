"""A small admission, a scripted engine and a raw client, for tests of the request path over real sockets."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from flexinfer.errors import RequestError
from flexinfer.proxy.admission import ListedModel, Outcome, Waiter
from flexinfer.routing.base import Endpoint

CHAT = b'{"model":"m1","messages":[{"role":"user","content":"hi"}]}'
STREAM = b'{"model":"m1","stream":true,"messages":[{"role":"user","content":"hi"}]}'
ANSWER = b'{"id":"1","choices":[{"message":{"content":"hello"}}],"usage":{"prompt_tokens":1,"completion_tokens":3}}'


@dataclass
class FixedTarget:
    name: str
    served_model: str | None = None

    @property
    def engine_name(self) -> str:
        return self.served_model or self.name


@dataclass
class FixedTicket:
    """A ticket that remembers what it was told."""

    endpoint: Endpoint | None
    waiter: Waiter
    again: bool = False
    """What `refused` answers the first time."""
    retries: list[str] = field(default_factory=list)
    first_bytes: int = 0
    refusals: int = 0
    timeouts: int = 0
    releases: list[tuple[Outcome, int]] = field(default_factory=list)
    released: asyncio.Event = field(default_factory=asyncio.Event)

    def first_byte(self) -> None:
        self.first_bytes += 1

    def refused(self, reason: str, may_retry: Callable[[], bool]) -> bool:
        self.refusals += 1
        return self.again and self.refusals == 1

    def retried(self, reason: str) -> None:
        self.retries.append(reason)

    def timed_out(self) -> None:
        self.timeouts += 1

    def release(
        self, outcome: Outcome, *, prompt_tokens: int = 0, output_tokens: int = 0, streamed: bool | None = None
    ) -> None:
        if not self.releases:
            self.releases.append((outcome, output_tokens))
            self.released.set()


class FixedAdmission:
    """Knows the models it is given; all stand behind one endpoint, or are cold while there is none."""

    def __init__(self, endpoint: Endpoint | None, served: dict[str, str | None] | None = None) -> None:
        self.endpoint = endpoint
        self.targets = {name: FixedTarget(name, to) for name, to in (served or {"m1": None}).items()}
        self.tickets: list[FixedTicket] = []
        self.refuse_with: RequestError | None = None
        self.again = False
        self.is_draining = False

    def resolve(self, name: str) -> FixedTarget:
        target = self.targets.get(name)
        if target is None:
            raise RequestError(404, "model_not_found", f"no model {name!r}", param="model")
        return target

    def admit(self, target: FixedTarget, waiter: Waiter) -> FixedTicket:
        if self.refuse_with is not None:
            raise self.refuse_with
        ticket = FixedTicket(self.endpoint, waiter, self.again)
        self.tickets.append(ticket)
        return ticket

    def models(self) -> Sequence[ListedModel]:
        return [self.listed(name) for name in self.targets]

    def listed(self, name: str) -> ListedModel:
        self.resolve(name)
        return ListedModel(
            id=name, root=name, created=1, backend="simulator", source="sim://", phase="Ready", ready=True,
            version="v1alpha2", served_model_name=name,
        )  # fmt: skip

    def draining(self) -> bool:
        return self.is_draining


@dataclass
class Received:
    head: bytes
    body: bytes

    def header(self, name: str) -> list[str]:
        lines = self.head.decode("latin-1").split("\r\n")[1:]
        return [v.strip() for k, _, v in (line.partition(":") for line in lines) if k.lower() == name.lower()]


Script = Callable[["Engine", asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def answers(raw: bytes) -> Script:
    """A script that writes `raw` to every request and keeps the connection open."""

    async def script(engine: Engine, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(raw)
        await writer.drain()

    return script


def closes_after(raw: bytes, *, reset: bool = False) -> Script:
    async def script(engine: Engine, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(raw)
        await writer.drain()
        if reset:
            writer.transport.abort()
        else:
            writer.close()

    return script


def paced(first: bytes, rest: bytes, *, reset: bool = False) -> Script:
    """Writes `first`, a moment later `rest`, and then breaks off."""

    async def script(engine: Engine, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(first)
        await writer.drain()
        await asyncio.sleep(0.03)
        writer.write(rest)
        await writer.drain()
        await asyncio.sleep(0.03)
        if reset:
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.close()

    return script


async def hangs(engine: Engine, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


class Engine:
    """An upstream of our own that answers as its script says and records what it saw."""

    def __init__(self, script: Script, tls: ssl.SSLContext | None = None) -> None:
        self.script = script
        self._tls = tls
        self.requests: list[Received] = []
        self.connections = 0
        self.arrived = asyncio.Event()
        self.lost = asyncio.Event()
        """Set when a client closed its connection."""
        self.port = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    def close_connections(self) -> None:
        for writer in self._writers:
            writer.close()

    async def start(self) -> Endpoint:
        self._server = await asyncio.start_server(self._client, "127.0.0.1", 0, limit=2**22, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self.endpoint

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(name="e1", host="127.0.0.1", port=self.port)

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                received = Received(head, b"")
                length = received.header("content-length")
                received.body = await reader.readexactly(int(length[0])) if length else b""
                self.requests.append(received)
                self.arrived.set()
                await self.script(self, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.lost.set()
        finally:
            self.lost.set()
            writer.close()
            self._tasks.discard(task)
            self._writers.discard(writer)

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@dataclass
class Answer:
    status: int
    head: bytes
    body: bytes
    whole: bool
    """The message ended where its framing says."""
    raw_body: bytes = b""

    def header(self, name: str) -> list[str]:
        return Received(self.head, b"").header(name)


class RawClient:
    """Sends bytes as they are and reads answers by their framing."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, port: int) -> RawClient:
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=2**26))

    def send(self, raw: bytes) -> None:
        self.writer.write(raw)

    async def answer(self, *, head_request: bool = False) -> Answer:
        head = await self.reader.readuntil(b"\r\n\r\n")
        answer = Answer(int(head[9:12]), head, b"", whole=True)
        if head_request or answer.status in (204, 304) or answer.status < 200:
            return answer
        if answer.header("transfer-encoding"):
            await self._chunks(answer)
        elif answer.header("content-length"):
            length = int(answer.header("content-length")[0])
            try:
                answer.body = await self.reader.readexactly(length)
            except (asyncio.IncompleteReadError, ConnectionError) as error:
                answer.body = getattr(error, "partial", b"")
                answer.whole = False
        else:
            with suppress(ConnectionError):
                answer.body = await self.reader.read()
        return answer

    async def _chunks(self, answer: Answer) -> None:
        try:
            while True:
                line = await self.reader.readuntil(b"\r\n")
                size = int(line.split(b";")[0], 16)
                answer.raw_body += line
                if size == 0:
                    break
                data = await self.reader.readexactly(size + 2)
                answer.raw_body += data
                assert data.endswith(b"\r\n")
                answer.body += data[:-2]
            while True:
                line = await self.reader.readuntil(b"\r\n")
                answer.raw_body += line
                if line == b"\r\n":
                    return
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            answer.body += getattr(error, "partial", b"")
            answer.whole = False

    async def closed(self) -> bool:
        """The server closes the connection, sending nothing more."""
        with suppress(ConnectionError):
            return await self.reader.read() == b""
        return True

    def close(self) -> None:
        self.writer.close()


def post(body: bytes = CHAT, path: str = "/v1/chat/completions", *extra: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: proxy.test", "Content-Type: application/json", *extra]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


def get(path: str, *extra: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: proxy.test", *extra, "", ""]).encode()


def json_answer(body: bytes = ANSWER, status: str = "200 OK") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


SSE_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def event(text: bytes) -> bytes:
    """One event as one chunk."""
    payload = b"data: " + text + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(payload), payload)


def code_of(answer: Answer) -> str:
    code: str = json.loads(answer.body)["error"]["code"]
    return code


async def stands_still(value: Callable[[], int], for_s: float = 0.3) -> None:
    """Wait until `value` has not changed for a while."""
    last, since = value(), asyncio.get_running_loop().time()
    while asyncio.get_running_loop().time() - since < for_s:
        await asyncio.sleep(0.02)
        if value() != last:
            last, since = value(), asyncio.get_running_loop().time()


async def closed_port() -> int:
    """A port of this machine where nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


async def full_backlog() -> tuple[Endpoint, list[socket.socket]]:
    """An endpoint where connects hang, because nobody accepts; close the sockets afterwards."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    port = listener.getsockname()[1]
    sockets = [listener]
    for _ in range(8):
        sock = socket.socket()
        sock.setblocking(False)
        sock.connect_ex(("127.0.0.1", port))
        sockets.append(sock)
    await asyncio.sleep(0.05)
    return Endpoint(name="full", host="127.0.0.1", port=port), sockets


TOKEN = b'{"choices":[{"delta":{"content":"x"}}]}'
DONE = event(b"[DONE]")
LAST = b"0\r\n\r\n"
