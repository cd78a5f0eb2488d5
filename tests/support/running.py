"""A real `flexinfer up` for tests: its address, its control socket, its end."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import yaml

from flexinfer.api import codec
from flexinfer.api.meta import ObjectKey
from flexinfer.api.v1alpha2.model import Model
from flexinfer.cli.detach import until_serving
from flexinfer.errors import NothingRunning
from flexinfer.kube.store import MODELS
from flexinfer.local.control import ControlClient, Info
from flexinfer.local.state import State

PHASE_LIMIT_S = 10.0


class Running:
    def __init__(self, process: subprocess.Popen[bytes], control: ControlClient, info: Info, log: Path) -> None:
        self.process = process
        self.control = control
        self.info = info
        self.url = info.proxy
        self.log = log

    async def model(self, name: str) -> Model:
        return codec.from_object(await self.control.store().get(MODELS, ObjectKey("default", name)))

    async def phase(self, name: str, *wanted: str, limit_s: float = PHASE_LIMIT_S) -> Model:
        """Wait until the model is in one of these phases."""
        deadline = asyncio.get_running_loop().time() + limit_s
        while True:
            model = await self.model(name)
            if model.status.phase in wanted:
                return model
            assert asyncio.get_running_loop().time() < deadline, (
                f"{name} is {model.status.phase}: {model.status.message}"
            )
            await asyncio.sleep(0.02)

    async def ended(self, limit_s: float = 15.0) -> int:
        """The exit code, once the process is gone."""
        return await asyncio.wait_for(asyncio.to_thread(self.process.wait), limit_s)

    async def end(self, limit_s: float = 15.0) -> int:
        self.process.send_signal(signal.SIGTERM)
        return await self.ended(limit_s)


def write(path: Path, *objects: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump_all(objects), "utf-8")
    return path


def spawn(
    folder: Path, files: Sequence[Path], *args: str, env: Mapping[str, str] | None = None, mounts: str = ""
) -> tuple[subprocess.Popen[bytes], State, Path]:
    """Start `flexinfer up` on a free port; nothing of the user's PATH is an engine.

    `mounts` are shell commands that change what it sees of the machine, in a mount namespace of its own.
    """
    log = folder / "up.log"
    state = State(folder / "state")
    argv = [
        sys.executable, "-m", "flexinfer", "up", *map(str, files), "--port", "0",
        "--state-dir", str(state.root), "--models-dir", str(folder / "models"), *args,
    ]  # fmt: skip
    if mounts:
        argv = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-ec", f'{mounts}\nexec "$@"', "sh", *argv]
    clean = {**os.environ, "PATH": "/usr/bin:/bin", **(env or {})}
    with log.open("ab") as output:
        # In a session of its own: whether the tests run on a terminal must not matter.
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=clean, start_new_session=True
        )
    return process, state, log


@asynccontextmanager
async def running(
    folder: Path, files: Sequence[Path], *args: str, env: Mapping[str, str] | None = None, mounts: str = ""
) -> AsyncIterator[Running]:
    process, state, log = spawn(folder, files, *args, env=env, mounts=mounts)
    try:
        try:
            info = await until_serving(state, process.pid, lambda: process.poll() is None)
        except NothingRunning:
            raise AssertionError(f"flexinfer up does not answer:\n{log.read_text()}") from None
        async with ControlClient(state) as control:
            yield Running(process, control, info, log)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                await asyncio.to_thread(process.wait, 15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
