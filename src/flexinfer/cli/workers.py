"""The front of `up --workers N`: N processes that accept on one port, each with its share of the limits.

A worker reads settings and orders as lines of JSON from its stdin and answers on its stdout; the Models
it reads by the control socket. What its requests do is told here, so that an open one keeps its Model
whichever worker has it. One that dies is started again; the port stays taken meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec

from flexinfer import logs
from flexinfer.cli.front import FrontSettings, background
from flexinfer.clock import Clock, since_boot_s
from flexinfer.errors import FlexInferError
from flexinfer.lifecycle.observed import Usage
from flexinfer.lifecycle.silence import Silence, merged
from flexinfer.local import launch
from flexinfer.local.state import State
from flexinfer.metrics.window import Live, merge

log = logs.get("workers")

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0
_HEALTHY_S = 10.0
_END_S = 5.0
"""What a worker may take beyond the grace."""
_LONGEST_LINE = 2**26


class WorkerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The first line that a worker reads."""

    index: int
    count: int
    host: str
    port: int
    state_dir: str
    front: FrontSettings
    """Its share."""
    drain_delay_s: float
    grace_s: float
    booted_at: float
    """On the clock of `up`."""
    quiet: bool = False
    """A table is shown where its log would go."""


class Drain(msgspec.Struct, frozen=True, tag="drain"):
    """The order to end; the end of its input ends a worker at once."""


class Serves(msgspec.Struct, frozen=True, tag="serves"):
    """It accepts connections."""


class Use(msgspec.Struct, frozen=True, array_like=True):
    open: int
    waiting: int
    used_at: float | None
    """On the machine's monotonic clock."""
    silences: dict[str, Silence] = {}

    @property
    def timeouts(self) -> set[tuple[str, float]]:
        """Replica and time of each request that timed out and counts."""
        return {(name, at) for name, silence in self.silences.items() for at in silence.sent_at}


_UNUSED = Use(0, 0, None)


class Report(msgspec.Struct, frozen=True, tag="report"):
    """What its requests do, by model; models that it has not been asked for are left out."""

    uses: dict[str, Use]
    lives: dict[str, Live]


class Ended(msgspec.Struct, frozen=True, tag="ended"):
    cut: int


_decoder = msgspec.json.Decoder(Serves | Report | Ended)


class _Place:
    """One worker after another, with the same share."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.process: Process | None = None
        self.serves = asyncio.Event()
        self.uses: dict[str, Use] = {}
        self.lives: dict[str, Live] = {}
        self.cut: int | None = None

    def hear(self, line: bytes) -> set[str]:
        """The Models of whose replicas it tells that more requests timed out."""
        said = _decoder.decode(line)
        if isinstance(said, Serves):
            self.serves.set()
        elif isinstance(said, Ended):
            self.cut = said.cut
        else:
            before, self.uses, self.lives = self.uses, said.uses, said.lives
            return {name for name, use in said.uses.items() if use.timeouts - before.get(name, _UNUSED).timeouts}
        return set()

    def say(self, what: WorkerSettings | Drain) -> None:
        if self.process is not None and self.process.stdin is not None and not self.process.stdin.is_closing():
            self.process.stdin.write(msgspec.json.encode(what) + b"\n")


class Pool:
    """Implements `cli.front.Front`."""

    def __init__(
        self,
        count: int,
        settings: FrontSettings,
        state: State,
        clock: Clock,
        *,
        ending: tuple[float, float],
        quiet: bool = False,
        on_timeout: Callable[[str], None] = lambda _name: None,
    ) -> None:
        """`ending` is the drain delay and the grace of a worker that is asked to end by itself; `on_timeout` is that
        of the Activator."""
        self._settings = settings
        self._state = state
        self._clock = clock
        self._delay_s, self._grace_s = ending
        self._quiet = quiet
        self._on_timeout = on_timeout
        self._places = [_Place(index) for index in range(count)]
        self._tasks: list[asyncio.Task[None]] = []
        self._group: asyncio.TaskGroup | None = None
        self._ending = asyncio.Event()
        self._reserved: socket.socket | None = None

    def usage(self, name: str) -> Usage:
        uses = [use for place in self._places if (use := place.uses.get(name)) is not None]
        used_at = [use.used_at for use in uses if use.used_at is not None]
        found = Usage(
            open=sum(use.open for use in uses),
            waiting=sum(use.waiting for use in uses),
            silences=merged(use.silences for use in uses),
        )
        if not used_at:
            return found
        return msgspec.structs.replace(found, idle_s=max(0.0, self._clock.monotonic() - max(used_at)))

    def live(self, name: str) -> Live | None:
        return merge([live for place in self._places if (live := place.lives.get(name)) is not None])

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        folder = series_dir(self._state)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        try:
            async with background(self._keep_all()):
                yield
        finally:
            if self._reserved is not None:
                self._reserved.close()
            shutil.rmtree(folder, ignore_errors=True)

    async def listen(self, host: str, port: int) -> int:
        """Returns once every worker accepts. Raises OSError when the port is taken."""
        self._reserved = await asyncio.to_thread(bind_shared, host, port, reserve=True)
        address = self._reserved.getsockname()
        assert self._group is not None, "to be called inside running()"
        for place in self._places:
            self._tasks.append(self._group.create_task(self._keep(place, address[0], address[1])))
        for place in self._places:
            await place.serves.wait()
        log.info("workers serve", workers=len(self._places))
        return int(address[1])

    async def drain(self, delay_s: float, grace_s: float) -> int:
        self._ending.set()
        for place in self._places:
            place.say(Drain())
        if not self._tasks:
            return 0
        _, late = await asyncio.wait(self._tasks, timeout=delay_s + grace_s + _END_S)
        for task in late:
            task.cancel()
        # One that died on the way cut what it had, as far as it had told.
        return sum(self._left(place) for place in self._places)

    async def stop(self) -> None:
        """Nothing is left after `drain`."""

    @staticmethod
    def _left(place: _Place) -> int:
        return place.cut if place.cut is not None else sum(use.open + use.waiting for use in place.uses.values())

    async def _keep_all(self) -> None:
        try:
            async with asyncio.TaskGroup() as self._group:
                await asyncio.get_running_loop().create_future()
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None

    async def _keep(self, place: _Place, host: str, port: int) -> None:
        """Run the worker of this place, again whenever it ends, until all are to end."""
        settings = WorkerSettings(
            index=place.index,
            count=len(self._places),
            host=host,
            port=port,
            state_dir=str(self._state.root),
            front=self._settings.shared(place.index, len(self._places)),
            drain_delay_s=self._delay_s,
            grace_s=self._grace_s,
            booted_at=self._clock.now().timestamp() - since_boot_s(),
            quiet=self._quiet,
        )
        pause_s, began_once = _FIRST_PAUSE_S, False
        while not self._ending.is_set():
            began_at = self._clock.monotonic()
            code = await self._run(place, settings)
            began_once = began_once or place.serves.is_set()
            if self._ending.is_set():
                return
            if not began_once:
                raise FlexInferError(f"a worker ended with exit code {code} before it served; its last words are above")
            place.uses, place.lives, place.cut = {}, {}, None
            if self._clock.monotonic() - began_at >= _HEALTHY_S:
                pause_s = _FIRST_PAUSE_S
            log.warning("worker ended; another one takes its place", index=place.index, code=code, in_s=pause_s)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), pause_s)
            pause_s = min(_LONGEST_PAUSE_S, 2 * pause_s)

    async def _run(self, place: _Place, settings: WorkerSettings) -> int:
        """One worker's life; its exit code."""
        # In a session of its own: Ctrl-C is for `up`, which tells the workers.
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "flexinfer", "worker",
            stdin=PIPE, stdout=PIPE, start_new_session=True, limit=_LONGEST_LINE,
            env=launch.without_credentials(os.environ),
        )  # fmt: skip
        place.process = process
        place.say(settings)
        if self._ending.is_set():
            place.say(Drain())
        assert process.stdout is not None
        try:
            async for line in process.stdout:
                for name in place.hear(line):
                    self._on_timeout(name)
            return await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


def series_dir(state: State) -> Path:
    """Where the workers keep what they have counted."""
    return state.root / "workers"


def bind_shared(host: str, port: int, *, reserve: bool = False) -> socket.socket:
    """A socket that shares its address with those of the other workers. Raises OSError.

    With `reserve` the address has to be free of anybody else's sockets, those that would share it too.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    # One address: IPv4 first, as `localhost` has both and clients try both.
    family, kind, protocol, _, address = min(found, key=lambda item: item[0] != socket.AF_INET)
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if not reserve:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(address)
        if reserve:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except OSError:
        sock.close()
        raise
    return sock
