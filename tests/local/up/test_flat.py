"""F51: what 200,000 requests of every kind leave behind in an `up`, which is nothing."""

from __future__ import annotations

import asyncio
import resource
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tests.support.proxy import get, post
from tests.support.running import Running, running, write

CLIENTS = 8
ROUND = 40
"""Requests of one client on one connection, the last of which it does not wait for."""
PLAIN = post(b'{"model":"m","max_tokens":4,"messages":[{"role":"user","content":"hi"}]}')
STREAM = post(b'{"model":"m","max_tokens":4,"stream":true,"messages":[{"role":"user","content":"hi"}]}')
KINDS = (PLAIN, STREAM, PLAIN, post(b'{"model":"nope"}'), PLAIN, get("/v1/models"), PLAIN, post(b"{"))
MIB = 1024 * 1024


def rss_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


def descriptors(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


async def one_round(address: tuple[str, int]) -> None:
    reader, writer = await asyncio.open_connection(*address)
    for number in range(ROUND):
        request = KINDS[number % len(KINDS)]
        writer.write(request)
        if number == ROUND - 1:
            break
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        if b"transfer-encoding: chunked" in head:
            await reader.readuntil(b"\r\n0\r\n\r\n")
        else:
            await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))
    writer.close()


async def tenths(up: Running, requests: int) -> list[int]:
    """RSS after each tenth of the requests."""
    url = urlsplit(up.url)
    address = (str(url.hostname), int(url.port or 0))
    found = []
    for _ in range(10):
        for _ in range(requests // 10 // ROUND // CLIENTS):
            await asyncio.gather(*(one_round(address) for _ in range(CLIENTS)))
        found.append(rss_bytes(up.process.pid))
    return found


@pytest.mark.parametrize(
    ("requests", "per_100_000"),
    [
        # So few show a leak of whole requests, and no more.
        pytest.param(9_600, 40 * MIB, id="a sample"),
        pytest.param(200_000, MIB, id="200,000", marks=pytest.mark.soak),
    ],
)
@pytest.mark.timeout(0)
async def test_f51_memory_and_descriptors_stay_flat(tmp_path, manifest, requests, per_100_000):
    spec = manifest("m", "simulator", config={"decodeRate": 0, "prefillRate": 0}, serverless={"minReplicas": 1})
    async with running(tmp_path, [write(tmp_path / "m.yaml", spec)]) as up:
        await up.phase("m", "Ready")
        await tenths(up, 3_200)
        await asyncio.sleep(3)
        before = descriptors(up.process.pid)
        rss = await tenths(up, requests)
        grown = (rss[-1] - rss[1]) * 100_000 / (0.8 * requests)
        assert grown < per_100_000, [size // 1024 for size in rss]
        async with asyncio.timeout(30):
            while descriptors(up.process.pid) > before:
                await asyncio.sleep(0.1)
