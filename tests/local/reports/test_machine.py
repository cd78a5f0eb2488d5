"""Reports on tools that run models on one machine: loads given up, doubled engines, engines that stay."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from tests.support.asking import ask, chat, client
from tests.support.commands import call
from tests.support.figures import faults
from tests.support.processes import command_line, live, tree
from tests.support.running import Running, running, write
from tests.support.waiting import until

from flexinfer.lifecycle import silence


async def test_fr_014_a_slow_load_is_no_failure(tmp_path, manifest):
    """A load of more than twice the budget: told how far it is, never Failed, and answered when it is done."""
    spec = manifest("m", "simulator", serverless={"coldStartTimeout": "1500ms"}, config={"loadSeconds": 4})
    async with running(tmp_path, [write(tmp_path / "m.yaml", spec)]) as up, seen_phases(up, "m") as phases:
        told, refused = [], 0
        async with asyncio.timeout(40):
            while (answer := await chat(up.url, "m"))[0] == 503:
                _, headers, body = answer
                assert body["error"]["code"] == "model_loading"
                assert 1 <= int(headers["Retry-After"]) <= 60
                told += re.findall(r"LoadingWeights, (\d+)% done; ready in about \d+ s", body["error"]["message"])
                refused += 1
                await asyncio.sleep(0.2)
        assert answer[0] == 200
        assert refused >= 2
        assert told
        assert [int(percent) for percent in told] == sorted(int(percent) for percent in told)
        assert set(told) <= {"25", "50", "75"}
        await up.phase("m", "Ready")
        assert phases <= {"Idle", "Pending", "Loading", "Ready"}
        assert [engine.restarts for engine in await up.control.engines()] == [0]


@asynccontextmanager
async def seen_phases(up: Running, name: str) -> AsyncIterator[set[str | None]]:
    phases: set[str | None] = set()

    async def look() -> None:
        while True:
            phases.add((await up.model(name)).status.phase)
            await asyncio.sleep(0.02)

    looking = asyncio.create_task(look())
    try:
        yield phases
    finally:
        looking.cancel()
        await asyncio.wait({looking})


def engines(up: Running) -> list[list[str]]:
    """Command lines of the simulators below `up`."""
    found = []
    for pid in tree(up.process.pid):
        words = command_line(pid)
        if "sim" in words and "--model" in words:
            found.append(words)
    return found


async def test_fr_015_quick_edits_leave_one_engine_with_the_last_content(tmp_path, manifest):
    def spec(tokens: int) -> dict:
        args = ["--output-tokens", str(tokens)]
        return manifest("m", "simulator", config={"decodeRate": 20, "extraArgs": args}, serverless={"minReplicas": 1})

    file = write(tmp_path / "m.yaml", spec(10))
    async with running(tmp_path, [file]) as up, client() as session:
        await up.phase("m", "Ready")
        begun = asyncio.Event()
        stream = asyncio.create_task(ask(session, up.url, "m", begun.set, stream=True, max_tokens=60))
        await begun.wait()
        for tokens in (11, 12, 0, 13, 14, 15):
            if tokens:
                write(file, spec(tokens))
            else:
                file.write_text("apiVersion: ai.flexinfer/v1alpha2\nkind: Model\nmetadata: {name: m\n")
                # Left alone for long enough to be read.
                await until(lambda: "manifests refused" in up.log.read_text())
            await asyncio.sleep(0.3)
        answer = await stream
        assert answer.served
        assert answer.body.rstrip().endswith(b"data: [DONE]")
        for _ in range(2):
            await until(lambda: [words[words.index("--output-tokens") + 1] for words in engines(up)] == ["15"])
            await asyncio.sleep(1)
        assert len(await up.control.engines()) == 1
        refused = [line for line in up.log.read_text().splitlines() if "manifests refused" in line]
        assert len(refused) == 1
        assert "m.yaml" in refused[0]
        assert "line 4" in refused[0]


async def test_fr_016_an_engine_that_hangs_goes_with_ctrl_c(tmp_path, manifest):
    """It answers /health and nothing else, ignores SIGTERM, and has a worker."""
    args = ["--on-sigterm", "ignore", "--worker"]
    file = write(tmp_path / "m.yaml", manifest("m", "simulator", config={"extraArgs": args}))
    options = ("--first-byte-timeout", "1s", "--grace", "1s")
    async with running(tmp_path, [file], *options) as up, client() as session:
        for _ in range(10):
            assert (await ask(session, up.url, "m", max_tokens=1)).served
        await faults(session, up, "m", hang="before-head")
        status, _, body = await chat(up.url, "m")
        assert (status, body["error"]["code"]) == (504, "upstream_timeout")
        family = tree(up.process.pid)
        assert len(family) >= 4
        up.process.send_signal(signal.SIGINT)
        began = time.monotonic()
        assert await up.ended() == 0
        assert time.monotonic() - began < 12
        await until(lambda: not live(family), limit_s=1.0)


async def test_fr_016_an_engine_that_hangs_is_ended_by_the_next_up(tmp_path, manifest):
    """SIGKILL for `up`, its keeper and their minders at once: nobody of ours is left to end it."""
    args = ["--on-sigterm", "ignore", "--worker"]
    file = write(tmp_path / "m.yaml", manifest("m", "simulator", config={"extraArgs": args}))
    async with running(tmp_path, [file]) as up, client() as session:
        assert (await ask(session, up.url, "m", max_tokens=1)).served
        await faults(session, up, "m", hang="before-head")
        family = tree(up.process.pid)
        ours = [pid for pid in family if "sim" not in command_line(pid)]
        for pid in (up.process.pid, *ours):
            os.kill(pid, signal.SIGKILL)
        await up.ended()
        assert live(family) != []
    async with running(tmp_path, [file]) as up, client() as session:
        await until(lambda: not live(family), limit_s=5.0)
        assert (await ask(session, up.url, "m", max_tokens=1)).served


@pytest.mark.parametrize("workers", [pytest.param(1, id="one process"), pytest.param(2, id="two workers")])
async def test_fr_016_an_engine_that_hangs_is_replaced_after_three_requests(tmp_path, manifest, workers):
    """It answers /health, ignores SIGTERM, and is the only one; who comes after the third waits for another."""
    args = ["--on-sigterm", "ignore", "--worker"]
    file = write(tmp_path / "m.yaml", manifest("m", "simulator", config={"extraArgs": args}))
    options = ("--first-byte-timeout", "1s", "--workers", str(workers))
    async with running(tmp_path, [file], *options) as up, client() as session, seen_words(up, "m") as words:
        assert (await ask(session, up.url, "m", max_tokens=1)).served
        hung = await up.control.engines()
        await faults(session, up, "m", hang="before-head")
        for _ in range(2):
            assert (await chat(up.url, "m"))[0] == 504
        await asyncio.sleep(1.5)  # what the proxies have to tell has been told
        assert [engine.pid for engine in await up.control.engines()] == [hung[0].pid]
        assert (await up.model("m")).status.phase == "Ready"
        status, _, body = await chat(up.url, "m")
        assert (status, body["error"]["code"]) == (504, "upstream_timeout")
        if workers > 1:
            await up.phase("m", "Loading")  # each of them knows a part only
            await asyncio.sleep(0.3)
        assert (await ask(session, up.url, "m", max_tokens=1)).served
        engines = await up.control.engines()
        assert [engine.restarts for engine in engines] == [1]
        assert engines[0].pid != hung[0].pid
        await until(lambda: not live([hung[0].pid]))
        await up.phase("m", "Ready")
    assert ("Loading", "EngineHung", silence.MESSAGE) in words


@asynccontextmanager
async def seen_words(up: Running, name: str) -> AsyncIterator[set[tuple[str | None, str, str]]]:
    """Phase, and reason and message of the condition Ready, whenever they were looked at."""
    words: set[tuple[str | None, str, str]] = set()

    async def look() -> None:
        while True:
            model = await up.model(name)
            if (ready := model.condition("Ready")) is not None:
                words.add((model.status.phase, ready.reason, ready.message))
            await asyncio.sleep(0.02)

    looking = asyncio.create_task(look())
    try:
        yield words
    finally:
        looking.cancel()
        await asyncio.wait({looking})


async def test_fr_035_polling_keeps_no_model_awake_and_wakes_none(tmp_path, manifest):
    spec = manifest("m", "simulator", serverless={"idleTimeout": "2s"})
    async with running(tmp_path, [write(tmp_path / "m.yaml", spec)]) as up, client() as session:
        assert (await ask(session, up.url, "m")).served
        await asyncio.sleep(0.7)  # the end of the answer is written too
        used = (await up.model("m")).status.last_active_time
        ended = asyncio.Event()

        async def poll() -> None:
            while not ended.is_set():
                for path in ("/metrics", "/v1/models", "/v1/models/m", "/healthz", "/readyz"):
                    async with session.get(up.url + path) as answer:
                        assert answer.status == 200
                assert (await call("ps", "--state-dir", up.info.state_dir, folder=tmp_path)).returncode == 0

        polling = asyncio.create_task(poll())
        await up.phase("m", "Idle", limit_s=6)
        await asyncio.sleep(1.5)
        ended.set()
        await polling
        model = await up.model("m")
        assert (model.status.phase, await up.control.engines()) == ("Idle", [])
        assert model.status.last_active_time == used
        assert [log.name for log in (tmp_path / "state" / "logs" / "m").iterdir()] == ["1.log"]
