"""A `flexinfer up` with many models, for the figures that look at it from outside."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks import machine

MODEL = """\
apiVersion: ai.flexinfer/v1alpha2
kind: Model
metadata:
  name: {name}
spec:
  backend: llamacpp
  source: file:///models/demo.gguf
  serverless:
    idleTimeout: {idle_timeout}
---
"""


@dataclass(frozen=True)
class Up:
    pid: int
    port: int
    start_s: float
    """From the start of the process to the first list of all models."""


def flexinfer(*args: str) -> list[str]:
    return [sys.executable, "-m", "flexinfer", *args]


@contextlib.contextmanager
def up(
    folder: Path, names: list[str], *, idle_timeout: str, environment: Mapping[str, str] | None = None
) -> Iterator[Up]:
    models = folder / "models"
    subprocess.run(flexinfer("demo-model", str(models / "demo.gguf")), check=True, capture_output=True)
    manifest = folder / "models.yaml"
    manifest.write_text("".join(MODEL.format(name=name, idle_timeout=idle_timeout) for name in names))
    port = machine.free_port()
    argv = flexinfer("up", str(manifest), "--port", str(port))
    argv += ["--state-dir", str(folder / "state"), "--models-dir", str(models)]
    began = time.monotonic()
    with (folder / "up.log").open("wb") as log:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **(environment or {})}
        )
    try:
        while listed(port) < len(names):
            if process.poll() is not None or time.monotonic() - began > 60:
                raise SystemExit(f"`flexinfer up` does not serve:\n{(folder / 'up.log').read_text()[-2000:]}")
            time.sleep(0.01)
        yield Up(process.pid, port, time.monotonic() - began)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def listed(port: int) -> int:
    """How many models the proxy lists; 0 while it does not answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/v1/models")
        return connection.getresponse().read().count(b'"object":"model"')
    except OSError:
        return 0
    finally:
        connection.close()
