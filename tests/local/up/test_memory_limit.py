"""A real `up` in an address space that ends: large bodies fill it, new requests are refused before that."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

from tests.support.asking import ask, client
from tests.support.proxy import RawClient, code_of
from tests.support.running import running, write

MIB = 1024 * 1024
LIMIT_KIB = 1536 * 1024
BODY_BYTES = 64 * MIB
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % BODY_BYTES
PIECE = b" " * MIB
SENDERS = 24
"""All of their bodies are as large as the whole limit."""


async def test_f50_bodies_of_many_clients_fill_the_memory_there_is_and_new_ones_are_refused(tmp_path: Path, manifest):
    """All at once and as fast as they can: nobody waits until memory is read again."""
    file = write(tmp_path / "m.yaml", manifest("m", "simulator", config={"prefillRate": 0}))
    limit = f"ulimit -v {LIMIT_KIB}"
    async with running(tmp_path, [file], "--buffer-memory", "4GiB", mounts=limit) as up, client() as session:
        port = int(up.url.rpartition(":")[2])

        async def small() -> tuple[int, bool]:
            answer = await ask(session, up.url, "m", max_tokens=1)
            return answer.status, b"overloaded" in answer.body

        async def hold() -> str:
            """The code that it is refused with; else it is cancelled while the proxy waits for its last bytes."""
            holder = await RawClient.connect(port)
            stack.callback(holder.close)
            holder.send(HEAD)
            try:
                for _ in range(BODY_BYTES // len(PIECE) - 1):
                    holder.send(PIECE)
                    await holder.writer.drain()
                return code_of(await holder.answer())
            except (OSError, EOFError):
                return "cut"  # it went on sending for longer than a refusal is kept for it

        assert await small() == (200, False)
        async with AsyncExitStack() as stack, asyncio.timeout(60):
            holders = [asyncio.create_task(hold()) for _ in range(SENDERS)]
            done, held = await asyncio.wait(holders, timeout=10)
            for holder in held:
                holder.cancel()
            print(up.log.read_text()[-3000:])
            told = [holder.result() for holder in done]
            assert "overloaded" in told
            assert set(told) <= {"overloaded", "cut"}
        async with asyncio.timeout(20):
            while await small() != (200, False):
                await asyncio.sleep(0.1)
        assert up.process.poll() is None
        assert "MemoryError" not in up.log.read_text()
