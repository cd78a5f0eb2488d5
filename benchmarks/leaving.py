"""Clients that leave, and clients that find no room: how soon the engine is free again, how soon the answer comes."""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from benchmarks import machine, peers
from benchmarks.table import Table, percentile

STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENT = b'data: {"choices":[{"delta":{}}]}\n\n'
HALF_AN_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n" + b" " * 500
PHASES = {
    "before the first byte": b"",
    "in a stream": STREAM_HEAD + b"%x\r\n%b\r\n" % (len(EVENT), EVENT),
    "in an answer that is no stream": HALF_AN_ANSWER,
}
QUEUE = 4
CLIENTS = 32


class Engine(asyncio.Protocol):
    """Begins the answer that is asked of it, never ends one, and keeps time."""

    answer = b""
    has_request: asyncio.Event
    is_left: asyncio.Event
    left_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if Engine.answer:
            self.transport.write(Engine.answer)  # type: ignore[attr-defined]
        Engine.has_request.set()

    def connection_lost(self, exc: Exception | None) -> None:
        Engine.left_at = time.monotonic()
        Engine.is_left.set()


def request() -> bytes:
    body = json.dumps({"model": "bench", "messages": [{"role": "user", "content": "go"}]}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
    return head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)


async def one_that_leaves(port: int, answer: bytes) -> float:
    """Milliseconds from a client's end to the end of its connection to the engine."""
    Engine.answer, Engine.has_request, Engine.is_left = answer, asyncio.Event(), asyncio.Event()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request())
    await Engine.has_request.wait()
    if answer:
        await reader.readuntil(b"\r\n\r\n")
    left_at = time.monotonic()
    writer.transport.abort()
    await Engine.is_left.wait()
    return (Engine.left_at - left_at) * 1000


async def waiting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
    """How many requests wait, as the metrics say."""
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: bench\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    text = await reader.readexactly(int(length.split(b":")[1]))
    line = next(line for line in text.splitlines() if line.startswith(b"flexinfer_proxy_queue_depth{"))
    return int(float(line.split()[-1]))


async def until_waiting(count: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> float:
    while await waiting(reader, writer) != count:
        pass
    return time.monotonic()


async def one_that_leaves_the_queue(port: int, metrics: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> float:
    """Milliseconds from a client's end to the first count of those that wait without it."""
    before = await waiting(*metrics)
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request())
    await until_waiting(before + 1, *metrics)
    left_at = time.monotonic()
    writer.transport.abort()
    return (await until_waiting(before, *metrics) - left_at) * 1000


async def refused(port: int, times: list[float], until: float) -> int:
    """A client that asks again and again; how many of its answers were other than `queue_full`."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    others = 0
    while time.monotonic() < until:
        asked_at = time.monotonic()
        writer.write(request())
        head = await reader.readuntil(b"\r\n\r\n")
        times.append((time.monotonic() - asked_at) * 1000)
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        others += b'"queue_full"' not in await reader.readexactly(int(length.split(b":")[1]))
    writer.close()
    return others


async def repeated(seconds: float, once: Callable[[], Awaitable[float]]) -> list[float]:
    until = time.monotonic() + seconds
    times = []
    while time.monotonic() < until:
        times.append(await once())
    return times


async def measure(folder: Path, seconds: float) -> tuple[dict[str, list[float]], int]:
    """Milliseconds by figure, and how many clients of a full queue got another answer."""
    found: dict[str, list[float]] = {}
    engine = machine.free_port()
    server = await asyncio.get_running_loop().create_server(Engine, "127.0.0.1", engine)
    async with server:
        with peers.ours(engine, folder, "--slots", "1", "--queue-size", str(QUEUE)) as proxy:
            for phase, answer in PHASES.items():
                found[phase] = await repeated(seconds, lambda answer=answer: one_that_leaves(proxy.port, answer))  # type: ignore[misc]
            metrics = await asyncio.open_connection("127.0.0.1", proxy.port)
            Engine.answer, Engine.has_request = b"", asyncio.Event()
            held = [await asyncio.open_connection("127.0.0.1", proxy.port)]
            held[0][1].write(request())
            await Engine.has_request.wait()  # the only slot
            found["in the queue"] = await repeated(seconds, lambda: one_that_leaves_the_queue(proxy.port, metrics))
            for _ in range(QUEUE):
                held.append(await asyncio.open_connection("127.0.0.1", proxy.port))
                held[-1][1].write(request())
            await until_waiting(QUEUE, *metrics)
            times = found["queue full"] = []
            until = time.monotonic() + seconds
            others = sum(await asyncio.gather(*(refused(proxy.port, times, until) for _ in range(CLIENTS))))
            for _, writer in (*held, metrics):
                writer.transport.abort()
    return found, others


def main(seconds: float = 3.0) -> Table:
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        found, others = asyncio.run(measure(Path(name), seconds))
    rows: list[Sequence[str]] = []
    for what, times in found.items():
        full = what == "queue full"
        event = f"queue full → refused ({CLIENTS} clients)" if full else f"client gone {what} → engine free"
        p50, p99 = (f"{percentile(times, share):.2f}" for share in (0.5, 0.99))
        rows.append((event, f"{len(times):,}", p50, p99, "≤ 50 ms" if full else "≤ 1,000 ms"))
    return Table(
        title="Clients that leave, queues that are full",
        command="python -m benchmarks leaving",
        columns=("from → to", "times", "p50 ms", "p99 ms", "aim, p99"),
        rows=rows,
        notes=[
            "Engine free: its connection is closed; in the queue, where there is none: the metrics count it no more.",
            "1,000 waiters on a cold model are a test in `tests/local/up/test_faults.py`: one activation, none lost.",
            f"Answers other than `queue_full` while the queue was full: {others}.",
        ],
    )
