"""A Model with two processes on one machine."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
from tests.support.asking import ask, client
from tests.support.running import Running, running, write
from tests.support.waiting import until


async def set_faults(session: aiohttp.ClientSession, address: str, **what: object) -> None:
    async with session.post(f"http://{address}/sim/faults", json=what) as answer:
        assert answer.status == 200


async def totals(session: aiohttp.ClientSession, addresses: list[str]) -> list[int]:
    found = []
    for address in addresses:
        async with session.get(f"http://{address}/sim/stats") as answer:
            found.append((await answer.json())["total"])
    return found


async def both(up: Running) -> list[str]:
    await up.phase("m", "Ready", limit_s=40)
    while len(addresses := [engine.address for engine in await up.control.engines() if engine.state == "ready"]) < 2:
        await asyncio.sleep(0.02)
    return addresses


async def test_as_many_processes_as_min_replicas_says_and_a_larger_maximum_means_nothing_here(tmp_path, manifest):
    spec = manifest("m", "simulator", serverless={"minReplicas": 2, "maxReplicas": 5})
    async with running(tmp_path, [write(tmp_path / "m.yaml", spec)]) as up:
        assert len(set(await both(up))) == 2
        condition = (await up.model("m")).condition("IgnoredLocally")
        assert condition is not None
        assert condition.message == "these fields mean nothing on one machine: spec.serverless.maxReplicas"


async def test_a_replica_that_answers_500_while_it_says_it_is_well_is_out_of_rotation(tmp_path: Path, manifest):
    """/health answers 200; after five failures in a row it gets nothing for a while."""
    spec = manifest("m", "simulator", serverless={"minReplicas": 2}, config={"decodeRate": 0, "prefillRate": 0})
    async with running(tmp_path, [write(tmp_path / "m.yaml", spec)]) as up, client() as session:
        addresses = await both(up)
        await set_faults(session, addresses[0], error_status=500)
        answers = [await ask(session, up.url, "m", max_tokens=1) for _ in range(40)]
        refused = [answer.status for answer in answers if not answer.served]
        assert set(refused) <= {500}
        await until(lambda: "replica out of rotation" in up.log.read_text())
        async with session.get(f"http://{addresses[0]}/health") as answer:
            assert answer.status == 200
        before = await totals(session, addresses)
        again = [await ask(session, up.url, "m", max_tokens=1) for _ in range(20)]
        assert [answer for answer in again if not answer.served] == []
        after = await totals(session, addresses)
        assert [late - early for early, late in zip(before, after, strict=True)] == [0, 20]
