"""Run a vendor's tool: found on a given PATH, bounded in time and output, never trusted."""

from __future__ import annotations

import os
import shutil
import subprocess

TIMEOUT_S = 10.0
_MOST_CHARACTERS = 1 << 20


class ToolFailed(Exception):
    """The tool is there and did not do it; the message says why."""


def output(name: str, arguments: tuple[str, ...], path_env: str | None, timeout_s: float = TIMEOUT_S) -> str | None:
    """What the tool printed; None where it is not on PATH. Raises ToolFailed."""
    search = path_env if path_env is not None else os.environ.get("PATH", os.defpath)
    program = shutil.which(name, path=search)
    if program is None:
        return None
    env = {**os.environ, "PATH": search, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            [program, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s,
            env=env,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ToolFailed(f"{name} gave no answer within {timeout_s:g} s") from None
    except OSError as error:
        raise ToolFailed(f"{name} could not be run: {error.strerror or error}") from error
    printed = done.stdout[:_MOST_CHARACTERS].decode("utf-8", "replace")
    if done.returncode != 0:
        said = (printed + done.stderr[:4096].decode("utf-8", "replace")).strip().splitlines()
        raise ToolFailed(f"{name} failed with exit code {done.returncode}: {said[0][:200] if said else 'no output'}")
    return printed
