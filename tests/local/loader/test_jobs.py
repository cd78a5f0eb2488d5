"""What Jobs and init containers of the operator run: check, stage, and the last word in a file."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.local.loader.conftest import outcome
from tests.support import gguf_bytes
from tests.support.hub import Hub

if TYPE_CHECKING:
    from tests.local.loader.conftest import Loader, Outcome


def run(*words: str | Path) -> Outcome:
    argv = [sys.executable, "-m", "flexinfer", "loader", *map(str, words)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    return outcome(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize(
    ("token", "code"),
    [
        pytest.param("", 3, id="what a try at once cannot mend: the Job gives up"),
        pytest.param("good", 0, id="what comes"),
    ],
)
def test_the_last_event_is_left_as_a_termination_message(
    hub: Hub, loader: Loader, tmp_path: Path, bytes_of: Callable[[int], bytes], token: str, code: int
):
    hub.add("org/name", {"model.gguf": bytes_of(9000)}, token="good")
    said = tmp_path / "termination-log"
    found = loader("--result", str(said), env={"HF_TOKEN": token} if token else None)
    assert (found.code, json.loads(said.read_text())) == (code, found.last)
    assert len(said.read_bytes()) < 4096


def test_the_second_key_of_a_secret_is_a_token_too(hub: Hub, loader: Loader, bytes_of: Callable[[int], bytes]):
    hub.add("org/name", {"model.gguf": bytes_of(9000)}, token="good")
    assert loader(env={"HUGGING_FACE_HUB_TOKEN": "good"}).code == 0


def test_a_copy_is_found_by_the_words_alone(hub: Hub, loader: Loader, bytes_of: Callable[[int], bytes]):
    hub.add("org/name", {"model.gguf": bytes_of(9000)})
    found = loader()
    [link] = [path for path in (loader.root / ".flexinfer/requests").iterdir() if path.is_symlink()]
    assert (link / "model.gguf").resolve() == found.file.resolve()


def test_a_copy_is_staged_whole_and_once(hub: Hub, loader: Loader, tmp_path: Path, bytes_of: Callable[[int], bytes]):
    hub.add("org/name", {"model.gguf": bytes_of(90_000)})
    folder = Path(loader().last["path"]).parent
    target = tmp_path / "memory" / folder.name
    found = run("stage", folder, target)
    assert (found.code, found.last) == (0, {"event": "done", "path": str(target), "bytes": 90_000})
    staged = target / "files" / "model.gguf"
    assert staged.read_bytes() == bytes_of(90_000)
    before = staged.stat().st_ino
    assert (run("stage", folder, target).code, staged.stat().st_ino) == (0, before)


def test_a_copy_that_is_not_whole_is_not_staged(
    hub: Hub, loader: Loader, tmp_path: Path, bytes_of: Callable[[int], bytes]
):
    hub.add("org/name", {"model.gguf": bytes_of(90_000)})
    ready = loader()
    ready.file.unlink()
    found = run("stage", Path(ready.last["path"]).parent, tmp_path / "memory" / "k")
    assert (found.code, found.reason, (tmp_path / "memory").exists()) == (1, "CopyDamaged", False)


@pytest.mark.parametrize(
    ("files", "path", "words", "expected"),
    [
        pytest.param({"m.gguf": True}, "m.gguf", (), ("done", ""), id="a file"),
        pytest.param({"a/m.gguf": True}, "a", (), ("done", "m.gguf"), id="a folder with one model: which file it is"),
        pytest.param(
            {"m.gguf": True, "n.gguf": True},
            "",
            ("--gguf-file=n.gguf",),
            ("done", "n.gguf"),
            id="the one that is named",
        ),
        pytest.param({"m.gguf": True, "n.gguf": True}, "", (), ("failed", "FilesNotChosen"), id="two, none is named"),
        pytest.param({"x": False}, "y", (), ("failed", "NotThere"), id="nothing at the path"),
        pytest.param({"m.gguf": False}, "m.gguf", (), ("failed", "ArtifactInvalid"), id="a file that is no GGUF"),
        pytest.param({"config.json": False}, "", ("--reads", "checkpoint"), ("done", ""), id="a folder for vLLM"),
    ],
)
def test_a_claim_of_the_users_is_checked(
    tmp_path: Path, files: dict[str, bool], path: str, words: tuple[str, ...], expected: tuple[str, str]
):
    for name, good in files.items():
        (tmp_path / "claim" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "claim" / name).write_bytes(gguf_bytes.llama({}, []) if good else b"{}")
    found = run("check", tmp_path / "claim" / path, *words)
    where = found.last.get("file", "").rpartition("/")[2]
    assert (found.last["event"], found.reason or where) == expected


def test_an_empty_folder_is_said_to_be_empty(tmp_path: Path):
    found = run("check", tmp_path, "--reads", "checkpoint")
    assert (found.code, found.reason) == (1, "Empty")
