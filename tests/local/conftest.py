"""A state directory, and a keeper that starts misbehaving engines; whatever a test does, no process stays."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from tests.support.processes import BAD_ENGINE

from flexinfer.local import keeper as wire
from flexinfer.local.process import EngineProcess, EngineSpec, Keeper
from flexinfer.local.state import State

Start = Callable[..., Awaitable[EngineProcess]]


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    state = State(tmp_path / "state")
    state.prepare()
    mark = state.mark
    yield state
    deadline = time.monotonic() + 5
    while (left := wire.marked(mark)) and time.monotonic() < deadline:
        for process in left:
            wire.send_signal(process, signal.SIGKILL)
        time.sleep(0.01)


@pytest.fixture
async def keeper(state: State) -> AsyncIterator[Keeper]:
    keeper = Keeper(state.mark)
    task = asyncio.create_task(keeper.run())
    yield keeper
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


@pytest.fixture
def start(keeper: Keeper, state: State) -> Start:
    async def start(*words: str, name: str = "engine") -> EngineProcess:
        argv = (sys.executable, "-I", "-S", str(BAD_ENGINE), *words)
        env = {"PATH": os.environ["PATH"]}
        return await keeper.start(EngineSpec(argv=argv, env=env, cwd="/", log_path=state.new_log(name)))

    return start
