"""Engines that do not all fit: a running `up` with little memory, or with one small GPU."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.support.asking import DONE, Answer, ask, client
from tests.support.processes import live
from tests.support.running import Running, running, write

Manifest = Callable[..., dict[str, Any]]
MEMORY = ("--memory", "4GiB")


def simulated(manifest: Manifest, name: str, mib: int, **spec: Any) -> dict[str, Any]:
    gpu = {"vendor": "auto", "vramEstimateMB": mib} | spec.pop("gpu", {})
    return manifest(name, "simulator", gpu=gpu, config={"decodeRate": 50}, **spec)


def a_gpu(folder: Path, free_mib: int = 8000) -> dict[str, str]:
    """An environment with a stub nvidia-smi: one GPU of 8 GB."""
    tools = folder / "tools"
    tools.mkdir(exist_ok=True)
    (tools / "free").write_text(str(free_mib))
    smi = tools / "nvidia-smi"
    smi.write_text(
        f'#!/bin/sh\necho "0, GPU-aa, A4000, 8000, 8.6, $(cat {tools}/free), 1, 40, 00000000:01:00.0, [N/A]"\n'
    )
    smi.chmod(0o755)
    return {"PATH": f"{tools}:/usr/bin:/bin"}


async def begun(session: aiohttp.ClientSession, up: Running, name: str, tokens: int) -> asyncio.Task[Answer]:
    """A stream that has begun."""
    first = asyncio.Event()
    task = asyncio.create_task(ask(session, up.url, name, first.set, stream=True, max_tokens=tokens))
    await asyncio.wait_for(first.wait(), 10)
    return task


async def pids(up: Running) -> dict[str, int]:
    return {engine.model: engine.pid for engine in await up.control.engines() if engine.pid}


@pytest.mark.parametrize(
    "gpu",
    [
        pytest.param({}, id="memory of the machine"),
        pytest.param({"vendor": "nvidia"}, id="memory of a GPU"),
        pytest.param({"vendor": "nvidia", "vramEstimateMB": 100, "shared": "g"}, id="one shared group"),
    ],
)
async def test_two_models_take_turns_without_losing_a_request(tmp_path: Path, manifest: Manifest, gpu: dict[str, Any]):
    env = a_gpu(tmp_path)
    sizes = {"alpha": 3000, "beta": 2500} if not gpu else {"alpha": 5000, "beta": 4000}
    models = [simulated(manifest, name, mib, gpu=gpu or {"vendor": "auto"}) for name, mib in sizes.items()]
    if not gpu:
        # Without a device that is large enough they run on the CPU.
        env = {}
    async with running(tmp_path, [write(tmp_path / "m.yaml", *models)], *MEMORY, env=env) as up, client() as session:
        for name, other in [("alpha", "beta"), ("beta", "alpha"), ("alpha", "beta")]:
            answer = await ask(session, up.url, name, max_tokens=5)
            assert answer.served, answer.body
            assert (await pids(up)).keys() == {name}
            assert (await up.phase(other, "Idle")).status.phase == "Idle"
        assert (await up.model("beta")).status.message.endswith("makes room for alpha; a request wakes it")


async def test_an_open_stream_is_never_cut_and_the_other_waits_with_the_numbers(tmp_path: Path, manifest: Manifest):
    models = [simulated(manifest, "alpha", 3000), simulated(manifest, "beta", 2500)]
    async with running(tmp_path, [write(tmp_path / "m.yaml", *models)], *MEMORY) as up, client() as session:
        stream = await begun(session, up, "alpha", 100)
        engine = (await pids(up))["alpha"]
        waiting = asyncio.create_task(ask(session, up.url, "beta", max_tokens=5))
        beta = await up.phase("beta", "Pending")
        assert "needs 2500 MiB of memory" in beta.status.message
        assert "alpha holds 3000 MiB" in beta.status.message
        assert beta.status.message.endswith("alpha is busy")
        schedulable = beta.condition("Schedulable")
        assert schedulable is not None
        assert (schedulable.status, schedulable.reason) == ("False", "MemoryInsufficient")
        assert not stream.done()
        assert live([engine]) == [engine]
        assert (await stream).body.rstrip().endswith(DONE)
        assert (await waiting).served
        assert live([engine]) == []


async def test_a_model_larger_than_the_limit_fails_with_the_numbers(tmp_path: Path, manifest: Manifest):
    file = write(tmp_path / "m.yaml", simulated(manifest, "alpha", 5000))
    async with running(tmp_path, [file], *MEMORY) as up, client() as session:
        alpha = await up.phase("alpha", "Failed")
        assert "needs 5000 MiB of memory, all engines together may use 4096 MiB" in alpha.status.message
        answer = await ask(session, up.url, "alpha")
        assert (answer.status, b"model_failed" in answer.body) == (503, True)


async def test_memory_of_a_program_outside_is_waited_for(tmp_path: Path, manifest: Manifest):
    """fr-030: the model starts by itself once a reading shows that the memory is free."""
    env = a_gpu(tmp_path, free_mib=300)
    file = write(tmp_path / "m.yaml", simulated(manifest, "alpha", 5000, gpu={"vendor": "nvidia"}))
    async with running(tmp_path, [file], env=env) as up, client() as session:
        waiting = asyncio.create_task(ask(session, up.url, "alpha", max_tokens=5))
        alpha = await up.phase("alpha", "Pending")
        assert "needs 5000 MiB; nvidia:0 (A4000) has 300 of 8000 MiB left" in alpha.status.message
        assert "7700 MiB are taken outside FlexInfer, read at " in alpha.status.message
        a_gpu(tmp_path, free_mib=7000)
        assert (await asyncio.wait_for(waiting, 20)).served
