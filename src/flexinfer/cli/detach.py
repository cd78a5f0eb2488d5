"""Start an `up` in the background, and wait until it answers."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from flexinfer.errors import FlexInferError, NothingRunning
from flexinfer.local.state import State

START_TIMEOUT_S = 30.0


class Started(NamedTuple):
    pid: int
    proxy: str
    """Base address, `http://127.0.0.1:8080`."""
    log: Path


async def start_detached(state: State, args: Sequence[str]) -> Started:
    """Run `flexinfer up ARGS` in a session of its own. Raises FlexInferError with its last words when it ends early."""
    from flexinfer.local.control import ControlClient

    state.prepare()
    log = state.root / "up.log"
    argv = [sys.executable, "-m", "flexinfer", "up", *args, "--state-dir", str(state.root)]
    process = _spawn(argv, log)
    deadline = asyncio.get_running_loop().time() + START_TIMEOUT_S
    while asyncio.get_running_loop().time() < deadline:
        if process.poll() is not None:
            last = "\n".join(log.read_text("utf-8", "replace").splitlines()[-5:])
            raise FlexInferError(f"`flexinfer up` ended with exit code {process.returncode}:\n{last}")
        try:
            async with ControlClient(state) as control:
                info = await control.info()
            if info.pid == process.pid and info.proxy:
                return Started(process.pid, info.proxy, log)
        except NothingRunning:
            pass
        await asyncio.sleep(0.05)
    process.terminate()
    raise FlexInferError(f"`flexinfer up` did not answer within {START_TIMEOUT_S:g} s; its log: {log}")


def _spawn(argv: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True)
