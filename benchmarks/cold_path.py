"""What FlexInfer itself adds to a cold start, seen from outside: a client and an engine that both keep time.

Request in → spawn: from the client's send to the first line of the engine's script, the start of a process included.
Ready → first byte: from the moment the engine could answer to the first byte of the request that waited for it.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from http.client import HTTPConnection
from pathlib import Path

from benchmarks import local_up
from benchmarks.table import Table, percentile

AT_LEAST = 20
SCRIPT = """#!/bin/sh
exec "{python}" -I -S "{stub}" "{log}" "$(date +%s%N)" "$@"
"""


def main(seconds: float = 40.0) -> Table:
    names = [f"cold-{number:03}" for number in range(200)]
    sent_ns: dict[str, int] = {}
    refused = 0
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        log = folder / "engines.log"
        log.touch()
        programs = folder / "bin"
        programs.mkdir()
        script = programs / "llama-server"
        script.write_text(
            SCRIPT.format(python=sys.executable, stub=Path(__file__).with_name("stub_engine.py"), log=log)
        )
        script.chmod(0o755)
        path = f"{programs}:/usr/bin:/bin"
        with local_up.up(folder, names, idle_timeout="2s", environment={"PATH": path}) as up:
            time.sleep(2)  # the first look at 200 models is part of a start, not of a cold path
            until = time.monotonic() + seconds
            for model in names:
                if time.monotonic() > until and len(sent_ns) >= AT_LEAST:
                    break
                sent_ns[model] = time.time_ns()
                refused += ask(up.port, model) != 200
        times = [line.split() for line in log.read_text().splitlines()]
    spawn_ms = [(int(spawned) - sent_ns[model]) / 1e6 for model, spawned, _, _ in times]
    first_byte_ms = [(int(first) - int(ready)) / 1e6 for _, _, ready, first in times]
    return Table(
        title="Cold path",
        command="python -m benchmarks cold_path",
        columns=("from", "to", "p50 ms", "p99 ms", "aim, p99"),
        rows=[
            row("request in", "engine's first line", spawn_ms, "≤ 50 ms"),
            row("engine ready", "first byte upstream", first_byte_ms, "≤ 100 ms"),
        ],
        notes=[
            f"{len(sent_ns)} cold starts of as many models in one `up`, one after the other; {refused} failed.",
            "A process is started within the first figure; the second holds the wait for the next health probe.",
        ],
    )


def ask(port: int, model: str) -> int:
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "go"}]})
    connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    response.read()
    connection.close()
    return response.status


def row(begin: str, end: str, values: Sequence[float], aim: str) -> tuple[str, ...]:
    return (begin, end, f"{percentile(values, 0.5):.1f}", f"{percentile(values, 0.99):.1f}", aim)
