"""Clients that send or take next to nothing: bounded in time and memory, and no burden to others."""

from __future__ import annotations

import asyncio
import resource
import socket
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tests.support.proxy import get, post
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


async def p99_s(address: tuple[str, int]) -> float:
    """Of 300 requests one after another on one connection."""
    loop = asyncio.get_running_loop()
    reader, writer = await asyncio.open_connection(*address)
    spent = []
    for _ in range(300):
        begin = loop.time()
        writer.write(get("/v1/models/m"))
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
