"""Downloads with a child that does as a test tells it, below a real keeper."""

import os
import signal
import sys
from pathlib import Path

import aiohttp
import pytest
from tests.support import processes, waiting

from flexinfer.api.meta import ObjectKey
from flexinfer.artifacts import source, tasks
from flexinfer.clock import SystemClock
from flexinfer.local.downloads import Downloads, Settings
from flexinfer.local.ports import Ports
from flexinfer.local.replica import Machine

A, B, C = (ObjectKey("default", name) for name in "abc")
CHILD = """
import json, os, pathlib, sys, time
name = sys.argv[sys.argv.index("fetch") + 1].rpartition("/")[2]
steps = pathlib.Path(sys.argv[1], name)
for line in steps.read_text().splitlines():
    word, _, rest = line.partition(" ")
    if word == "say":
        print(rest, flush=True)
    elif word == "wait":
        while not pathlib.Path(sys.argv[1], rest).exists():
            time.sleep(0.01)
    elif word == "once":
        if steps.with_suffix(".tried").exists():
            continue
        steps.with_suffix(".tried").touch()
        print(rest, flush=True)
        sys.exit(1)
"""
DONE = 'say {"event": "done", "path": "/x", "bytes": 5}'


def fetch(name: str) -> tasks.Fetch:
    parsed = source.parse(f"HF://org/{name}")
    assert isinstance(parsed, source.HuggingFace)
    return tasks.fetch(parsed, "gguf", {}, "/models")


class Place:
    def __init__(self, folder: Path, downloads: Downloads, told: list[str]) -> None:
        self.folder = folder
        self.downloads = downloads
        self.told = told

    def script(self, name: str, *steps: str) -> tasks.Fetch:
        (self.folder / name).write_text("\n".join(steps))
        return fetch(name)

    def seen(self, wanted: tasks.Fetch) -> tuple[str, str]:
        state, failure = self.downloads.seen(wanted)
        return state.reason, failure.reason if failure else ""

    async def until(self, wanted: tasks.Fetch, reason: str, failure: str = "") -> None:
        await waiting.until(lambda: self.seen(wanted) == (reason, failure))


@pytest.fixture
async def place(tmp_path, state, keeper):
    (tmp_path / "child.py").write_text(CHILD)
    async with aiohttp.ClientSession() as session:
        machine = Machine(
            keeper=keeper, state=state, ports=Ports(), session=session, clock=SystemClock(), env={"PATH": "/bin"}
        )
        told: list[str] = []
        program = (sys.executable, "-I", "-S", str(tmp_path / "child.py"), str(tmp_path))
        downloads = Downloads(machine, Settings(limit=1), lambda key: told.append(key.name), program=program)
        yield Place(tmp_path, downloads, told)
        await downloads.stop()


async def test_one_after_the_other_and_everybody_who_wants_it_is_told(place):
    first = place.script("first", "wait go", DONE)
    second = place.script("second", DONE)
    place.downloads.want(A, first)
    place.downloads.want(B, second)
    place.downloads.want(C, first)
    assert (place.seen(first), place.seen(second)) == (("PrefetchRunning", ""), ("PrefetchPending", ""))
    (place.folder / "go").touch()
    await waiting.until(lambda: {"a", "b", "c"} <= set(place.told))
    assert place.seen(first) == ("PrefetchPending", ""), "forgotten once it is there"


async def test_a_full_disk_is_tried_again_by_itself(place):
    wanted = place.script(
        "full",
        'once {"event": "failed", "reason": "DiskFull", "message": "5 of 9 bytes", "retryAfterS": 0.1}',
        "wait go",
    )
    place.downloads.want(A, wanted)
    await place.until(wanted, "DiskFull", "DiskFull")
    state, failure = place.downloads.seen(wanted)
    assert failure.message == "org/full: 5 of 9 bytes; tried again by itself in 1 s"
    assert (state.ready, state.substage, state.message) == (False, "", failure.message)
    await place.until(wanted, "PrefetchRunning")


async def test_what_waiting_does_not_mend_is_tried_again_when_somebody_asks(place):
    wanted = place.script(
        "gated", 'once {"event": "failed", "reason": "Gated", "message": "no", "retryAfterS": null}', "wait go"
    )
    place.downloads.want(A, wanted)
    await place.until(wanted, "Gated", "Gated")
    place.downloads.want(A, wanted)
    assert place.seen(wanted) == ("Gated", "Gated")
    place.downloads.want(A, wanted, again=True)
    assert place.seen(wanted) == ("PrefetchRunning", "")


async def test_a_wait_that_the_hub_asked_for_is_kept_whoever_asks(place):
    wanted = place.script(
        "busy", 'once {"event": "failed", "reason": "RateLimited", "message": "no", "retryAfterS": 60}', "wait go"
    )
    place.downloads.want(A, wanted)
    await place.until(wanted, "RateLimited", "RateLimited")
    place.downloads.want(A, wanted, again=True)
    assert place.seen(wanted) == ("RateLimited", "RateLimited")


async def test_a_child_that_ends_without_a_word_is_a_failure_with_its_last_lines(place):
    wanted = place.script("mute", "say Traceback: something")
    place.downloads.want(A, wanted)
    await place.until(wanted, "DownloadFailed", "DownloadFailed")
    _, failure = place.downloads.seen(wanted)
    assert "exit code 0\n  Traceback: something" in failure.message


async def test_the_last_one_who_wanted_it_takes_it_along(place, keeper):
    wanted = place.script("long", 'say {"event": "progress", "done": 1, "total": 2}', "wait never")
    place.downloads.want(A, wanted)
    place.downloads.want(B, wanted)
    await waiting.until(lambda: place.downloads.seen(wanted)[0].progress == 0.5)
    (child,) = children(keeper.pid)
    place.downloads.release(A)
    assert place.seen(wanted) == ("PrefetchRunning", "")
    other = place.script("other", "wait never")
    place.downloads.want(B, other)
    await waiting.until(lambda: not processes.live([child]))
    assert place.seen(other) == ("PrefetchRunning", "")


async def test_a_keeper_that_dies_takes_the_download_along_and_it_begins_again(place, keeper):
    wanted = place.script("long", 'say {"event": "progress", "done": 1, "total": 2}', "wait never")
    place.downloads.want(A, wanted)
    await waiting.until(lambda: place.downloads.seen(wanted)[0].progress == 0.5)
    before = keeper.pid
    os.kill(before, signal.SIGKILL)
    await place.until(wanted, "DownloadFailed", "DownloadFailed")
    await place.until(wanted, "PrefetchRunning")
    assert keeper.pid != before


def children(pid: int) -> list[int]:
    return [child for child in processes.tree(pid) if "child.py" in " ".join(processes.command_line(child))]
