"""An `up` follows its manifests: changed, bad, gone, back again, and under load."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
import yaml
from tests.support.asking import DONE, ask, client, load
from tests.support.commands import call
from tests.support.running import Running, running, write

from flexinfer.errors import NotFound

FAST = {"decodeRate": 200}


async def until_served(up: Running, *names: str, limit_s: float = 8.0) -> None:
    """Until exactly these are in /v1/models."""
    deadline = asyncio.get_running_loop().time() + limit_s
    async with client() as session:
        while True:
            async with session.get(f"{up.url}/v1/models") as answer:
                found = [model["id"] for model in (await answer.json())["data"]]
            if found == sorted(names):
                return
            assert asyncio.get_running_loop().time() < deadline, f"{found} are served"
            await asyncio.sleep(0.02)


async def until_logged(up: Running, text: str, limit_s: float = 8.0) -> str:
    deadline = asyncio.get_running_loop().time() + limit_s
    while text not in (said := up.log.read_text()):
        assert asyncio.get_running_loop().time() < deadline, said
        await asyncio.sleep(0.02)
    return said


async def printed(*args: object, folder: Path) -> tuple[int, str]:
    """The exit code of a command, and all that it printed."""
    done = await call(*args, folder=folder)
    return done.returncode, done.stdout + done.stderr


async def test_what_the_file_says_is_what_is_served(tmp_path, manifest):
    file = write(tmp_path / "m.yaml", manifest("a", "simulator"), manifest("b", "simulator"))
    async with running(tmp_path, [file]) as up, client() as session:
        await until_served(up, "a", "b")
        assert (await ask(session, up.url, "a")).served
        before = (await up.control.engines())[0].pid
        write(tmp_path / "next", manifest("a", "simulator", config=FAST), manifest("c", "simulator")).replace(file)
        await until_served(up, "a", "c")
        assert (await ask(session, up.url, "a")).served
        assert [engine.pid != before for engine in await up.control.engines()] == [True]
        assert (await up.model("a")).spec.config == FAST
        with pytest.raises(NotFound):
            await up.model("b")


async def test_a_bad_change_is_refused_as_a_whole_with_every_error_in_one_line(tmp_path, manifest):
    good = manifest("a", "simulator")
    file, other = write(tmp_path / "m.yaml", good), write(tmp_path / "o.yaml", manifest("b", "simulator"))
    async with running(tmp_path, [file, other]) as up:
        await until_served(up, "a", "b")
        write(other)
        write(file, good, manifest("new", "simulator", gpu={"count": -1}), manifest("bad", "nope"))
        said = await until_logged(up, "manifests refused")
        line = next(line for line in said.splitlines() if "manifests refused" in line)
        for fact in ("m.yaml", "spec.gpu.count", "spec.backend", "nope"):
            assert fact in line
        file.unlink()
        await until_logged(up, "a file that can be read")
        await until_served(up, "a", "b")
        write(file, good, manifest("new", "simulator"))
        await until_served(up, "a", "new")


async def test_a_model_of_a_file_is_changed_there_and_nowhere_else(tmp_path, models, manifest):
    file = write(tmp_path / "m.yaml", manifest("a", "simulator"))
    async with running(tmp_path, [file]) as up:
        where = ("--state-dir", up.info.state_dir)
        more = write(tmp_path / "more.yaml", manifest("free", "simulator"), manifest("a", "simulator", config=FAST))
        for words in (("apply", more), ("delete", "a"), ("run", models / "demo.gguf", "--name", "a")):
            refused = (1, f"error: model/a comes from {file}: change it there\n")
            assert await printed(*words, *where, folder=tmp_path) == refused
        await until_served(up, "a")
        assert (await up.model("a")).spec.config == {}


async def test_sighup_reads_the_files_again(tmp_path, manifest):
    file = write(tmp_path / "m.yaml", manifest("a", "simulator"))
    async with running(tmp_path, [file]) as up:
        write(file, manifest("a", "simulator"), manifest("b", "simulator"))
        up.process.send_signal(signal.SIGHUP)
        await until_served(up, "a", "b")
        up.process.send_signal(signal.SIGHUP)
        await asyncio.sleep(0.1)
        assert up.process.poll() is None


async def test_without_a_file_the_kept_manifests_are_followed(tmp_path, manifest):
    async with running(tmp_path, []) as up:
        where = ("--state-dir", up.info.state_dir)
        folder = Path(up.info.state_dir) / "manifests"
        write(folder / "a.yaml", manifest("a", "simulator"))
        await until_served(up, "a")
        other = write(tmp_path / "b.yaml", manifest("b", "simulator"))
        assert await printed("apply", other, *where, folder=tmp_path) == (0, "model/b created\n")
        assert await printed("delete", "a", *where, folder=tmp_path) == (0, "model/a deleted\n")
        await until_served(up, "b")
        # What came and went before the folder was looked at has never been seen in it.
        await asyncio.sleep(1)
        (folder / "b.yaml").unlink()
        await until_served(up)


async def test_a_model_that_comes_back_while_it_goes_is_created_anew(tmp_path, manifest):
    slow = manifest("a", "simulator", config={"decodeRate": 20})
    file = write(tmp_path / "m.yaml", slow, manifest("b", "simulator"))
    async with running(tmp_path, [file]) as up, client() as session:
        begun = asyncio.Event()
        stream = asyncio.create_task(ask(session, up.url, "a", begun.set, stream=True, max_tokens=60))
        await asyncio.wait_for(begun.wait(), 10)
        uid = (await up.model("a")).metadata.uid
        write(file, manifest("b", "simulator"))
        await until_served(up, "b")
        write(file, slow, manifest("b", "simulator"))
        answer = await stream
        assert (answer.served, answer.body.rstrip().endswith(DONE)) == (True, True)
        await until_served(up, "a", "b")
        assert (await up.model("a")).metadata.uid != uid


async def test_apply_of_a_model_that_is_going_waits_and_makes_it_anew(tmp_path, manifest):
    served = write(tmp_path / "m.yaml", manifest("other", "simulator"))
    file = write(tmp_path / "a.yaml", manifest("a", "simulator", config={"decodeRate": 20}))
    async with running(tmp_path, [served]) as up, client() as session:
        where = ("--state-dir", up.info.state_dir)
        assert await printed("apply", file, *where, folder=tmp_path) == (0, "model/a created\n")
        begun = asyncio.Event()
        stream = asyncio.create_task(ask(session, up.url, "a", begun.set, stream=True, max_tokens=60))
        await asyncio.wait_for(begun.wait(), 10)
        assert await printed("delete", "a", *where, folder=tmp_path) == (0, "model/a deleted\n")
        assert await printed("apply", file, *where, folder=tmp_path) == (0, "model/a created\n")
        assert (await stream).body.rstrip().endswith(DONE)
        assert (await ask(session, up.url, "a", max_tokens=2)).served


async def test_open_requests_end_with_the_engine_they_began_on(tmp_path, manifest):
    file = write(tmp_path / "m.yaml", manifest("a", "simulator", config={"decodeRate": 20}))
    async with running(tmp_path, [file]) as up, client() as session:
        begun = asyncio.Event()
        stream = asyncio.create_task(ask(session, up.url, "a", begun.set, stream=True, max_tokens=50))
        await asyncio.wait_for(begun.wait(), 10)
        before = [engine.pid for engine in await up.control.engines()]
        write(file, manifest("a", "simulator", config=FAST))
        await until_logged(up, "its engine is replaced")
        await asyncio.sleep(0.1)
        held = asyncio.create_task(ask(session, up.url, "a"))
        assert (await stream).body.rstrip().endswith(DONE)
        assert (await held).served
        assert [engine.pid for engine in await up.control.engines()] != before


async def test_the_grace_bounds_what_a_changed_model_waits_for(tmp_path, manifest):
    file = write(tmp_path / "m.yaml", manifest("a", "simulator", config={"decodeRate": 1}))
    async with running(tmp_path, [file], "--grace", "1s") as up, client() as session:
        begun = asyncio.Event()
        stream = asyncio.create_task(ask(session, up.url, "a", begun.set, stream=True, max_tokens=50))
        await asyncio.wait_for(begun.wait(), 10)
        write(file, manifest("a", "simulator", config=FAST))
        answer = await asyncio.wait_for(stream, 8)
        assert (answer.whole, b'"error"' in answer.body) == (False, True)
        assert (await ask(session, up.url, "a")).served


@pytest.mark.parametrize(
    ("times", "pauses_s"),
    [
        pytest.param(20, (0.1, 0.7), id="20 times"),
        pytest.param(100, (0.1, 0.7, 1.5, 0.0), id="100 times", marks=pytest.mark.soak),
    ],
)
async def test_a_manifest_that_is_rewritten_under_load_loses_no_request(tmp_path, manifest, times, pauses_s):
    """F48: changed, bad and unchanged, over and anew."""
    file = write(tmp_path / "m.yaml", manifest("a", "simulator", config=FAST))
    async with running(tmp_path, [file]) as up, load(up.url, "a") as load_:
        for number in range(times):
            if number % 5 == 3:
                file.write_text("kind: Mod")
            else:
                text = yaml.safe_dump(manifest("a", "simulator", config={"decodeRate": 200 + number // 2}))
                (tmp_path / "next").write_text(text)
                os.replace(tmp_path / "next", file)  # noqa: PTH105
            await asyncio.sleep(pauses_s[number % len(pauses_s)])
        load_.ending = True
    assert load_.lost == []
    assert len(load_.answers) > times
    assert up.log.read_text().count("its engine is replaced") >= times // 5
