"""Run a vendor's tool: found on a given PATH, bounded in time and output, never trusted.

A tool that has to be given up takes all its descendants with it: the process group, and what has
left the group as long as its line of parents leads to the tool. A descendant that keeps the pipes
open after the tool has ended does not hold the caller up.
"""

from __future__ import annotations

import os
import selectors
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

TIMEOUT_S = 10.0
_MOST_BYTES = 1 << 20
_LINGER_S = 0.5
_TICK_S = 0.05


class ToolFailed(Exception):
    """The tool is there and did not do it; the message says why."""


def output(name: str, arguments: Sequence[str], path_env: str | None, timeout_s: float = TIMEOUT_S) -> str | None:
    """What the tool printed; None where it is not on PATH. Raises ToolFailed."""
    search = path_env if path_env is not None else os.environ.get("PATH", os.defpath)
    program = shutil.which(name, path=search)
    if program is None:
        return None
    return run((program, *arguments), {**os.environ, "PATH": search, "LC_ALL": "C"}, timeout_s)


def run(argv: Sequence[str], env: Mapping[str, str], timeout_s: float = TIMEOUT_S) -> str:
    """What a command printed, cut at 1 MiB. Raises ToolFailed."""
    name = Path(argv[0]).name
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env,
            start_new_session=True,
        )
    except OSError as error:
        raise ToolFailed(f"{name} could not be run: {error.strerror or error}") from error
    try:
        printed, complaints = _collect(process, timeout_s)
    except TimeoutError:
        raise ToolFailed(f"{name} gave no answer within {timeout_s:g} s") from None
    finally:
        _end(process)
    if process.returncode != 0:
        said = (printed + complaints[:4096]).decode("utf-8", "replace").strip().splitlines()
        code = process.returncode
        raise ToolFailed(f"{name} failed with exit code {code}: {said[0][:200] if said else 'no output'}")
    return printed.decode("utf-8", "replace")


def _collect(process: subprocess.Popen[bytes], timeout_s: float) -> tuple[bytes, bytes]:
    """Both outputs, once they are closed or the tool has ended. Raises TimeoutError."""
    assert process.stdout is not None
    assert process.stderr is not None
    found = {process.stdout: bytearray(), process.stderr: bytearray()}
    deadline = time.monotonic() + timeout_s
    ended_at: float | None = None
    with selectors.DefaultSelector() as selector:
        for pipe, kept in found.items():
            os.set_blocking(pipe.fileno(), False)
            selector.register(pipe, selectors.EVENT_READ, kept)
        while selector.get_map() or process.poll() is None:
            now = time.monotonic()
            if process.poll() is not None:
                ended_at = ended_at or now
                if now > ended_at + _LINGER_S:
                    break
            if now > deadline:
                raise TimeoutError
            for key, _ in selector.select(min(_TICK_S, deadline - now)):
                chunk = os.read(key.fd, 1 << 16)
                if not chunk:
                    selector.unregister(key.fileobj)
                elif len(key.data) < _MOST_BYTES:
                    key.data.extend(chunk[: _MOST_BYTES - len(key.data)])
            if not selector.get_map():
                _wait(process, min(_TICK_S, max(deadline - now, 0)))
    return bytes(found[process.stdout]), bytes(found[process.stderr])


def _end(process: subprocess.Popen[bytes]) -> None:
    """Nothing of the tool is left; one that the kernel will not let go is not waited for."""
    if process.poll() is None:
        for pid in (*_descendants(process.pid), process.pid):
            _kill(pid)
    try:
        # The group outlives its leader while a member is there, and its number is not given away.
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
    _wait(process, 1.0)
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


def _wait(process: subprocess.Popen[bytes], seconds: float) -> None:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        pass


def _descendants(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(folder.name))
        except (OSError, ValueError, IndexError):
            continue
    found, queue = [], [pid]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return found


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
