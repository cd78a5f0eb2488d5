"""Runs make targets at the same time: hack/side_by_side.py MAKE FOLDER TARGET...; fails where one of them fails.

Each writes to FOLDER/TARGET.log, which is shown as soon as the target ends; until then a line every ten seconds
says how far each has come. Ctrl-C or SIGTERM ends them all, with everything that they started.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

_LINE_EVERY_S = 10.0
_LOOK_EVERY_S = 0.2
_ENDS_WITHIN_S = 20.0
# pytest -q: a letter for each test, the share that is done at the end of each full line.
_RESULTS = re.compile(r"^([.FEsxX]+) *(?:\[ *(\d+)%\])?$", re.MULTILINE)


@dataclass
class Run:
    target: str
    log: Path
    process: subprocess.Popen[bytes]
    began: float
    ended: float | None = None

    def progress(self) -> str:
        lines = _RESULTS.findall(self.log.read_text(errors="replace"))
        shares = [share for _, share in lines if share]
        failed = sum(letters.count("F") + letters.count("E") for letters, _ in lines)
        done = sum(len(letters) for letters, _ in lines)
        said = f"{self.target} {done} ({shares[-1] if shares else 0}%)"
        return f"{said}, {failed} FAILED" if failed else said

    def result(self) -> str:
        took_s = round((self.ended or time.monotonic()) - self.began)
        code = self.process.returncode
        verdict = "passed" if code == 0 else f"FAILED (exit status {code})"
        return f"{self.target} {verdict} after {took_s // 60}:{took_s % 60:02d}"


def start(make: str, folder: Path, target: str) -> Run:
    log = folder / f"{target}.log"
    with log.open("wb") as out:
        # A group of its own: what a target started is ended with it.
        process = subprocess.Popen(
            [*shlex.split(make), "--no-print-directory", target],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Run(target, log, process, time.monotonic())


def watch(runs: list[Run]) -> None:
    """Until all have ended."""
    next_line = time.monotonic() + _LINE_EVERY_S
    while going := [run for run in runs if run.ended is None]:
        for run in going:
            if run.process.poll() is not None:
                run.ended = time.monotonic()
                print(f"\n==> {run.result()}; its output:", flush=True)
                sys.stdout.buffer.write(run.log.read_bytes())
                sys.stdout.flush()
        if time.monotonic() >= next_line:
            next_line += _LINE_EVERY_S
            took_s = round(time.monotonic() - runs[0].began)
            print(f"    {took_s // 60}:{took_s % 60:02d}  {'   '.join(run.progress() for run in going)}", flush=True)
        time.sleep(_LOOK_EVERY_S)


def end(runs: list[Run]) -> None:
    """SIGINT, so that tests tidy up; SIGKILL to what is left."""
    going = [run for run in runs if run.process.poll() is None]
    for run in going:
        _signal(run, signal.SIGINT)
    deadline = time.monotonic() + _ENDS_WITHIN_S
    for run in going:
        with contextlib.suppress(subprocess.TimeoutExpired):
            run.process.wait(max(0.0, deadline - time.monotonic()))
    for run in runs:
        _signal(run, signal.SIGKILL)
        run.process.wait()


def _signal(run: Run, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(run.process.pid, number)


def main(make: str, folder: Path, *targets: str) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    # A terminal that is closed, or `kill`: like Ctrl-C.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    runs: list[Run] = []
    try:
        runs += [start(make, folder, target) for target in targets]
        watch(runs)
    except KeyboardInterrupt:
        print("\n==> interrupted: ending the tests", flush=True)
        end(runs)
        return 130
    print("\n==> all together")
    for run in runs:
        print(f"    {run.result()} ({run.log})")
    return int(any(run.process.returncode for run in runs))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:]))
