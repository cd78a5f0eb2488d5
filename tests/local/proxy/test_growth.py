"""Requests leave nothing behind: the memory of a proxy after hundreds of thousands of them."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
from benchmarks import memory_slope, wrk

CLIENTS = 16
A_MB_IN_MIB = 1e6 / 2**20


async def ask(port: int, count: int) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = wrk.chat_body().encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {wrk.KEY}\r\n".encode()
    head += b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    good = 0
    for _ in range(count):
        writer.write(head + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", answer)
        assert length is not None
        await reader.readexactly(int(length[1]))
        good += answer.startswith(b"HTTP/1.1 200 ")
    writer.close()
    return good


@pytest.mark.parametrize(
    "requests",
    [
        pytest.param(8_000, id="8,000 requests: that it can be measured"),
        pytest.param(memory_slope.REQUESTS, id="200,000 requests", marks=pytest.mark.soak),
    ],
)
def test_memory_does_not_grow_with_the_number_of_requests(requests: int):
    each = requests // CLIENTS // 20

    def load(port: int, folder: Path) -> int:
        async def all_of_them() -> int:
            return sum(await asyncio.gather(*(ask(port, each) for _ in range(CLIENTS))))

        return asyncio.run(all_of_them())

    samples = memory_slope.measure(requests, load)
    assert samples[-1][0] == each * CLIENTS * 20
    if requests == memory_slope.REQUESTS:
        assert memory_slope.slope_mib(samples) < A_MB_IN_MIB
