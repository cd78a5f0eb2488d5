"""One container's process: started under the sandbox, waited for by a pidfd, killed with everything in it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

_HELPERS = frozenset({"bwrap", "setpriv", "nsenter"})


class ContainerProcess:
    """`exited` is done with the exit code; 128 + N for signal N, as runtimes tell it."""

    def __init__(self, outer: subprocess.Popen[bytes], inner_pid: asyncio.Future[int | None]) -> None:
        self._outer = outer
        self._inner_pid = inner_pid
        self._pid: int | None = None
        loop = asyncio.get_running_loop()
        self.exited: asyncio.Future[int] = loop.create_future()
        pidfd = os.pidfd_open(outer.pid)

        def on_exit() -> None:
            loop.remove_reader(pidfd)
            os.close(pidfd)
            code = outer.wait()
            self.exited.set_result(code if code >= 0 else 128 - code)

        loop.add_reader(pidfd, on_exit)

    @property
    def pid(self) -> int | None:
        """The container's process 1, as this machine counts; None before `begun`."""
        return self._pid

    async def begun(self) -> bool:
        """Waits until the container's own program runs; False when it ended before."""
        self._pid = await self._inner_pid
        while self._pid is not None and not self.exited.done():
            if _program(self._pid) not in _HELPERS:
                return True
            await asyncio.sleep(0.002)
        return False

    def signal(self, number: signal.Signals) -> None:
        """To process 1 alone; SIGKILL ends all of them."""
        target = self._pid if self._pid is not None else self._outer.pid
        if not self.exited.done():
            try:
                os.kill(target, number)
            except ProcessLookupError:
                return

    def kill(self) -> None:
        """Also where bubblewrap has not started anything yet."""
        self.signal(signal.SIGKILL)
        if self._pid is None and not self.exited.done():
            self._outer.kill()


def _program(pid: int) -> str:
    """The name of the file that a process runs; a helper's while it is not known."""
    try:
        return Path(f"/proc/{pid}/exe").readlink().name
    except OSError:
        return "bwrap"


def start(argv: Sequence[str], env: Mapping[str, str], log: Path, status: tuple[int, int]) -> ContainerProcess:
    """`status` is a pipe whose writing end `argv` names; both ends belong to this function."""
    reading, writing = status
    try:
        with log.open("ab") as out:
            outer = subprocess.Popen(
                list(argv), env=dict(env), stdin=subprocess.DEVNULL, stdout=out, stderr=out, pass_fds=(writing,)
            )
    except OSError:
        os.close(reading)
        raise
    finally:
        os.close(writing)
    return ContainerProcess(outer, _inner_pid(reading))


def _inner_pid(reading: int) -> asyncio.Future[int | None]:
    """The first line that bubblewrap writes names it; None when it ends without one."""
    loop = asyncio.get_running_loop()
    found: asyncio.Future[int | None] = loop.create_future()
    text = bytearray()

    def on_readable() -> None:
        data = os.read(reading, 4096)
        text.extend(data)
        if b"\n" in text and not found.done():
            found.set_result(int(json.loads(text.split(b"\n")[0])["child-pid"]))
        if not data:
            loop.remove_reader(reading)
            os.close(reading)
            if not found.done():
                found.set_result(None)

    loop.add_reader(reading, on_readable)
    return found
