"""A `flexinfer` command as a user types it, run to its end; nothing of the user's own folders and engines is seen."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

Ended = subprocess.CompletedProcess[str]


def flexinfer(*args: object, folder: Path, stdin: str | None = None, env: Mapping[str, str] | None = None) -> Ended:
    """`folder` is its HOME; what `env` says counts more."""
    usual = {name: value for name, value in os.environ.items() if not name.startswith("FLEXINFER_")}
    own = {"PATH": "/usr/bin:/bin", "XDG_STATE_HOME": str(folder / "xdg"), "HOME": str(folder)}
    argv = [sys.executable, "-m", "flexinfer", *map(str, args)]
    return subprocess.run(
        argv, capture_output=True, text=True, timeout=60, env={**usual, **own, **(env or {})}, input=stdin, check=False
    )


async def call(*args: object, folder: Path, stdin: str | None = None, env: Mapping[str, str] | None = None) -> Ended:
    """The same, beside what else the test does."""
    return await asyncio.to_thread(flexinfer, *args, folder=folder, stdin=stdin, env=env)
