"""An `up` and the terminal it was started on: a real one, that is closed."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.support.asking import DONE, ask, client
from tests.support.processes import command_line, live, tree
from tests.support.running import write
from tests.support.waiting import until

from flexinfer.cli.detach import until_serving
from flexinfer.errors import NothingRunning
from flexinfer.local.control import ControlClient, Info
from flexinfer.local.state import State

BAR = re.compile("(━[^\\n]*[1-9]%|[1-9]%[^\\n]*━)".encode())
"""A bar that has begun, on one line with how much is done."""
# The leader of a session without a terminal gets the first one that it opens.
ON_TERMINAL = 'exec <"$0" >"$0" 2>&1; exec "$@"'


class Window:
    """A terminal with one process on it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._master, self._slave = pty.openpty()
        self.process: subprocess.Popen[bytes] | None = None
        self.shown = bytearray()

    def start(self, *argv: object) -> subprocess.Popen[bytes]:
        words = ["sh", "-c", ON_TERMINAL, os.ttyname(self._slave), *map(str, argv)]
        env = {**os.environ, "PATH": "/usr/bin:/bin", "TERM": "xterm"}
        self.process = subprocess.Popen(words, start_new_session=True, env=env, cwd=self._folder)
        asyncio.get_running_loop().add_reader(self._master, self._read)
        return self.process

    def _read(self) -> None:
        self.shown += os.read(self._master, 65536)

    def type(self, data: bytes) -> None:
        os.write(self._master, data)

    def close(self) -> None:
        if self._master >= 0:
            asyncio.get_running_loop().remove_reader(self._master)
            os.close(self._slave)
            os.close(self._master)
            self._master = -1


@pytest.fixture(autouse=True)
def hangups_count() -> Iterator[None]:
    """As a shell starts its commands: whoever runs the tests under nohup hands on a signal that is ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
async def window(tmp_path: Path) -> AsyncIterator[Window]:
    window = Window(tmp_path)
    yield window
    window.close()
    process = window.process
    if process is not None and process.poll() is None:
        process.terminate()
        await asyncio.to_thread(process.wait, 15)


def up(folder: Path, file: Path, *more: object) -> list[object]:
    return [sys.executable, "-m", "flexinfer", "up", file, "--port", 0, "--state-dir", folder / "state", *more]


async def serving(folder: Path, process: subprocess.Popen[bytes]) -> Info:
    return await until_serving(State(folder / "state"), process.pid, lambda: process.poll() is None)


async def until_known(state: State) -> Info:
    """What the `up` of a state directory says once it serves, whoever started it."""
    async with asyncio.timeout(40):
        while True:
            try:
                async with ControlClient(state) as control:
                    if (info := await control.info()).proxy:
                        return info
            except NothingRunning:
                await asyncio.sleep(0.02)


async def shut_down(state: State) -> None:
    try:
        async with ControlClient(state) as control:
            await control.shutdown()
    except NothingRunning:
        pass


async def test_closing_the_terminal_ends_it_like_ctrl_c(tmp_path, manifest, window):
    file = write(tmp_path / "m.yaml", manifest("m", "simulator", config={"decodeRate": 20}))
    process = window.start(*up(tmp_path, file))
    info = await serving(tmp_path, process)
    async with client() as session:
        begun = asyncio.Event()
        stream = asyncio.create_task(ask(session, info.proxy, "m", begun.set, stream=True, max_tokens=40))
        await asyncio.wait_for(begun.wait(), 10)
        family = tree(process.pid)
        window.close()
        assert (await stream).body.rstrip().endswith(DONE)
    assert await asyncio.to_thread(process.wait, 40) == 0
    await until(lambda: not live(family), limit_s=1.0)


async def test_ctrl_c_on_the_terminal_ends_it(tmp_path, manifest, window):
    process = window.start(*up(tmp_path, write(tmp_path / "m.yaml", manifest("m", "simulator"))))
    await serving(tmp_path, process)
    window.type(b"\x03")
    assert await asyncio.to_thread(process.wait, 40) == 0
    assert b"Traceback" not in window.shown


async def test_a_download_is_a_bar_on_the_terminal_of_up_and_of_pull(tmp_path, hub, manifest, window, monkeypatch):
    hub.add("org/demo", {"demo.gguf": b"GGUF" + bytes(4 << 20)})
    hub.fault("demo.gguf", bytes_per_s=1 << 20)
    for name, value in hub.env(tmp_path).items():
        monkeypatch.setenv(name, value)
    file = write(tmp_path / "m.yaml", manifest("demo", source="HF://org/demo"))
    process = window.start(*up(tmp_path, file, "--models-dir", tmp_path / "models"))
    await serving(tmp_path, process)
    await until(lambda: BAR.search(window.shown), 20)
    process.send_signal(signal.SIGINT)
    await asyncio.to_thread(process.wait, 40)
    window.shown.clear()
    process = window.start(
        sys.executable, "-m", "flexinfer", "models", "pull", "HF://org/demo", "--models-dir", tmp_path / "more"
    )
    await until(lambda: BAR.search(window.shown), 20)
    process.send_signal(signal.SIGINT)
    await asyncio.to_thread(process.wait, 40)


async def test_under_nohup_it_outlives_the_terminal_and_follows_its_files(tmp_path, manifest, window):
    file = write(tmp_path / "m.yaml", manifest("m", "simulator"))
    process = window.start("nohup", *up(tmp_path, file))
    await serving(tmp_path, process)
    window.close()
    await asyncio.sleep(0.2)
    assert process.poll() is None
    async with client() as session:
        info = await serving(tmp_path, process)
        assert (await ask(session, info.proxy, "m")).served
    process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(process.wait, 40) == 0


async def test_a_job_that_its_shell_left_behind_goes_on_without_the_terminal(tmp_path, manifest, window):
    spec = manifest("m", "simulator", serverless={"idleTimeout": "1s"})
    # With `set -m` the job is a group of its own, so the terminal's end tells it nothing.
    window.start("sh", "-c", 'set -m; "$@" & wait', "sh", *up(tmp_path, write(tmp_path / "m.yaml", spec)))
    state = State(tmp_path / "state")
    try:
        info = await until_known(state)
        window.close()
        async with client() as session:
            assert (await ask(session, info.proxy, "m")).served
            await asyncio.sleep(2.2)
            assert (await ask(session, info.proxy, "m")).served
    finally:
        await shut_down(state)
    assert await state.released(10)


async def test_detached_it_outlives_the_terminal(tmp_path, manifest, window):
    file = write(tmp_path / "m.yaml", manifest("m", "simulator"))
    flags = ("--detach", "--grace", "2s", "--allow-upstream", "203.0.113.0/24")
    process = window.start(*up(tmp_path, file, *flags))
    assert await asyncio.to_thread(process.wait, 20) == 0
    state = State(tmp_path / "state")
    try:
        async with ControlClient(state) as control:
            info = await control.info()
        async with client() as session, session.get(f"{info.proxy}/healthz") as healthy:
            assert healthy.status == 200
        await until(lambda: b"flexinfer down --state-dir" in window.shown)
        shown = window.shown.decode().replace("\r\n", "")
        assert f"{info.proxy}/v1" in shown
        assert str(state.root / "up.log") in shown
        words = command_line(info.pid)
        assert words[words.index("up") + 1 :] == [
            str(file), "--port", "0", "--state-dir", str(state.root), *flags[1:], "--state-dir", str(state.root),
        ]  # fmt: skip
        window.close()
        await asyncio.sleep(0.2)
        async with client() as session:
            assert (await ask(session, info.proxy, "m")).served
        os.kill(info.pid, signal.SIGHUP)
        await asyncio.sleep(0.2)
        async with ControlClient(state) as control:
            assert (await control.info()).pid == info.pid
    finally:
        await shut_down(state)
    assert await state.released(10)
