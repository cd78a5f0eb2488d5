"""A state directory, a keeper that starts misbehaving engines, models and a hub; no process outlives its test."""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from tests.support import demo_models
from tests.support.background import beside
from tests.support.hub import Hub
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
    async with beside(keeper.run()):
        yield keeper


@pytest.fixture
def start(keeper: Keeper, state: State) -> Start:
    async def start(*words: str, name: str = "engine") -> EngineProcess:
        argv = (sys.executable, "-I", "-S", str(BAD_ENGINE), *words)
        env = {"PATH": os.environ["PATH"]}
        return await keeper.start(EngineSpec(argv=argv, env=env, cwd="/", log_path=state.new_log(name)))

    return start


@pytest.fixture
def manifest() -> Callable[..., dict]:
    def manifest(
        name: str, backend: str = "llamacpp", source: str = "file:///models/demo.gguf", **spec: object
    ) -> dict:
        return {
            "apiVersion": "ai.flexinfer/v1alpha2",
            "kind": "Model",
            "metadata": {"name": name},
            "spec": {"backend": backend, "source": source, **spec},
        }

    return manifest


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """The --models-dir, with two real models: demo.gguf and other.gguf."""
    return demo_models.write(tmp_path / "models")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With an empty --models-dir in it."""
    (tmp_path / "models").mkdir()
    return tmp_path


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as hub:
        yield hub


@pytest.fixture
def many_files() -> Iterator[None]:
    """As many descriptors as a test with hundreds of clients needs."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(20_000, before[1]), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)
