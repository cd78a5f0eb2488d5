"""wrk with one JSON body: requests, errors and latencies of one run."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from benchmarks import machine

KEY = "a-key-that-opens-nothing-else"

LUA = """
wrk.method = "POST"
wrk.path = "/v1/chat/completions"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer %s"
wrk.body = [==[%s]==]
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('RESULT {"requests": %%d, "errors": %%d, "p50_us": %%d, "p99_us": %%d}\\n', summary.requests,
    e.connect + e.read + e.write + e.status + e.timeout, latency:percentile(50), latency:percentile(99)))
end
"""


@dataclass(frozen=True)
class Load:
    requests: int
    errors: int
    p50_us: int
    p99_us: int


def chat_body() -> str:
    """About 0.8 KB, as a short chat with a system prompt is."""
    system = "You are a careful assistant who answers in short plain sentences. " * 6
    question = "Which rivers flow through the city, and which of them can be crossed on foot in summer? " * 3
    messages = [{"role": "system", "content": system.strip()}, {"role": "user", "content": question.strip()}]
    return json.dumps({"model": "bench", "messages": messages, "max_tokens": 150, "temperature": 0.7})


def run(port: int, *, connections: int, seconds: float, folder: Path, body: str = "") -> Load:
    """`body`, or one of the usual size."""
    script = folder / "post.lua"
    script.write_text(LUA % (KEY, body or chat_body()))
    argv = ["taskset", "-c", str(machine.LOAD_CORE), "wrk", "--threads", "1", "--connections", str(connections)]
    # wrk takes whole seconds.
    argv += ["--duration", f"{max(1, round(seconds))}s", "--script", str(script), f"http://127.0.0.1:{port}/"]
    output = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    result = next(line for line in output.splitlines() if line.startswith("RESULT "))
    return Load(**json.loads(result.removeprefix("RESULT ")))
