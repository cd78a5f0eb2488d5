"""A hub, and `flexinfer loader fetch` as a real child that talks to it."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.support.hub import Hub

TOKEN = "canary-of-the-hub-token"


class Outcome(NamedTuple):
    code: int
    events: list[dict[str, Any]]
    output: str
    """Stdout and stderr."""

    @property
    def last(self) -> dict[str, Any]:
        return self.events[-1]

    @property
    def reason(self) -> str:
        return str(self.last.get("reason", ""))

    @property
    def file(self) -> Path:
        return Path(self.last["file"])


class Loader:
    def __init__(self, hub: Hub, tmp: Path) -> None:
        self.hub = hub
        self.root = tmp / "models"
        self._home = tmp

    def argv(self, *words: str, source: str = "HF://org/name", root: Path | None = None) -> list[str]:
        where = str(root or self.root)
        return [sys.executable, "-m", "flexinfer", "loader", "fetch", source, "--root", where, *words]

    def env(self, **more: str) -> dict[str, str]:
        outside = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        return {**outside, **self.hub.env(self._home), **more}

    def start(self, *words: str, env: dict[str, str] | None = None, **more: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.argv(*words, **more),
            env=self.env(**(env or {})),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(
        self,
        *words: str,
        source: str = "HF://org/name",
        env: dict[str, str] | None = None,
        most_bytes: int = -1,
    ) -> Outcome:
        def limit() -> None:
            if most_bytes >= 0:
                resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))

        run = subprocess.run(
            self.argv(*words, source=source),
            env=self.env(**(env or {})),
            capture_output=True,
            text=True,
            timeout=60,
            preexec_fn=limit,
        )
        return outcome(run.returncode, run.stdout, run.stderr)

    def stored(self) -> set[str]:
        """Names of the folders of copies, whole and partial."""
        folder = self.root / ".flexinfer"
        return {path.name for path in folder.iterdir() if len(path.name) >= 32} if folder.exists() else set()

    def leftovers(self) -> list[Path]:
        return [path for path in self.root.rglob("incoming/*") if path.is_file()]


def outcome(code: int, stdout: str, stderr: str) -> Outcome:
    return Outcome(code, [json.loads(line) for line in stdout.splitlines()], stdout + stderr)


@pytest.fixture
def loader(hub: Hub, tmp_path: Path) -> Loader:
    return Loader(hub, tmp_path)


@pytest.fixture
def bytes_of() -> Callable[[int], bytes]:
    """Bytes that look random and are the same each time."""
    import random

    return lambda count: random.Random(count).randbytes(count)
