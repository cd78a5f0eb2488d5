"""A `flexinfer` command as a real child process: its log lines, its address, its end."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self


class Spawned:
    """`with Spawned("sim", "--port", "0") as child:` starts it; leaving kills what is left of it."""

    def __init__(self, *args: str, argv: list[str] | None = None, env: Mapping[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            argv if argv is not None else [sys.executable, "-m", "flexinfer", *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, **(env or {})},
            start_new_session=True,
            text=True,
            errors="replace",
        )
        self.lines: list[str] = []
        self._queue: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._queue.put(line.rstrip("\n"))
        self._queue.put(None)

    def line(self, pattern: str, within_s: float = 10.0) -> re.Match[str]:
        """The first line that matches, among those seen or still to come."""
        for line in self.lines:
            if (found := re.search(pattern, line)) is not None:
                return found
        deadline_s = time.monotonic() + within_s
        while (left_s := deadline_s - time.monotonic()) > 0:
            try:
                line = self._queue.get(timeout=left_s)
            except queue.Empty:
                break
            if line is None:
                break
            self.lines.append(line)
            if (found := re.search(pattern, line)) is not None:
                return found
        raise AssertionError(f"no line matches {pattern!r} within {within_s} s:\n" + "\n".join(self.lines))

    def url(self, within_s: float = 10.0) -> str:
        """Where it listens, as its log says."""
        return self.line(r"(?:ready|listening) on (http://[0-9.]+:\d+)", within_s)[1]

    def end(self, within_s: float = 10.0) -> int:
        """Wait for its end; the exit code, negative for a signal. All its lines are in `lines` afterwards."""
        code = self.process.wait(within_s)
        self._reader.join(within_s)
        while not self._queue.empty():
            line = self._queue.get()
            if line is not None:
                self.lines.append(line)
        return code

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait(10)
        self._reader.join(10)
        assert self.process.stderr is not None
        self.process.stderr.close()
