"""Start an `up` in the background, and wait until it answers."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import aiohttp

from flexinfer.errors import FlexInferError, NothingRunning
from flexinfer.local.control import ControlClient, Info
from flexinfer.local.enginelog import tail
from flexinfer.local.state import State

START_TIMEOUT_S = 30.0
HEALTH_TIMEOUT_S = 2.0


class Started(NamedTuple):
    pid: int
    proxy: str
    """Base address, `http://127.0.0.1:8080`."""
    log: Path


async def start_detached(state: State, args: Sequence[str], stdin: bytes = b"") -> Started:
    """Run `flexinfer up ARGS` in a session of its own, with `stdin` as its standard input.

    Raises FlexInferError with its last words when it ends early, StateLocked when another one owns the directory.
    """
    state.prepare()
    with state.locked():
        pass  # The log of one that runs is not to be overwritten.
    log = state.root / "up.log"
    argv = [sys.executable, "-m", "flexinfer", "up", *args, "--state-dir", str(state.root)]
    process = _spawn(argv, log, stdin)
    try:
        info = await until_serving(state, process.pid, lambda: process.poll() is None)
    except NothingRunning:
        if process.poll() is None:
            process.terminate()
            raise FlexInferError(
                f"`flexinfer up` did not answer within {START_TIMEOUT_S:g} s; its log: {log}"
            ) from None
        last = "\n".join(tail(log, 5)) or f"{log} is empty; is the disk full?"
        raise FlexInferError(f"`flexinfer up` ended with exit code {process.returncode}:\n{last}") from None
    return Started(process.pid, info.proxy, log)


async def until_serving(state: State, pid: int, alive: Callable[[], bool], timeout_s: float = START_TIMEOUT_S) -> Info:
    """What the `up` with this pid says of itself once its proxy answers.

    Raises NothingRunning when it ends first, or has not got there in time.
    """
    deadline = asyncio.get_running_loop().time() + timeout_s
    while True:
        try:
            async with ControlClient(state) as control:
                info = await control.info()
            if info.pid == pid and info.proxy and await _answers(info.proxy):
                return info
        except NothingRunning:
            pass
        if not alive() or asyncio.get_running_loop().time() > deadline:
            raise NothingRunning(f"pid {pid} does not answer on {state.root}")
        await asyncio.sleep(0.02)


async def _answers(address: str) -> bool:
    timeout = aiohttp.ClientTimeout(total=HEALTH_TIMEOUT_S)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(f"{address}/healthz") as answer:
            return answer.status == 200
    except (aiohttp.ClientError, TimeoutError, OSError):
        return False


def _spawn(argv: Sequence[str], log: Path, stdin: bytes) -> subprocess.Popen[bytes]:
    # A file without a name: a pipe would hold up whoever writes more than it takes.
    with log.open("wb") as output, tempfile.TemporaryFile() as source:
        source.write(stdin)
        source.seek(0)
        return subprocess.Popen(argv, stdin=source, stdout=output, stderr=output, start_new_session=True)
