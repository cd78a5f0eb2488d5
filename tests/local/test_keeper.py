"""The keeper with real processes: whatever is killed, no process of an engine stays."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from tests.support.processes import BAD_ENGINE, UP_LIKE, live, parent, pss_kib, tree
from tests.support.waiting import until

from flexinfer.errors import EngineNotStarted
from flexinfer.local import keeper as wire
from flexinfer.local.enginelog import older
from flexinfer.local.process import EngineProcess, EngineSpec, Exit, Keeper
from flexinfer.local.state import State

Start = Callable[..., Awaitable[EngineProcess]]


@contextlib.asynccontextmanager
async def running_up(state: State, *words: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, dict[str, int]]]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(UP_LIKE), str(state.root), *words),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(wire.__file__).parents[2])},
    )
    assert process.stdout is not None
    try:
        yield process, json.loads(await asyncio.wait_for(process.stdout.readline(), 8))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        await process.communicate()


async def whole_family(state: State, root: int) -> list[int]:
    """Keeper, minder, engine, worker, daemon: everything below `root`, once the engine has started it all."""
    log = state.current_log("engine")
    assert log is not None
    await until(lambda: "family complete" in log.read_text())
    await until(lambda: len(tree(root)) == 5)
    return tree(root)


@pytest.mark.parametrize(
    "killed",
    [
        pytest.param(("up",), id="up"),
        pytest.param(("keeper", "up"), id="keeper and up at once"),
        pytest.param(("minder", "up"), id="minder and up at once"),
    ],
)
async def test_after_sigkill_no_process_is_left_within_a_second(state: State, killed: tuple[str, ...]) -> None:
    async with running_up(state, "family") as (up, pids):
        family = await whole_family(state, up.pid)
        pids |= {"up": up.pid, "minder": parent(pids["engine"])}
        for name in killed:
            os.kill(pids[name], signal.SIGKILL)
        assert await until(lambda: not live(family), limit_s=1.0) < 1.0
        with state.locked():
            pass


async def test_what_up_keeper_and_minder_leave_is_ended_by_the_next_up(state: State) -> None:
    async with running_up(state, "stubborn") as (up, pids):
        await until(lambda: len(tree(up.pid)) == 4)
        family = tree(up.pid)
        for pid in (up.pid, pids["keeper"]):
            os.kill(pid, signal.SIGSTOP)
        for pid in (parent(pids["engine"]), pids["keeper"], up.pid):
            os.kill(pid, signal.SIGKILL)
        await until(lambda: not live([pids["engine"], up.pid, pids["keeper"]]), limit_s=1.0)
        assert len(live(family)) == 1, "the child of the engine has no parent-death signal"
    async with running_up(state, "sleep"):
        assert live(family) == []


async def test_sigkill_of_the_keeper_ends_engines_and_starts_another(
    keeper: Keeper, state: State, start: Start
) -> None:
    engine = await start("family")
    first = keeper.pid
    assert first is not None
    family = await whole_family(state, os.getpid())
    os.kill(first, signal.SIGKILL)
    assert await asyncio.wait_for(engine.wait(), 2) == Exit(lost=True)
    assert live(family) == []
    again = await asyncio.wait_for(start("polite"), 5)
    assert keeper.pid not in {first, None}
    assert live([again.pid]) == [again.pid]


async def test_a_killed_minder_takes_its_engine_and_no_other(keeper: Keeper, state: State, start: Start) -> None:
    other = await start("sleep", name="other")
    engine = await start("family")
    minder = parent(engine.pid)
    log = state.current_log("engine")
    assert log is not None
    await until(lambda: "family complete" in log.read_text())
    family = [minder, *tree(minder)]
    os.kill(minder, signal.SIGKILL)
    assert await asyncio.wait_for(engine.wait(), 2) == Exit(signal="SIGKILL")
    assert live(family) == []
    assert live([other.pid]) == [other.pid]
    assert keeper.pid is not None
    assert len(tree(keeper.pid)) == 2


async def test_an_engine_that_ends_takes_its_daemon_with_it(keeper: Keeper, start: Start) -> None:
    engine = await start("abandon")
    assert await asyncio.wait_for(engine.wait(), 2) == Exit(code=7)
    assert keeper.pid is not None
    assert tree(keeper.pid) == []
    assert engine.last_lines() == ["leaving a daemon behind"]


async def test_a_process_that_is_always_another_one_is_caught(keeper: Keeper, start: Start) -> None:
    engine = await start("runaway")
    await until(lambda: engine.last_lines() == ["running away"])
    assert await asyncio.wait_for(engine.stop(grace_s=1), 8) == Exit(signal="SIGTERM")
    assert keeper.pid is not None
    assert tree(keeper.pid) == []


async def test_stop_lets_a_polite_engine_leave_by_itself(start: Start) -> None:
    engine = await start("polite")
    await until(lambda: "at your service" in engine.last_lines())
    assert await engine.stop(grace_s=5) == Exit(code=3)
    assert engine.last_lines() == ["at your service", "goodbye"]


async def test_stop_kills_the_group_of_an_engine_that_ignores_sigterm(start: Start) -> None:
    engine = await start("stubborn")
    await until(lambda: "ignoring SIGTERM" in engine.last_lines())
    family = [engine.pid, *tree(engine.pid)]
    began = time.monotonic()
    assert await engine.stop(grace_s=0.3) == Exit(signal="SIGKILL")
    assert 0.3 <= time.monotonic() - began < 1.5
    assert len(family) == 2
    assert live(family) == []


async def test_a_crash_has_its_signal_and_its_last_words(start: Start) -> None:
    engine = await start("crash")
    assert await asyncio.wait_for(engine.wait(), 5) == Exit(signal="SIGSEGV")
    assert engine.last_lines() == ["loading", "error: tensor 'output.weight' not found"]


async def test_a_flood_stays_within_the_bound_and_keeps_the_last_line(start: Start) -> None:
    engine = await start("flood", str(40 * 1024 * 1024))
    assert await asyncio.wait_for(engine.wait(), 8) == Exit(code=0)
    sizes = [path.stat().st_size for path in (engine.log_path, older(engine.log_path))]
    assert wire.LOG_BYTES / 2 < sum(sizes) <= wire.LOG_BYTES
    assert engine.last_lines(1) == ["last line of the flood"]
    lines = (older(engine.log_path).read_bytes() + engine.log_path.read_bytes()).splitlines()
    assert {len(line) for line in lines[:-1]} == {99}, "no line is cut where the log turns over"


async def test_what_an_engine_finds_itself_in(state: State, start: Start) -> None:
    engine = await start("report")
    assert await asyncio.wait_for(engine.wait(), 5) == Exit(code=0)
    assert engine.last_lines() == [
        "session True group True",
        "stdin /dev/null",
        "descriptors ['0', '1', '2']",
        "ignored 0 blocked 0",
        f"oom {wire.OOM_SCORE_ADJ}",
        "cwd /",
        "environment FLEXINFER_STATE_DIR_MARK LC_CTYPE PATH SPT_NOENV",
    ]
    assert engine.log_path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("program", "cwd", "reason"),
    [
        pytest.param("/nonexistent/engine", "/", "No such file or directory", id="a program that does not exist"),
        pytest.param(str(BAD_ENGINE), "/", "Permission denied", id="a file that is not executable"),
        pytest.param(
            "/bin/true", "/nonexistent", "working directory /nonexistent: No such file or directory", id="no such cwd"
        ),
        pytest.param("/bin/tr\0ue", "/", "an argument holds a null character", id="a null character"),
    ],
)
async def test_a_start_that_fails_says_why(keeper: Keeper, state: State, program: str, cwd: str, reason: str) -> None:
    spec = EngineSpec(argv=(program,), env={}, cwd=cwd, log_path=state.new_log("engine"))
    with pytest.raises(EngineNotStarted) as refused:
        await keeper.start(spec)
    assert refused.value.reason == reason
    assert keeper.pid is None or await until(lambda: tree(keeper.pid or 0) == []) < 5


async def test_a_log_folder_that_is_gone_is_a_reason(keeper: Keeper, tmp_path: Path) -> None:
    spec = EngineSpec(argv=("/bin/true",), env={}, cwd="/", log_path=tmp_path / "gone" / "1.log")
    with pytest.raises(EngineNotStarted, match=r"log file .*gone/1\.log: No such file or directory"):
        await keeper.start(spec)


async def test_a_cancelled_start_leaves_no_engine(keeper: Keeper, start: Start) -> None:
    await start("sleep", name="first")
    starting = asyncio.ensure_future(start("sleep"))
    await asyncio.sleep(0)
    starting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await starting
    assert keeper.pid is not None
    await until(lambda: len(tree(keeper.pid or 0)) == 2)


async def test_the_keeper_is_small(keeper: Keeper, start: Start) -> None:
    await start("sleep")
    assert keeper.pid is not None
    minder = tree(keeper.pid)[0]
    print(f"PSS: keeper {pss_kib(keeper.pid)} KiB, minder {pss_kib(minder)} KiB")
    assert pss_kib(keeper.pid) + pss_kib(minder) < 15 * 1024


def test_a_full_log_disk_costs_lines_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    log = wire.BoundedLog(str(folder / "1.log"), limit_bytes=100)
    log.write(b"a" * 40 + b"\n")
    folder.rename(tmp_path / "away")
    for _ in range(10):
        log.write(b"b" * 40 + b"\n")
    assert (tmp_path / "away" / "1.log").read_bytes() == b"a" * 40 + b"\n"
