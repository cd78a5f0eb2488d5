"""F52: somebody sets the clock of the machine while an `up` runs."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.asking import DONE, ask, client
from tests.support.running import running, write

from flexinfer.api.meta import ObjectKey
from flexinfer.kube.store import MODELS

# Read by Python before anything else: from here on the machine's clock is off by what the file says.
SITECUSTOMIZE = """
import time
real = time.time
def off():
    with open({file!r}) as file:
        return real() + float(file.read())
time.time = off
"""


class WallClock:
    def __init__(self, folder: Path) -> None:
        self._file = folder / "off-by"
        self.set(0)
        (folder / "python").mkdir()
        (folder / "python" / "sitecustomize.py").write_text(SITECUSTOMIZE.format(file=str(self._file)))
        self.env = {"PYTHONPATH": str(folder / "python")}

    def set(self, off_by_s: float) -> None:
        self._file.with_name("next").write_text(str(off_by_s))
        self._file.with_name("next").replace(self._file)


@pytest.fixture
def wall(tmp_path: Path) -> WallClock:
    return WallClock(tmp_path)


@pytest.mark.parametrize(
    ("jump_s", "workers"),
    [
        pytest.param(3600, (), id="an hour ahead"),
        pytest.param(-3600, (), id="an hour back"),
        pytest.param(3600, ("--workers", "2"), id="an hour ahead, two workers"),
    ],
)
async def test_a_clock_that_is_set_makes_no_model_idle_and_keeps_none_awake(tmp_path, manifest, wall, jump_s, workers):
    spec = manifest("m", "simulator", config={"decodeRate": 20}, serverless={"idleTimeout": "5s"})
    file = write(tmp_path / "m.yaml", spec)
    async with running(tmp_path, [file], *workers, env=wall.env) as up, client() as session:
        begun = asyncio.Event()
        stream = asyncio.create_task(ask(session, up.url, "m", begun.set, stream=True, max_tokens=40))
        await asyncio.wait_for(begun.wait(), 20)
        wall.set(jump_s / 2)
        answer = await stream
        assert (answer.served, answer.body.rstrip().endswith(DONE)) == (True, True)
        await asyncio.sleep(1)
        wall.set(jump_s)
        before = (await up.control.engines())[0].pid
        # Whatever makes it look at the model again.
        change = {"metadata": {"annotations": {"example.org/note": "look"}}}
        await up.control.store().patch(MODELS, ObjectKey("default", "m"), change, field_manager="test")
        await asyncio.sleep(1)
        assert (await up.model("m")).status.phase == "Ready"
        assert (await ask(session, up.url, "m", max_tokens=1)).served
        assert [engine.pid for engine in await up.control.engines()] == [before]
        await up.phase("m", "Idle", limit_s=30)


async def test_a_model_that_was_stopped_under_another_clock_wakes(tmp_path, manifest, wall):
    """`stop` writes the time of the machine, which is an hour ahead of that of `up`."""
    file = write(tmp_path / "m.yaml", manifest("m", "simulator"))
    async with running(tmp_path, [file], env=wall.env) as up, client() as session:
        assert (await ask(session, up.url, "m", max_tokens=1)).served
        wall.set(3600)
        argv = [sys.executable, "-m", "flexinfer", "stop", "m", "--state-dir", up.info.state_dir]
        stopped = await asyncio.to_thread(
            subprocess.run, argv, env={**os.environ, **wall.env}, capture_output=True, text=True, check=False
        )
        assert (stopped.returncode, "is stopped" in stopped.stdout) == (0, True), stopped.stderr
        assert (await ask(session, up.url, "m", max_tokens=1)).served
        await up.phase("m", "Ready")
