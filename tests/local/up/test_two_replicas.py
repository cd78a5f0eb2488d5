"""Two processes of one Model behind a running `up`: both fail, one comes back, the set changes all the time.

What is counted is counted at the engines. Further replicas are engines of the test, at addresses that it
writes into EndpointSlices beside those of the two processes.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path

import aiohttp
from tests.support.asking import Answer, ask, client, load
from tests.support.proxy import DONE, LAST, SSE_HEAD, TOKEN, Engine, event
from tests.support.running import Running, running, write

from flexinfer.api.meta import ObjectKey
from flexinfer.kube.store import ENDPOINT_SLICES
from flexinfer.lifecycle.slowstart import SPAN_S
from flexinfer.resources import endpointslice

LIMIT_S = 40.0
Manifest = Callable[..., dict]


class Pair:
    """The two processes of Model `m`, and who else is made to answer for it."""

    def __init__(self, up: Running, session: aiohttp.ClientSession) -> None:
        self.up = up
        self.session = session

    async def addresses(self) -> dict[int, str]:
        """By index of the replica, as they are published."""
        found = {}
        for item in (await self.up.control.store().list(ENDPOINT_SLICES)).items:
            port, host = item["ports"][0]["port"], item["endpoints"][0]["addresses"][0]
            found[int(item["metadata"]["name"].rpartition("-")[2])] = f"{host}:{port}"
        return found

    async def both_ready(self) -> None:
        async with asyncio.timeout(LIMIT_S):
            while sorted(await self.addresses()) != [0, 1]:
                await asyncio.sleep(0.02)

    async def fail(self, **what: object) -> None:
        """From here on both fail so."""
        for address in (await self.addresses()).values():
            async with self.session.post(f"http://{address}/sim/faults", json=what) as answer:
                assert answer.status == 200

    async def asked(self, address: str) -> int:
        """How many requests the engine has had; 0 where none listens."""
        with suppress(aiohttp.ClientConnectionError):
            async with self.session.get(f"http://{address}/sim/stats") as answer:
                return int((await answer.json())["total"])
        return 0

    async def statuses(self, number: int, at_once: int) -> Counter[int]:
        """What so many requests are answered with, none of them late."""
        turns = asyncio.Semaphore(at_once)

        async def one() -> int:
            async with turns, asyncio.timeout(LIMIT_S / 2):
                return (await ask(self.session, self.up.url, "m", max_tokens=1)).status

        return Counter(await asyncio.gather(*(one() for _ in range(number))))

    async def dispatched(self) -> int:
        """How many times the proxy has given a request to a replica."""
        async with self.session.get(f"{self.up.url}/metrics") as answer:
            lines = (await answer.text()).splitlines()
        return sum(int(float(line.split()[-1])) for line in lines if "routing_decisions_total{" in line)

    async def publish(self, index: int, address: str, *, ready: bool = True) -> None:
        """Replica `index` of the Model is at this address."""
        host, _, port = address.rpartition(":")
        obj = endpointslice.build(await self.up.model("m"), index, host, int(port), ready=ready)
        await self.up.control.store().apply(ENDPOINT_SLICES, obj, field_manager="flexinfer-local", force=True)

    async def withdraw(self, index: int) -> None:
        await self.up.control.store().delete(ENDPOINT_SLICES, ObjectKey("default", endpointslice.name("m", index)))


@asynccontextmanager
async def pair(folder: Path, manifest: Manifest, wait: str = "60s", **config: object) -> AsyncIterator[Pair]:
    serverless = {"minReplicas": 2, "coldStartTimeout": wait}
    spec = manifest("m", "simulator", serverless=serverless, config={"prefillRate": 0, **config})
    async with running(folder, [write(folder / "m.yaml", spec)]) as up, client() as session:
        two = Pair(up, session)
        await two.both_ready()
        yield two


class Passing(Engine):
    """A replica that is there for a moment; knows when requests came. Its answers take longer than it stays."""

    def __init__(self) -> None:
        super().__init__(self.stream)
        self.came: list[float] = []
        self.gone_at = 0.0

    async def stream(self, _engine: Engine, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.came.append(time.monotonic())
        writer.write(SSE_HEAD)
        for _ in range(6):
            writer.write(event(TOKEN))
            await asyncio.sleep(0.1)
        writer.write(DONE + LAST)
        await writer.drain()


@contextmanager
def closed_port() -> Iterator[int]:
    """Nobody listens there, and nobody else gets it meanwhile."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


async def resets(_engine: Engine, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def test_f39_replicas_that_all_fail_see_no_storm_of_retries(tmp_path: Path, manifest: Manifest):
    """Two answer 503, two more reset what they are asked: the engines see at most a fifth more than was asked."""
    async with pair(tmp_path, manifest) as two, AsyncExitStack() as stack:
        addresses = (await two.addresses()).values()
        await two.fail(error_status=503)
        before = sum([await two.asked(address) for address in addresses])
        assert await two.statuses(100, at_once=20) == {503: 100}
        resetting = [Engine(resets) for _ in range(2)]
        for index, engine in enumerate(resetting, 2):
            await engine.start()
            stack.push_async_callback(engine.stop)
            await two.publish(index, f"127.0.0.1:{engine.port}")
        found = await two.statuses(200, at_once=20)
        assert set(found) == {502, 503}
        at_processes = sum([await two.asked(address) for address in addresses]) - before
        at_others = [engine.connections for engine in resetting]
        assert min(at_others) > 0
        assert at_processes + sum(at_others) <= 1.2 * 300


async def test_f39_replicas_whose_ports_are_closed_see_one_request_whenever_they_are_tried(
    tmp_path: Path, manifest: Manifest
):
    """Their EndpointSlices stay. Half of the requests come while the others wait for them to come back."""
    async with pair(tmp_path, manifest, wait="6s", slots=1000) as two:
        addresses = await two.addresses()
        with closed_port() as first, closed_port() as second:
            await two.publish(2, f"127.0.0.1:{first}")
            await two.publish(3, f"127.0.0.1:{second}")
            for index, address in addresses.items():
                await two.publish(index, address, ready=False)
            found = await two.statuses(120, at_once=60)
            assert set(found) == {502, 503}
            # 60 at once may all be on their way before the first comes back.
            assert 2 <= await two.dispatched() <= 90
            for index, address in addresses.items():
                await two.publish(index, address)
            assert await two.statuses(20, at_once=5) == {200: 20}


async def test_f40_a_replica_that_was_killed_comes_back_and_gets_its_share_and_one(tmp_path: Path, manifest: Manifest):
    """The other one has every open stream, so that the idle one would get whatever is asked next."""
    async with pair(tmp_path, manifest, decodeRate=5, slots=1000) as two, asyncio.TaskGroup() as streams:
        killed, other = await two.up.control.engines()
        assert killed.pid is not None
        os.kill(killed.pid, signal.SIGKILL)
        open_ones: list[asyncio.Task[Answer]] = []

        async def one_more() -> float:
            """One stream after the other: where the last one goes is decided when the next is asked for."""
            begun = asyncio.Event()
            began = time.monotonic()
            asking = ask(two.session, two.up.url, "m", begun.set, stream=True, max_tokens=1000)
            open_ones.append(streams.create_task(asking))
            async with asyncio.timeout(LIMIT_S):
                await begun.wait()
            return began

        async def came_back() -> int:
            addresses = (await two.addresses()).values()
            return sum([await two.asked(address) for address in addresses if address != other.address])

        began = previous = 0.0
        async with asyncio.timeout(LIMIT_S):
            while not await came_back():
                await asyncio.sleep(0.05)
                previous, began = began, await one_more()
        # It has had its first, asked for after `previous`: the second of its slow start is not over before this.
        asked, until = 1, previous + SPAN_S
        while True:
            got = await came_back()
            assert got <= asked / 2 + 1
            await one_more()
            if time.monotonic() >= until:
                break
            asked += 1
        for stream in open_ones:
            stream.cancel()
        assert asked >= 4
        assert got >= 1


async def test_f41_replicas_that_all_answer_500_while_they_say_they_are_well_are_tried(
    tmp_path: Path, manifest: Manifest
):
    """Each request reaches one engine, once, and the client gets that engine's answer; no one waits."""
    async with pair(tmp_path, manifest) as two:
        addresses = (await two.addresses()).values()
        await two.fail(error_status=500)
        for address in addresses:
            async with two.session.get(f"http://{address}/health") as answer:
                assert answer.status == 200
        before = sum([await two.asked(address) for address in addresses])
        assert await two.statuses(100, at_once=10) == {500: 100}
        assert sum([await two.asked(address) for address in addresses]) - before == 100
        await two.fail(error_status=0)
        assert await two.statuses(20, at_once=5) == {200: 20}


async def test_f42_the_set_of_replicas_changes_every_100_ms_under_load(tmp_path: Path, manifest: Manifest):
    """Of two processes one is in the set in turn; others are in it for 300 ms each, and never again."""
    async with pair(tmp_path, manifest, decodeRate=50) as two, AsyncExitStack() as stack:
        addresses = await two.addresses()
        passing: list[Passing] = []
        async with load(two.up.url, "m", clients=12) as asking:
            for step in range(40):
                there, away = (step % 2, 1 - step % 2)
                await two.publish(there, addresses[there])
                await two.publish(away, addresses[away], ready=False)
                engine = Passing()
                await engine.start()
                stack.push_async_callback(engine.stop)
                passing.append(engine)
                await two.publish(100 + step, f"127.0.0.1:{engine.port}")
                if step >= 3:
                    await two.withdraw(100 + step - 3)
                    passing[step - 3].gone_at = time.monotonic()
                await asyncio.sleep(0.1)
            for index in (37, 38, 39):
                await two.withdraw(100 + index)
                passing[index].gone_at = time.monotonic()
            # What is gone stays unasked while the others are.
            await asyncio.sleep(1.5)
        assert asking.lost == []
        assert len(asking.answers) >= 50
        assert sum(len(engine.came) for engine in passing) >= 20
        late = [at - engine.gone_at for engine in passing for at in engine.came if at > engine.gone_at + 1.0]
        assert late == []
