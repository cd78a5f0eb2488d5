"""The commands that speak to a running `up`, as a user types them."""

import asyncio
import json
import os
import pty
import signal
import subprocess
import sys
from datetime import UTC, datetime

import pytest
import yaml
from tests.support.asking import ask, client
from tests.support.commands import call, flexinfer
from tests.support.running import running, write

from flexinfer.engine import demo_model
from flexinfer.local.state import State

SMALL = {"contextSize": 512}


async def test_ps_chat_logs_and_explain_tell_of_a_model_that_wakes(tmp_path, models, manifest):
    file = write(tmp_path / "m.yaml", manifest("demo", config=SMALL), manifest("asleep", config=SMALL))
    async with running(tmp_path, [file]) as up:
        where = ("--state-dir", up.info.state_dir)
        await up.phase("demo", "Idle")
        no_log = await call("logs", "demo", *where, folder=tmp_path)
        assert (no_log.returncode, "no engine of demo has been started yet" in no_log.stderr) == (1, True)
        said = await call("chat", "demo", "hello", *where, folder=tmp_path)
        assert (said.returncode, said.stdout.strip()) == (0, demo_model.SENTENCE)
        assert "demo: Loading" in said.stderr
        table = (await call("ps", *where, folder=tmp_path)).stdout.splitlines()
        assert table[0].split() == ["NAME", "BACKEND", "PHASE", "PROGRESS", "DEVICE", "MEMORY", "LAST", "USE"]
        rows = json.loads((await call("ps", "-o", "json", *where, folder=tmp_path)).stdout)
        assert [(row["name"], row["phase"], row["devices"]) for row in rows] == [
            ("asleep", "Idle", []),
            ("demo", "Ready", ["cpu"]),
        ]
        assert (rows[0]["memoryMiB"], rows[0]["lastUse"], rows[1]["memoryMiB"] > 0) == (0, None, True)
        assert abs((datetime.now(UTC) - datetime.fromisoformat(rows[1]["lastUse"])).total_seconds()) < 60
        log = (await call("logs", "demo", *where, folder=tmp_path)).stdout
        assert "demo.gguf" in log
        story = (await call("explain", "demo", *where, folder=tmp_path)).stdout
        for fact in ("demo is Ready", "file:///models/demo.gguf", "pid ", "Ready=True BackendReady", "last load"):
            assert fact in story
        facts = json.loads((await call("explain", "asleep", "-o", "json", *where, folder=tmp_path)).stdout)
        assert facts["status"]["phase"] == "Idle"
        for command in ("explain", "logs"):
            unknown = await call(command, "nope", *where, folder=tmp_path)
            assert (unknown.returncode, "no such model: nope" in unknown.stderr) == (1, True)
    left = await call("logs", "demo", *where, folder=tmp_path)
    assert (left.returncode, left.stdout.startswith(log)) == (0, True)
    assert left.stderr == "no `flexinfer up` runs: this is what the last engine of demo wrote\n"
    last = await call("logs", "demo", "--tail", "1", *where, folder=tmp_path)
    assert (last.returncode, last.stdout) == (0, left.stdout.splitlines(keepends=True)[-1])
    assert (await call("logs", "asleep", *where, folder=tmp_path)).returncode == 3


async def test_commands_take_every_name_of_a_model(tmp_path, manifest):
    names = {"servedModelName": "acme/small", "aliases": ["gpt-4o-mini"]}
    file = write(tmp_path / "m.yaml", manifest("small", "simulator", "org/x", config={"decodeRate": 0}, litellm=names))
    async with running(tmp_path, [file]) as up:
        where = ("--state-dir", up.info.state_dir)
        for words in (("wake", "gpt-4o-mini"), ("chat", "acme/small", "hi"), ("logs", "gpt-4o-mini"),
                      ("explain", "acme/small"), ("stop", "acme/small")):  # fmt: skip
            done = await call(*words, *where, folder=tmp_path)
            assert done.returncode == 0, (words, done.stderr)
        for words in (("chat", "acme/smal", "hi"), ("wake", "acme/smal"), ("explain", "acme/smal")):
            done = await call(*words, *where, folder=tmp_path)
            said = "error: no such model: acme/smal; did you mean acme/small?\n"
            assert (done.returncode, done.stderr) == (1, said)
        empty = await call("chat", "small", *where, folder=tmp_path, stdin=" \n")
        assert (empty.returncode, "nothing to ask" in empty.stderr) == (2, True)


async def test_ps_says_why_a_model_failed(tmp_path, manifest):
    file = write(tmp_path / "m.yaml", manifest("m", "ollama", "ollama://llama3:8b"))
    async with running(tmp_path, [file]) as up:
        await up.phase("m", "Failed")
        said = (await call("ps", "--state-dir", up.info.state_dir, folder=tmp_path)).stdout
        assert "\nm: ollama is not installed: install Ollama" in said


async def test_ps_shows_who_uses_a_model_just_now(tmp_path, manifest):
    slow = manifest("slow", "simulator", "org/x", config={"decodeRate": 0.5, "slots": 1})
    async with running(tmp_path, [write(tmp_path / "m.yaml", slow)]) as up, client() as session:
        where = ("--state-dir", up.info.state_dir)
        asked = [asyncio.create_task(ask(session, up.url, "slow", stream=True)) for _ in range(2)]
        async with asyncio.timeout(30):
            while "1 open, 1 waiting" not in (table := (await call("ps", *where, folder=tmp_path)).stdout):
                assert table.startswith("NAME"), "it answers while it is asked"
        for task in asked:
            task.cancel()
        await asyncio.wait(asked)
        async with asyncio.timeout(30):
            while not (await up.control.uses())["slow"].idle_seconds:
                await asyncio.sleep(0.02)
        assert (await call("ps", *where, folder=tmp_path)).stdout.rstrip().endswith(" s ago")


async def test_a_modeldeployment_is_served_as_the_model_that_it_becomes(tmp_path, models):
    old = {"apiVersion": "ai.flexinfer/v1alpha1", "kind": "ModelDeployment", "metadata": {"name": "old"}}
    spec = {"backend": "llamacpp", "model": "file:///models/demo.gguf", "resources": {"limits": {"nvidia.com/gpu": 0}}}
    file = write(tmp_path / "old.yaml", {**old, "spec": spec})
    async with running(tmp_path, [file]) as up:
        where = ("--state-dir", up.info.state_dir)
        said = await call("chat", "old", "hello", *where, folder=tmp_path)
        assert (said.returncode, said.stdout.strip()) == (0, demo_model.SENTENCE)
        wrong = write(tmp_path / "wrong.yaml", {**old, "spec": {**spec, "replicas": 30}})
        refused = await call("apply", wrong, *where, folder=tmp_path)
        assert (refused.returncode, "spec.replicas: 30: expected at most 10" in refused.stderr) == (2, True)


async def test_apply_and_delete_change_what_is_served_and_what_the_next_up_serves(tmp_path, models, manifest):
    file = write(tmp_path / "m.yaml", manifest("first", config=SMALL))
    async with running(tmp_path, [file]) as up:
        where = ("--state-dir", up.info.state_dir)
        more = write(tmp_path / "more.yaml", manifest("second", config=SMALL))
        assert (await call("apply", more, *where, folder=tmp_path)).stdout == "model/second created\n"
        assert (await call("apply", more, *where, folder=tmp_path)).stdout == "model/second unchanged\n"
        changed = yaml.safe_dump(manifest("second", config={"contextSize": 1024}))
        assert (await call("apply", "-", *where, folder=tmp_path, stdin=changed)).stdout == "model/second configured\n"
        wrong = write(tmp_path / "wrong.yaml", manifest("third", backend="nope"))
        refused = await call("apply", wrong, *where, folder=tmp_path)
        assert (refused.returncode, "spec.backend" in refused.stderr) == (2, True)
        empty = await call("apply", write(tmp_path / "empty.yaml"), *where, folder=tmp_path)
        assert (empty.returncode, "expected at least one Model" in empty.stderr) == (2, True)
        assert (await call("chat", "second", "hi", *where, folder=tmp_path)).returncode == 0
        third = write(tmp_path / "third.yaml", manifest("third", config=SMALL))
        assert (await call("apply", third, *where, folder=tmp_path)).returncode == 0
        assert (await call("delete", "third", *where, folder=tmp_path)).stdout == "model/third deleted\n"
        gone = await call("delete", "third", *where, folder=tmp_path)
        assert (gone.returncode, "no such model: third" in gone.stderr) == (1, True)
    async with running(tmp_path, []) as again:
        assert (await again.phase("second", "Idle")).spec.config == {"contextSize": 1024}
    gone = await call("delete", "second", "other", *where, folder=tmp_path)
    assert (gone.returncode, gone.stdout) == (1, "model/second deleted\n")
    assert gone.stderr == "error: no such model: other\n"
    assert (await call("delete", "second", *where, folder=tmp_path)).returncode == 3
    async with running(tmp_path, []) as empty:
        assert (await call("ps", "-o", "json", "--state-dir", empty.info.state_dir, folder=tmp_path)).stdout == "[]\n"


async def test_a_changed_model_gets_a_new_engine(tmp_path, models, manifest):
    file = write(tmp_path / "m.yaml", manifest("m", config=SMALL))
    async with running(tmp_path, []) as up:
        where = ("--state-dir", up.info.state_dir)
        await call("apply", file, *where, folder=tmp_path)
        await call("chat", "m", "hi", *where, folder=tmp_path)
        before = (await up.control.engines())[0].pid
        other = write(tmp_path / "o.yaml", manifest("m", source="file:///models/other.gguf", config=SMALL))
        await call("apply", other, *where, folder=tmp_path)
        said = await call("chat", "m", "hi", *where, folder=tmp_path)
        assert said.stdout.startswith("a second model")
        assert (await up.control.engines())[0].pid != before


async def test_run_starts_an_up_that_stays_until_down(tmp_path, models):
    where = ("--state-dir", tmp_path / "state")
    try:
        first = await call("run", models / "demo.gguf", "hello", *where, folder=tmp_path)
        assert (first.returncode, first.stdout.strip()) == (0, demo_model.SENTENCE), first.stderr
        assert "started `flexinfer up`" in first.stderr
        second = await call("run", f"file://{models}/other.gguf", "hello", *where, folder=tmp_path)
        assert (second.returncode, second.stdout.startswith("a second model")) == (0, True), second.stderr
        kept = sorted(path.name for path in (tmp_path / "state" / "manifests").iterdir())
        assert kept == ["demo.yaml", "other.yaml"]
    finally:
        ended = await call("down", *where, folder=tmp_path)
    assert (ended.returncode, "has ended" in ended.stdout) == (0, True)
    assert await State(tmp_path / "state").released(0)


def test_run_print_only_shows_the_manifest(tmp_path, models):
    shown = flexinfer("run", models / "demo.gguf", "--print", folder=tmp_path)
    manifest = yaml.safe_load(shown.stdout)
    assert manifest["metadata"]["name"] == "demo"
    assert manifest["spec"] == {"backend": "llamacpp", "source": f"file://{models}/demo.gguf"}
    assert not (tmp_path / "xdg").exists()


async def test_detach_returns_once_it_answers_and_down_ends_it(tmp_path, models, manifest):
    file = write(tmp_path / "m.yaml", manifest("demo", config=SMALL))
    where = ("--state-dir", tmp_path / "state")
    started = await call("up", file, "--detach", "--port", "0", "--models-dir", models, *where, folder=tmp_path)
    try:
        assert (started.returncode, "serving at http://127.0.0.1:" in started.stdout) == (0, True), started.stderr
        again = await call("up", file, "--detach", "--port", "0", *where, folder=tmp_path)
        assert (again.returncode, "in use by another" in again.stderr) == (1, True)
        assert '"event":"serving"' in (tmp_path / "state" / "up.log").read_text()
    finally:
        assert (await call("down", *where, folder=tmp_path)).returncode == 0


async def test_detach_hands_standard_input_on(tmp_path, models, manifest):
    text = write(tmp_path / "m.yaml", manifest("piped", config=SMALL)).read_text()
    where = ("--state-dir", tmp_path / "state")
    words = ("up", "-", "--detach", "--port", "0", "--models-dir", models, *where)
    started = await call(*words, folder=tmp_path, stdin=text)
    try:
        assert started.returncode == 0, started.stderr
        rows = json.loads((await call("ps", "-o", "json", *where, folder=tmp_path)).stdout)
        assert [row["name"] for row in rows] == ["piped"]
    finally:
        assert (await call("down", *where, folder=tmp_path)).returncode == 0


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(("ps",), id="ps"),
        pytest.param(("logs", "m"), id="logs"),
        pytest.param(("chat", "m", "hi"), id="chat"),
        pytest.param(("explain", "m"), id="explain"),
        pytest.param(("delete", "m"), id="delete"),
        pytest.param(("down",), id="down"),
    ],
)
def test_commands_say_when_nothing_runs(tmp_path, words):
    done = flexinfer(*words, "--state-dir", tmp_path / "state", folder=tmp_path)
    assert (done.returncode, done.stderr.strip()) == (
        3,
        f"error: no `flexinfer up` answers on {tmp_path}/state; `flexinfer up FILE` starts one",
    )


class Terminal:
    """A command with a terminal in front of it."""

    def __init__(self, *args):
        self._ours, theirs = pty.openpty()
        argv = [sys.executable, "-m", "flexinfer", *map(str, args)]
        self.process = subprocess.Popen(argv, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
        os.close(theirs)
        self._shown = ""

    async def until(self, text):
        """Wait until it shows the text, behind what was waited for before."""
        async with asyncio.timeout(10):
            while text not in self._shown:
                self._shown += (await asyncio.to_thread(os.read, self._ours, 4096)).decode()
        self._shown = self._shown.partition(text)[2]

    def type(self, text):
        os.write(self._ours, text.encode())

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self._ours)


async def test_ctrl_c_ends_an_answer_and_at_the_prompt_the_chat(tmp_path, manifest):
    slow = {"prefillRate": 0, "decodeRate": 20, "outputTokens": 2000}
    file = write(tmp_path / "m.yaml", manifest("slow", backend="simulator", config=slow))
    async with running(tmp_path, [file]) as up:
        terminal = Terminal("chat", "slow", "--state-dir", up.info.state_dir)
        try:
            await terminal.until("> ")
            terminal.type("hello\n")
            await terminal.until("Loading")
            await up.phase("slow", "Ready")
            await terminal.until(" ")
            for _ in range(2):
                terminal.process.send_signal(signal.SIGINT)
                await terminal.until("\n> ")
                terminal.type("again\n")
                await terminal.until("again\r\n")
                await terminal.until(" ")
            terminal.process.send_signal(signal.SIGINT)
            await terminal.until("\n> ")
            terminal.process.send_signal(signal.SIGINT)
            assert await asyncio.to_thread(terminal.process.wait, 10) == 0
        finally:
            terminal.close()


def test_what_the_machine_refuses_is_told_in_one_line(tmp_path):
    (tmp_path / "state" / "up.lock").mkdir(parents=True)
    done = flexinfer("up", "--state-dir", tmp_path / "state", folder=tmp_path)
    assert (done.returncode, done.stderr) == (1, f"error: {tmp_path}/state/up.lock: Is a directory\n")


def test_run_keeps_nothing_of_a_file_that_is_not_there(tmp_path):
    done = flexinfer("run", "nope.gguf", "hello", "--state-dir", tmp_path / "state", folder=tmp_path)
    assert (done.returncode, done.stderr) == (2, "error: source: 'nope.gguf': expected a file that is there\n")
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        pytest.param(("serve",), "No such command 'serve'", id="unknown command"),
        pytest.param(("pss",), "Did you mean 'ps'?", id="a near name"),
        pytest.param(("run", "model.bin"), "a .gguf file, file:///path", id="a source that run does not take"),
        pytest.param(("up", "--host", "example.org"), "expected an IP address or localhost", id="a host by name"),
        pytest.param(("up", "--allow-upstream", "x/y"), "203.0.113.0/24", id="a bad network"),
    ],
)
def test_wrong_use_is_told_with_what_is_right(tmp_path, words, said):
    done = flexinfer(*words, folder=tmp_path)
    assert (done.returncode, said in done.stderr) == (2, True), done.stderr
