"""A real `up` in an address space that ends: large bodies fill it, new requests are refused before that."""

from __future__ import annotations

import asyncio
import resource
from contextlib import AsyncExitStack
from pathlib import Path

from tests.support.asking import ask, client
from tests.support.proxy import RawClient, code_of
from tests.support.running import running, write

MIB = 1024 * 1024
LIMIT_KIB = 1536 * 1024
BODY_BYTES = 64 * MIB
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % BODY_BYTES
PIECE = b" " * (10 * MIB)
PIECES = 6


def address_space(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()


async def test_f50_bodies_of_many_clients_fill_the_memory_there_is_and_new_ones_are_refused(tmp_path: Path, manifest):
    """Near the mark a piece of a body comes every half second: memory is read once a second."""
    file = write(tmp_path / "m.yaml", manifest("m", "simulator", config={"prefillRate": 0}))
    limit = f"ulimit -v {LIMIT_KIB}"
    async with running(tmp_path, [file], "--buffer-memory", "4GiB", mounts=limit) as up, client() as session:
        port = int(up.url.rpartition(":")[2])

        async def small() -> tuple[int, bool]:
            answer = await ask(session, up.url, "m", max_tokens=1)
            return answer.status, b"overloaded" in answer.body

        assert await small() == (200, False)
        async with AsyncExitStack() as stack, asyncio.timeout(40):
            pieces = 0
            while (found := await small()) == (200, False):
                assert pieces * len(PIECE) < LIMIT_KIB * 1024
                if pieces % PIECES == 0:
                    holder = await RawClient.connect(port)
                    stack.callback(holder.close)
                    holder.send(HEAD)
                holder.send(PIECE)
                await holder.writer.drain()
                pieces += 1
                if address_space(up.process.pid) > 0.88 * LIMIT_KIB * 1024:
                    await asyncio.sleep(0.5)
            assert found == (503, True)
            assert pieces > 2 * PIECES
            # Before its body is taken.
            other = await RawClient.connect(port)
            stack.callback(other.close)
            other.send(HEAD + b"{")
            assert code_of(await other.answer()) == "overloaded"
        async with asyncio.timeout(20):
            while await small() != (200, False):
                await asyncio.sleep(0.1)
        assert up.process.poll() is None
        assert "MemoryError" not in up.log.read_text()
