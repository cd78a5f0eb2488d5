"""Clients that send or take next to nothing: bounded in time and memory, and no burden to others."""

from __future__ import annotations

import asyncio
import resource
import socket
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tests.support.asking import client
from tests.support.figures import metric
from tests.support.proxy import SSE_HEAD, Engine, event, get, json_answer, post, stands_still
from tests.support.running import running, write
from tests.support.waiting import until

EACH = 100
STREAM = b'{"model":"m","stream":true,"max_tokens":1000000,"messages":[{"role":"user","content":"hi"}]}'
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nX: "
BODY = post(b"x" * 1000)[:-1000]
KINDS = {
    "a header byte at a time": HEAD,
    "a body byte at a time": BODY,
    "nothing at all": b"",
    "nothing after an answer": get("/healthz"),
    "takes nothing of a stream": post(STREAM),
    "closes its side inside a head": HEAD,
}
READERS = 500
ENDED = "flexinfer_proxy_requests_total"
ANSWER_BYTES = 10_000_000
PIECE = 50_000
QUICK = post(b'{"model":"m","messages":[{"role":"user","content":"hi"}]}')
FLOODS = (
    b'{"model":"m","stream":true,"messages":[{"role":"user","content":"events"}]}',
    b'{"model":"m","messages":[{"role":"user","content":"one body"}]}',
)
TRICKLE = ("a header byte at a time", "a body byte at a time")


class Slow:
    """Six hundred of them."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.sockets: dict[str, list[socket.socket]] = {kind: [] for kind in KINDS}
        for kind, first in KINDS.items():
            for _ in range(EACH):
                one = socket.create_connection(address, 10)
                if first:
                    one.sendall(first)
                if kind == "closes its side inside a head":
                    one.shutdown(socket.SHUT_WR)
                one.setblocking(False)
                self.sockets[kind].append(one)

    async def trickle(self) -> None:
        while True:
            for kind in TRICKLE:
                for one in self.sockets[kind]:
                    with suppress(OSError):
                        one.send(b"x")
            await asyncio.sleep(0.3)

    def closed(self, kind: str) -> int:
        """How many of this kind the proxy has closed its side of."""
        found = 0
        for one in self.sockets[kind]:
            with suppress(BlockingIOError):
                try:
                    while one.recv(1 << 16):
                        pass
                except ConnectionResetError:
                    pass
                found += 1
        return found

    def close(self) -> None:
        for sockets in self.sockets.values():
            for one in sockets:
                one.close()


async def p99_s(address: tuple[str, int], request: bytes = get("/v1/models/m")) -> float:
    """Of 300 requests one after another on one connection."""
    loop = asyncio.get_running_loop()
    reader, writer = await asyncio.open_connection(*address)
    spent = []
    for _ in range(300):
        begin = loop.time()
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        length = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
        await reader.readexactly(int(length.split(b":")[1]))
        spent.append(loop.time() - begin)
    writer.close()
    return sorted(spent)[296]


def rss_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()


@pytest.mark.usefixtures("many_files")
async def test_600_slow_clients_end_in_time_cost_little_and_slow_nobody(tmp_path, manifest):
    file = write(tmp_path / "m.yaml", manifest("m", "simulator", config={"decodeRate": 2000, "slots": EACH}))
    limits = ("--header-timeout", "2s", "--keepalive-timeout", "2s", "--body-timeout", "2s", "--queue-size", "1000")
    async with running(tmp_path, [file], *limits) as up:
        url = urlsplit(up.url)
        address = (str(url.hostname), int(url.port or 0))
        await up.phase("m", "Idle", "Ready")
        before_s, before_bytes = await p99_s(address), rss_bytes(up.process.pid)
        slow = Slow(address)
        trickling = asyncio.create_task(slow.trickle())
        try:
            with_them_s = await p99_s(address)
            for kind in ("a header byte at a time", "nothing at all", "nothing after an answer"):
                await until(lambda kind=kind: slow.closed(kind) == EACH, 30)
            assert slow.closed("closes its side inside a head") == EACH
            assert slow.closed("a body byte at a time") == 0
            cost = rss_bytes(up.process.pid) - before_bytes
        finally:
            trickling.cancel()
            slow.close()
        after_s = await p99_s(address)
        # A machine that is busy with other tests is no slower because of these clients.
        assert with_them_s <= 2 * max(before_s, after_s) + 0.02
        assert cost < EACH * 1024 * 1024  # 1 MiB for each stream that is not read


class Readers:
    """Five hundred that asked for 10 MB each: of every two one takes about 1 KB/s, the other nothing."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.sockets: list[socket.socket] = []
        for number in range(READERS):
            one = socket.socket()
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            one.settimeout(30)
            one.connect(address)
            one.sendall(post(FLOODS[number // 2 % 2]))
            one.setblocking(False)
            self.sockets.append(one)

    async def take(self) -> None:
        while True:
            for number in range(0, READERS, 2):
                with suppress(OSError):
                    self.sockets[number].recv(1024)
            await asyncio.sleep(1)

    def rest(self, number: int) -> int:
        """Bytes up to the end of what one of them is sent."""
        found = 0
        one = self.sockets[number]
        one.settimeout(30)
        with suppress(ConnectionError):
            while data := one.recv(1 << 16):
                found += len(data)
        return found

    def close(self) -> None:
        for one in self.sockets:
            one.close()


class Flood:
    """An engine whose answers are 10 MB, as events or as one body, and as fast as they are taken; or small."""

    def __init__(self) -> None:
        self.begun = self.sent = 0
        self.all_here = asyncio.Event()

    async def __call__(self, engine: Engine, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = engine.requests[-1].body
        if asked not in FLOODS:
            writer.write(json_answer())
            return
        self.begun += 1
        if self.begun == READERS:
            self.all_here.set()
        await self.all_here.wait()
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PIECE)
        events = asked == FLOODS[0]
        writer.write(SSE_HEAD if events else b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % ANSWER_BYTES)
        piece = event(b"x" * PIECE) if events else b"x" * PIECE
        for _ in range(ANSWER_BYTES // PIECE):
            writer.write(piece)
            await writer.drain()
            self.sent += PIECE


@pytest.mark.usefixtures("many_files")
async def test_500_readers_of_10_mb_hold_the_engine_back_cost_little_and_end_in_time(tmp_path, manifest):
    flood = Flood()
    engine = Engine(flood)
    await engine.start()
    source = f"http://127.0.0.1:{engine.port}"
    file = write(tmp_path / "m.yaml", manifest("m", "external", source, config={"slots": READERS + 10}))
    async with running(tmp_path, [file], "--total-timeout", "12s", "--queue-size", "1000") as up, client() as session:
        url = urlsplit(up.url)
        address = (str(url.hostname), int(url.port or 0))
        await up.phase("m", "Idle", "Ready")
        before_s, before_bytes = await p99_s(address, QUICK), rss_bytes(up.process.pid)
        readers = await asyncio.to_thread(Readers, address)
        taking = asyncio.create_task(readers.take())
        try:
            await asyncio.wait_for(flood.all_here.wait(), 40)
            await stands_still(lambda: flood.sent, 0.5)
            # The best of three: where the machine is so slow that their time is up by now, it is not in between.
            with_them_s = min([await p99_s(address, QUICK) for _ in range(3)])
            cost = rss_bytes(up.process.pid) - before_bytes
            assert flood.sent < READERS * ANSWER_BYTES * 3 / 4  # the rest waits in the engine, not in the proxy

            async def all_ended() -> bool:
                return await metric(session, up.url, ENDED, model="m", status="error") == READERS

            await until(all_ended, 40, every_s=0.1)
            taking.cancel()
            for number in range(4):
                assert await asyncio.to_thread(readers.rest, number) < ANSWER_BYTES
        finally:
            taking.cancel()
            readers.close()
        after_s = await p99_s(address, QUICK)
    await engine.stop()
    # A machine that is busy with other tests is no slower because of these clients.
    assert with_them_s <= 2 * max(before_s, after_s) + 0.02
    assert cost < READERS * 2**20
