"""`up --workers 2`: two processes behind one port act as one proxy."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest
from tests.support.asking import DONE, Answer, ask, client, load
from tests.support.processes import command_line, live, tree
from tests.support.running import Running, running, write
from tests.support.waiting import until

WORKERS = ("--workers", "2")


def workers(up: Running) -> list[int]:
    """Their process ids."""
    return [pid for pid in live(tree(up.process.pid)) if command_line(pid)[-1:] == ["worker"]]


async def sessions(up: Running) -> dict[int, aiohttp.ClientSession]:
    """One session of one connection to each worker; the kernel chooses, so several are tried."""
    found: dict[int, aiohttp.ClientSession] = {}
    for _ in range(200):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            local = free.getsockname()
        session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1, local_addr=local))
        async with session.get(f"{up.url}/healthz") as answer:
            assert answer.status == 200
        pid = _server_of(workers(up), local[1])
        if pid in found:
            await session.close()
        else:
            found[pid] = session
        if len(found) == 2:
            return found
    await close(found)
    raise AssertionError("200 connections went to one worker")


def _server_of(pids: list[int], client_port: int) -> int:
    """Who holds the other end of the connection from this port."""
    inode = ""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[2].rsplit(":", 1)[1], 16) == client_port and fields[3] == "01":
            inode = f"socket:[{fields[9]}]"
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            try:
                if str(link.readlink()) == inode:
                    return pid
            except FileNotFoundError:
                continue
    raise AssertionError(f"nobody holds {inode!r}")


async def metric(session: aiohttp.ClientSession, url: str, line: str) -> float:
    async with session.get(f"{url}/metrics") as answer:
        match = re.search(rf"^{re.escape(line)} (\S+)$", await answer.text(), re.MULTILINE)
    return float(match[1]) if match else 0.0


async def close(found: dict[int, aiohttp.ClientSession]) -> None:
    for session in found.values():
        await session.close()


def started(up: Running, name: str) -> int:
    return len(list((Path(up.info.state_dir) / "logs" / name).glob("*.log")))


async def test_a_cold_model_is_started_once_for_200_clients_of_two_workers(tmp_path, manifest):
    spec = manifest("m", "simulator", config={"slots": 50})
    async with (
        running(tmp_path, [write(tmp_path / "m.yaml", spec)], *WORKERS, "--queue-size", "1000") as up,
        client() as session,
    ):
        assert len(workers(up)) == 2
        answers = await asyncio.gather(*(ask(session, up.url, "m", max_tokens=5) for _ in range(200)))
        assert [answer for answer in answers if not answer.served] == []
        assert started(up, "m") == 1
        found = await sessions(up)
        for one in found.values():
            assert (await ask(one, up.url, "m", max_tokens=3)).served
        await asyncio.sleep(1.2)
        sums = [
            await metric(one, up.url, 'flexinfer_proxy_requests_total{model="m",status="success"}')
            for one in found.values()
        ]
        assert sums == [202, 202]
        for one in found.values():
            assert await metric(one, up.url, 'flexinfer_proxy_endpoint_count{model="m"}') == 1
        await close(found)
        assert await up.end() == 0


@pytest.mark.parametrize("first", [0, 1])
async def test_a_model_sleeps_only_when_no_worker_has_an_open_request(tmp_path, manifest, first):
    spec = manifest("m", "simulator", config={"decodeRate": 10}, serverless={"idleTimeout": "1s"})
    async with running(tmp_path, [write(tmp_path / "m.yaml", spec)], *WORKERS) as up:
        found = await sessions(up)
        session = found[sorted(found)[first]]
        stream = asyncio.create_task(ask(session, up.url, "m", stream=True, max_tokens=30))
        await up.phase("m", "Ready")
        while not stream.done():
            assert (await up.model("m")).status.phase in ("Ready", "Loading")
            await asyncio.sleep(0.05)
        assert (await stream).served
        await up.phase("m", "Idle")
        assert started(up, "m") == 1
        await close(found)


async def test_a_killed_worker_costs_its_own_requests_only_and_comes_back(tmp_path, manifest):
    spec = manifest("m", "simulator", config={"decodeRate": 20, "slots": 8})
    async with running(tmp_path, [write(tmp_path / "m.yaml", spec)], *WORKERS) as up:
        found = await sessions(up)
        (doomed, lost), (staying, kept) = found.items()
        for session in found.values():
            assert (await ask(session, up.url, "m", max_tokens=1)).served
        begun = asyncio.Semaphore(0)
        streams = [asyncio.create_task(_ask_or_none(session, up.url, begun.release)) for session in (lost, kept)]
        for _ in streams:
            await begun.acquire()
        await asyncio.sleep(1.1)
        os.kill(doomed, signal.SIGKILL)
        # Its socket is gone with its last thread, which is when `up` learns of it.
        await until(lambda: "worker ended" in up.log.read_text())
        for _ in range(20):
            async with client() as session:
                assert (await ask(session, up.url, "m", max_tokens=1)).served
        answers = await asyncio.gather(*streams)
        assert answers[0] is None or not answers[0].whole
        assert answers[1] is not None
        assert answers[1].served
        await until(lambda: len(workers(up)) == 2)
        assert staying in workers(up)
        again = await _until_both(up)
        for session in again.values():
            assert (await ask(session, up.url, "m", max_tokens=1)).served
            # What the dead one had counted is not lost.
            count = await metric(session, up.url, 'flexinfer_proxy_requests_total{model="m",status="success"}')
            assert count >= 23
        await close(found)
        await close(again)
        assert await up.end() == 0


async def _ask_or_none(session: aiohttp.ClientSession, url: str, begun: Callable[[], object]) -> Answer | None:
    try:
        return await ask(session, url, "m", begun, stream=True, max_tokens=60)
    except aiohttp.ClientError:
        return None


async def _until_both(up: Running) -> dict[int, aiohttp.ClientSession]:
    for _ in range(20):
        try:
            return await sessions(up)
        except AssertionError:
            await asyncio.sleep(0.1)
    raise AssertionError("the new worker accepts nothing")


async def test_streams_of_both_workers_end_whole_on_sigterm(tmp_path, manifest):
    spec = manifest("m", "simulator", config={"decodeRate": 20, "slots": 100})
    async with running(tmp_path, [write(tmp_path / "m.yaml", spec)], *WORKERS) as up, client() as session:
        found = await sessions(up)
        begun = asyncio.Semaphore(0)
        tasks = [
            asyncio.create_task(ask(one, up.url, "m", begun.release, stream=True, max_tokens=40))
            for one in (*found.values(), *[session] * 40)
        ]
        for _ in tasks:
            await asyncio.wait_for(begun.acquire(), 10)
        up.process.send_signal(signal.SIGTERM)
        answers = await asyncio.gather(*tasks)
        assert all(answer.served and answer.body.rstrip().endswith(DONE) for answer in answers)
        assert await up.ended() == 0
        await close(found)


async def test_what_outlasts_the_grace_is_cut_in_every_worker(tmp_path, manifest):
    spec = manifest("m", "simulator", config={"decodeRate": 5, "slots": 4})
    async with running(tmp_path, [write(tmp_path / "m.yaml", spec)], *WORKERS, "--grace", "300ms") as up:
        found = await sessions(up)
        begun = asyncio.Semaphore(0)
        tasks = [
            asyncio.create_task(ask(one, up.url, "m", begun.release, stream=True, max_tokens=500))
            for one in found.values()
        ]
        for _ in tasks:
            await asyncio.wait_for(begun.acquire(), 10)
        up.process.send_signal(signal.SIGTERM)
        for answer in await asyncio.gather(*tasks):
            assert b'"code":"shutting_down"' in answer.body
        assert await up.ended() == 1
        await close(found)


async def test_sigkill_of_up_leaves_no_worker(tmp_path, manifest):
    async with running(tmp_path, [write(tmp_path / "m.yaml", manifest("m", "simulator"))], *WORKERS) as up:
        family = tree(up.process.pid)
        assert len(workers(up)) == 2
        up.process.kill()
        await until(lambda: not live(family), limit_s=2.0)


async def test_a_worker_asked_to_end_answers_what_it_has_taken(tmp_path, manifest):
    """What a rolling restart by hand would do."""
    spec = manifest("m", "simulator", config={"decodeRate": 100, "slots": 16})
    # A connection for each request: an idle one may be closed in the moment that a client uses it again.
    single = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True))
    async with running(tmp_path, [write(tmp_path / "m.yaml", spec)], *WORKERS) as up, single as session:
        assert (await ask(session, up.url, "m", max_tokens=1)).served
        going = workers(up)[0]
        tasks = []
        for number in range(60):
            tasks.append(asyncio.create_task(_ask_connected(session, up.url)))
            if number == 30:
                os.kill(going, signal.SIGTERM)
            await asyncio.sleep(0.005)
        answers = await asyncio.gather(*tasks)
        assert [answer for answer in answers if not answer.served] == []
        await until(lambda: going not in workers(up) and len(workers(up)) == 2)


async def test_f46_two_workers_are_restarted_in_turn_under_load_and_lose_nothing(tmp_path, manifest):
    spec = manifest("m", "simulator", config={"decodeRate": 100, "slots": 32})
    single = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True))
    answers: list[Answer] = []
    ending = False

    async def one(session: aiohttp.ClientSession) -> None:
        while not ending:
            answers.append(await _ask_connected(session, up.url))

    async with running(tmp_path, [write(tmp_path / "m.yaml", spec)], *WORKERS) as up, single as session:
        assert (await ask(session, up.url, "m", max_tokens=1)).served
        async with asyncio.TaskGroup() as group:
            for _ in range(8):
                group.create_task(one(session))
            for going in workers(up):
                os.kill(going, signal.SIGTERM)
                await until(lambda going=going: going not in workers(up) and len(workers(up)) == 2, 30)
                await close(await _until_both(up))
            ending = True
        assert [answer for answer in answers if not answer.served] == []
        assert len(answers) > 50


async def _ask_connected(session: aiohttp.ClientSession, url: str) -> Answer:
    """A handshake that is under way when a listener closes is reset by the kernel; no request was sent then."""
    try:
        return await ask(session, url, "m", max_tokens=5)
    except aiohttp.ClientConnectorError:
        return await ask(session, url, "m", max_tokens=5)


async def test_a_port_that_other_workers_share_is_refused(tmp_path, manifest):
    file = write(tmp_path / "m.yaml", manifest("m", "simulator"))
    async with running(tmp_path, [file], *WORKERS) as up:
        port = up.url.rsplit(":", 1)[1]
        second = tmp_path / "second"
        second.mkdir()
        with pytest.raises(AssertionError, match="is taken by another program"):
            async with running(second, [file], *WORKERS, "--port", port):
                pass


async def test_a_changed_manifest_under_load_loses_no_request(tmp_path, manifest):
    file = tmp_path / "m.yaml"
    write(file, manifest("m", "simulator", config={"decodeRate": 200, "slots": 4}))
    async with running(tmp_path, [file], *WORKERS) as up:
        async with load(up.url, "m", clients=8) as asked:
            await up.phase("m", "Ready")
            before = started(up, "m")
            await asyncio.sleep(0.3)
            write(file, manifest("m", "simulator", config={"decodeRate": 300, "slots": 4}))
            await until(lambda: started(up, "m") > before)
            await up.phase("m", "Ready")
            await asyncio.sleep(0.3)
        assert asked.lost == []
        assert len(asked.answers) > 8
        assert await up.end() == 0
