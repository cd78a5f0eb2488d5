"""Completion of Models' names, as a shell asks for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.models import manifest
from tests.support.running import running, write

from flexinfer.local.state import State


def completed(state_dir: Path, *words: str) -> list[str]:
    line = ["flexinfer", words[0], "--state-dir", str(state_dir), *words[1:]]
    env = os.environ | {
        "_FLEXINFER_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(line), "COMP_CWORD": str(len(line) - 1)
    }  # fmt: skip
    argv = [sys.executable, "-m", "flexinfer"]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=30, check=True)
    return [entry.partition(",")[2] for entry in done.stdout.splitlines() if entry]


@pytest.mark.parametrize("command", ["chat", "logs", "wake", "stop", "explain", "delete"])
def test_nothing_runs_and_nothing_has_run(tmp_path, command):
    assert completed(tmp_path / "state", command, "a") == []


def test_after_the_end_those_that_have_logs(tmp_path):
    state = State(tmp_path / "state")
    for name in ("alpha", "beta"):
        state.new_log(name)
    assert completed(state.root, "logs", "a") == ["alpha"]


async def test_those_of_the_up_that_runs(tmp_path):
    file = write(tmp_path / "m.yaml", *(manifest(name) for name in ("alpha", "apple", "beta")))
    async with running(tmp_path, [file]) as up:
        state_dir = Path(up.info.state_dir)
        assert completed(state_dir, "chat", "a") == ["alpha", "apple"]
        assert completed(state_dir, "delete", "alpha", "a") == ["apple"]
