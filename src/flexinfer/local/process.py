"""One engine through the keeper: start, read its log, wait until it is ready, stop with a grace period.

`Keeper.run` belongs into the TaskGroup of `up`; it keeps a keeper process running and starts another
when that one ends. An `EngineProcess` ends exactly once; `wait` tells how, and means that nothing of
its process tree is left.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from flexinfer import logs
from flexinfer.errors import EngineNotStarted
from flexinfer.local import keeper as wire
from flexinfer.local import launch
from flexinfer.local.enginelog import LogReader, tail
from flexinfer.local.ports import is_foreign_listener
from flexinfer.local.progress import Load, read_line

log = logs.get("local")

SWEEP_LIMIT_S = 5.0
CLOSE_LIMIT_S = 5.0
READY_POLL_S = (0.01, 0.05)
"""First and longest pause between two looks at a loading engine."""
HEALTH_TIMEOUT_S = 2.0


class EngineSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What is run. `argv[0]` is an absolute path; `env` is the whole environment."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str
    log_path: Path


class Exit(msgspec.Struct, frozen=True, kw_only=True):
    """How an engine ended. `lost`: with its keeper, so the engine itself did nothing wrong."""

    code: int | None = None
    signal: str | None = None
    lost: bool = False

    def __str__(self) -> str:
        if self.lost:
            return "the keeper process ended"
        return f"killed by {self.signal}" if self.signal else f"exit code {self.code}"


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """When an engine counts as ready; the fields mean what they mean in `LaunchPlan`."""

    port: int
    health_path: str
    ready_log: str = ""
    cpu_log: str = ""


class Loading(msgspec.Struct, frozen=True, kw_only=True):
    """What a starting engine has shown of itself."""

    load: Load = Load()
    cpu_line: str = ""
    """The line that says that it computes on the CPU."""
    ready_line: str = ""
    healthy: bool = False


class EngineEnded(Exception):
    """The engine ended before it was ready."""

    def __init__(self, exit_: Exit) -> None:
        self.exit = exit_
        super().__init__(str(exit_))


def decode_status(status: int) -> Exit:
    """From the status of waitpid."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return Exit(code=code)
    try:
        return Exit(signal=signal.Signals(-code).name)
    except ValueError:
        return Exit(signal=f"signal {-code}")


async def sweep(mark: str, limit_s: float = SWEEP_LIMIT_S) -> int:
    """Kill everything that carries the mark; the number of processes met.

    A process that SIGKILL does not end (it hangs in the kernel) is given up after `limit_s`.
    """
    deadline = asyncio.get_running_loop().time() + limit_s
    met: set[wire.ProcessId] = set()
    while found := wire.marked(mark):
        if asyncio.get_running_loop().time() > deadline:
            log.error("processes of a former run do not end", pids=[pid for pid, _ in found])
            break
        met.update(found)
        for process in found:
            wire.send_signal(process, signal.SIGKILL)
        await asyncio.sleep(0.005)
    return len(met)


class Keeper:
    """Owner of the keeper process. All methods belong to one event loop."""

    def __init__(self, mark: str) -> None:
        self._mark = mark
        self._up = asyncio.Event()
        self._writer: asyncio.StreamWriter | None = None
        self._next_id = 0
        self._starting: dict[int, asyncio.Future[int]] = {}
        self._running: dict[int, EngineProcess] = {}
        self.pid: int | None = None

    async def run(self) -> None:
        """Until cancelled; then every engine is killed and the keeper ends."""
        pause_s = 0.0
        while True:
            killed = await sweep(self._mark)
            if killed:
                log.warning("ended processes of a former run", count=killed)
            began = asyncio.get_running_loop().time()
            await self._serve_one()
            # A keeper that cannot live is no reason to burn a core.
            lived_s = asyncio.get_running_loop().time() - began
            pause_s = 0.0 if lived_s > 10 else min(max(2 * pause_s, 0.05), 5.0)
            log.error("the keeper ended; its engines are killed and another one starts", pause_s=pause_s)
            await asyncio.sleep(pause_s)

    async def start(self, spec: EngineSpec) -> EngineProcess:
        """Raises EngineNotStarted with the machine's reason."""
        if not spec.argv or any("\0" in word for word in (*spec.argv, *spec.env, *spec.env.values(), spec.cwd)):
            raise EngineNotStarted(spec.argv[0] if spec.argv else "", "an argument holds a null character")
        await self._up.wait()
        self._next_id += 1
        engine = EngineProcess(self, self._next_id, spec)
        started: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._starting[engine.id] = started
        self._running[engine.id] = engine
        # setproctitle overwrites the environment that /proc shows, and the mark with it, unless told not to.
        env = {"SPT_NOENV": "1", **spec.env, wire.MARK: self._mark}
        try:
            self.send(op="start", id=engine.id, argv=spec.argv, env=env, cwd=spec.cwd, log=str(spec.log_path))
            engine.pid = await started
        except asyncio.CancelledError:
            self.send(op="kill", id=engine.id)
            raise
        finally:
            self._starting.pop(engine.id, None)
        return engine

    def send(self, **command: Any) -> None:
        """A command to the keeper; when there is none, its engines are being ended anyway."""
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(wire.encode(command))

    async def _serve_one(self) -> None:
        """Start one keeper process and serve until it ends."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", "-B", wire.__file__, str(os.getpid())),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=launch.without_credentials(os.environ) | {wire.MARK: self._mark},
            start_new_session=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        self._writer, self.pid = process.stdin, process.pid
        self._up.set()
        try:
            await self._read_events(process.stdout)
        finally:
            self._up.clear()
            self._writer = self.pid = None
            process.stdin.close()
            await self._await_end(process)
            for future in self._starting.values():
                if not future.done():
                    future.set_exception(EngineNotStarted("engine", "the keeper process ended"))
            for engine in list(self._running.values()):
                engine.ended(Exit(lost=True))
            self._running.clear()

    async def _await_end(self, process: asyncio.subprocess.Process) -> None:
        try:
            await asyncio.wait_for(process.wait(), CLOSE_LIMIT_S)
        except TimeoutError:
            process.kill()
            await process.wait()
        await sweep(self._mark)

    async def _read_events(self, reader: asyncio.StreamReader) -> None:
        buffer = bytearray()
        while data := await reader.read(65536):
            buffer += data
            for event in wire.take_frames(buffer):
                self._take_event(event)

    def _take_event(self, event: dict[str, Any]) -> None:
        engine = self._running.get(event["id"])
        started = self._starting.get(event["id"])
        if engine is None:
            return
        match event["event"]:
            case "started":
                if started is not None and not started.done():
                    started.set_result(event["pid"])
            case "failed":
                self._running.pop(engine.id)
                if started is not None and not started.done():
                    started.set_exception(EngineNotStarted(*_start_failure(engine.spec, event)))
            case "exited":
                engine.status = decode_status(event["status"])
            case "gone":
                self._running.pop(engine.id)
                # Without a status the minder was killed, and the engine with it.
                engine.ended(engine.status or Exit(signal="SIGKILL"))


def _start_failure(spec: EngineSpec, event: Mapping[str, Any]) -> tuple[str, str]:
    subject = {"cwd": f"working directory {spec.cwd}", "log": f"log file {spec.log_path}"}.get(event["stage"], "")
    reason = os.strerror(event["errno"])
    return spec.argv[0], f"{subject}: {reason}" if subject else reason


class EngineProcess:
    """One start of one engine."""

    def __init__(self, keeper: Keeper, id_: int, spec: EngineSpec) -> None:
        self._keeper = keeper
        self._ended = asyncio.Event()
        self.id = id_
        self.spec = spec
        self.pid = 0
        self.status: Exit | None = None
        """How the engine's first process ended, as soon as it has."""

    @property
    def log_path(self) -> Path:
        return self.spec.log_path

    @property
    def exit(self) -> Exit | None:
        """Set once nothing of the process tree is left."""
        return self.status if self._ended.is_set() else None

    def ended(self, exit_: Exit) -> None:
        """Called by the keeper's reader."""
        self.status = exit_
        self._ended.set()

    async def wait(self) -> Exit:
        await self._ended.wait()
        assert self.status is not None
        return self.status

    def signal(self, number: signal.Signals) -> None:
        """To the engine's process group."""
        self._keeper.send(op="signal", id=self.id, signal=int(number))

    def kill(self) -> None:
        """SIGKILL to the whole tree, whatever session its members are in."""
        self._keeper.send(op="kill", id=self.id)

    async def stop(self, grace_s: float) -> Exit:
        """SIGTERM to the group; when the engine's process is still there after the grace, the tree is killed.

        Cancelling it kills the tree at once.
        """
        self.signal(signal.SIGTERM)
        try:
            return await asyncio.wait_for(self.wait(), grace_s)
        except TimeoutError:
            self.kill()
            return await self.wait()
        except asyncio.CancelledError:
            self.kill()
            raise

    def last_lines(self, count: int = 20) -> list[str]:
        return tail(self.log_path, count)

    async def wait_ready(
        self,
        session: aiohttp.ClientSession,
        probe: Probe,
        on_change: Callable[[Loading], None] = lambda _loading: None,
    ) -> Loading:
        """Until the engine is ready. Raises EngineEnded when it ends first.

        With `ready_log`, a line that matches `cpu_log` ends the wait too: the caller decides. There
        is no deadline; the caller cancels. `on_change` is called with each change.
        """
        watch = _LoadWatch(self.log_path, probe)
        pause_s, longest_s = READY_POLL_S
        while True:
            if self.status is not None:
                raise EngineEnded(await self.wait())
            before = watch.loading
            watch.read()
            if not before.healthy and await self._is_healthy(session, probe):
                watch.loading = msgspec.structs.replace(watch.loading, healthy=True)
                watch.read()
            if watch.loading != before:
                on_change(watch.loading)
            if watch.is_ready():
                return watch.loading
            try:
                await asyncio.wait_for(self._ended.wait(), pause_s)
            except TimeoutError:
                pause_s = min(pause_s * 1.1, longest_s)

    async def _is_healthy(self, session: aiohttp.ClientSession, probe: Probe) -> bool:
        url = f"http://127.0.0.1:{probe.port}{probe.health_path}"
        timeout = aiohttp.ClientTimeout(total=HEALTH_TIMEOUT_S)
        try:
            async with session.get(url, timeout=timeout, allow_redirects=False) as answer:
                if answer.status != 200:
                    return False
        except (aiohttp.ClientError, OSError, TimeoutError):
            return False
        if is_foreign_listener(probe.port, self.pid):
            log.warning("another program answers on the engine's port", port=probe.port, engine=self.pid)
            return False
        return True


class _LoadWatch:
    """Reads the log of a starting engine as it grows."""

    def __init__(self, path: Path, probe: Probe) -> None:
        self._reader = LogReader(path)
        self._ready = re.compile(probe.ready_log) if probe.ready_log else None
        self._cpu = re.compile(probe.cpu_log) if probe.cpu_log else None
        self.loading = Loading()

    def read(self) -> None:
        lines = self._reader.read_lines()
        load, ready_line, cpu_line = self.loading.load, self.loading.ready_line, self.loading.cpu_line
        for line in lines:
            load = read_line(load, line)
            if self._ready is not None and not ready_line and self._ready.search(line):
                ready_line = line
            if self._cpu is not None and not cpu_line and self._cpu.search(line):
                cpu_line = line
        load = read_line(load, self._reader.partial)
        self.loading = msgspec.structs.replace(self.loading, load=load, ready_line=ready_line, cpu_line=cpu_line)

    def is_ready(self) -> bool:
        said = self._ready is None or bool(self.loading.ready_line) or bool(self.loading.cpu_line)
        return self.loading.healthy and said
