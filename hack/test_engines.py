"""`make test-engines`: a real vLLM on this machine's CPU, through the plans that FlexInfer makes for it.

Every golden command line goes through vLLM's own parser; a tiny model then serves by the plan of a pod and by
`flexinfer up`. `--record` writes what it said into tests/data/engines. It takes a quarter of an hour and 2 GB at first,
five minutes later; no process is left behind.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "hack" / "engines")]

import environment  # noqa: E402

from flexinfer import backends  # noqa: E402
from flexinfer.api.meta import ObjectMeta  # noqa: E402
from flexinfer.api.v1alpha2.model import Model, ModelSpec  # noqa: E402
from flexinfer.backends import telemetry  # noqa: E402
from flexinfer.backends.base import Artifact, LaunchPlan, Site  # noqa: E402

RECORDS = ROOT / "tests" / "data" / "engines"
RELEASE = f"vllm-{environment.VERSION}"
HOME = ROOT / ".engines"
"""Containers of the test cluster see the checkout, and so what is made here."""
PORT = 18400
START_S = 300.0
DRAIN_S = 20.0
QUESTION = [{"role": "user", "content": "one two three"}]
ADAPTER = "adapter"
LONG = 900
"""Tokens of a stream that is open when something happens."""


class Failed(Exception):
    """A check found something else than it should."""


class Checks:
    """Runs checks one after the other and remembers which failed."""

    def __init__(self) -> None:
        self.failed: list[str] = []

    def run(self, name: str, check: Callable[[], str]) -> None:
        began = time.monotonic()
        try:
            said = check()
        except (Failed, OSError, http.client.HTTPException, subprocess.SubprocessError, ValueError) as error:
            self.failed.append(name)
            said = f"FAILED: {type(error).__name__}: {error}"
        print(f"  {name}: {said} ({time.monotonic() - began:.1f} s)", flush=True)


class Engine:
    """A started engine, ended with its whole group."""

    def __init__(self, plan: LaunchPlan, programs: Path, log: Path) -> None:
        self.plan = plan
        env = {"PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(HOME), **plan.env}
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [str(programs / plan.program), *plan.args],
                env=env,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def until_ready(self) -> None:
        until(lambda: self.get(self.plan.health_path)[0] == 200, START_S, lambda: self.process.poll() is None)

    def get(self, path: str) -> tuple[int, bytes]:
        with contextlib.closing(self.connection(10)) as connection:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()

    def post(self, path: str, body: Any) -> tuple[int, bytes]:
        with contextlib.closing(self.connection(60)) as connection:
            raw = body if isinstance(body, str) else json.dumps(body)
            connection.request("POST", path, raw, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read()

    def stream(self, tokens: int, *, model: str = "tiny") -> http.client.HTTPResponse:
        connection = self.connection(60)
        body = {"model": model, "messages": QUESTION, "stream": True, "max_tokens": tokens, "ignore_eos": True}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        return connection.getresponse()

    def connection(self, timeout_s: float) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.plan.port, timeout=timeout_s)

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def until(true: Callable[[], bool], limit_s: float, alive: Callable[[], bool] = lambda: True) -> None:
    """Raises Failed."""
    last = time.monotonic() + limit_s
    while True:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if true():
                return
        if not alive():
            raise Failed("it has ended")
        if time.monotonic() > last:
            raise Failed(f"not within {limit_s:g} s")
        time.sleep(0.2)


def pod_plan(folder: Path, port: int) -> LaunchPlan:
    """As a pod has it, for the tiny model."""
    config = {
        "maxModelLen": 1024, "maxNumSeqs": 4, "enforceEager": True, "enableLora": True, "maxLoras": 1, "maxLoraRank": 8,
        "cpuKvCacheGiB": 1,
    }  # fmt: skip
    model = Model(
        metadata=ObjectMeta(name="tiny"), spec=ModelSpec(backend="vllm", source="file:///models/tiny", config=config)
    )
    site = Site(host="127.0.0.1", port=port, artifact=Artifact(path=str(folder / "model")), drain_s=DRAIN_S)
    return backends.get("vllm").plan(model, site)


def golden_lines() -> dict[str, list[str]]:
    """Every golden command line of vLLM, by where it stands; `serve` is the command, not an option."""
    pods = json.loads((ROOT / "tests/golden/pods/vllm.json").read_text())
    found = {f"pod on {place}": plan["args"][1:] for place, plan in pods.items()}
    for path in sorted((ROOT / "tests/golden/backends").glob("vllm_*/plan.json")):
        found[path.parent.name] = json.loads(path.read_text())["args"][1:]
    return found


def parse(programs: Path) -> str:
    lines = golden_lines()
    said = subprocess.run(
        [str(programs / "python"), str(ROOT / "hack/engines/parse_argv.py")],
        input="".join(json.dumps(line) + "\n" for line in lines.values()),
        capture_output=True,
        text=True,
        check=True,
    )
    answers = [json.loads(line) for line in said.stdout.splitlines() if line == "null" or line.startswith('"')]
    wrong = {name: error for name, error in zip(lines, answers, strict=True) if error is not None}
    if wrong:
        raise Failed(json.dumps(wrong))
    return f"{len(lines)} command lines are taken"


def options(programs: Path, record: bool) -> str:
    said = subprocess.run(
        [str(programs / "python"), str(ROOT / "hack/engines/parse_argv.py"), "--options"],
        capture_output=True,
        text=True,
        check=True,
    )
    found = {name for name in json.loads(said.stdout.splitlines()[-1]) if name.startswith("--")}
    path = RECORDS / f"{RELEASE}-options.txt"
    if record:
        path.write_text("\n".join(sorted(found)) + "\n")
    known = {name for name in path.read_text().split() if name.startswith("--")}
    if found != known:
        raise Failed(f"recorded and gone: {sorted(known - found)}; new: {sorted(found - known)}")
    return f"{len(found)} options as recorded"


def chat(engine: Engine) -> str:
    body = {"model": "tiny", "messages": QUESTION, "max_tokens": 8}
    status, answer = engine.post("/v1/chat/completions", body)
    if status != 200 or json.loads(answer)["choices"][0]["finish_reason"] not in ("length", "stop"):
        raise Failed(f"{status} {answer[:200]!r}")
    events = events_of(engine.stream(8))
    if events[-1] != "[DONE]" or len(events) < 9:
        raise Failed(f"a stream of {events[-2:]}")
    return "whole and streamed"


def events_of(answer: http.client.HTTPResponse) -> list[str]:
    """The data of every event, to the end of the body or of the connection."""
    lines: list[bytes] = []
    with contextlib.suppress(http.client.IncompleteRead, ConnectionError):
        while line := answer.readline():
            lines.append(line)
    return [line[6:].decode().strip() for line in lines if line.startswith(b"data: ")]


def errors(engine: Engine, record: bool) -> str:
    """The recorded requests for tokens, again: status, type and parameter of each refusal."""
    path = RECORDS / RELEASE / "errors.json"
    asked_of = ("/v1/chat/completions", "/v1/completions")
    cases = [case for case in json.loads(path.read_text()) if case["request"]["path"] in asked_of]
    cases = [case for case in cases if case["request"]["method"] == "POST"]
    wrong = []
    for case in cases:
        asked = case["request"]
        status, raw = engine.post(asked["path"], asked.get("raw", asked.get("body")))
        if (status, shape(json.loads(raw))) != (case["status"], shape(case["body"])):
            wrong.append(f"{case['case']}: {status} {raw[:160]!r}")
    if wrong and not record:
        raise Failed("; ".join(wrong))
    return f"{len(cases)} refusals as recorded" + (f", but {wrong}" if wrong else "")


def shape(body: Any) -> Any:
    """What of an error does not depend on the model's size."""
    error = body.get("error") if isinstance(body, dict) else None
    return (error["type"], error["code"]) if isinstance(error, dict) else sorted(body)


def families(engine: Engine, record: bool) -> str:
    """Names, kinds and labels of all metrics that vLLM has of its own."""
    _, raw = engine.get("/metrics")
    found = metric_lines(raw.decode())
    path = RECORDS / RELEASE / "metrics.txt"
    if record:
        path.write_text("\n".join(found) + "\n")
    # The records were taken with the developers' routes, which count what sleeps.
    known = {line for line in path.read_text().splitlines() if not line.startswith("vllm:sleep_mode")}
    missing = known - set(found)
    if missing:
        raise Failed(f"recorded and gone: {sorted(missing)[:5]}")
    load = telemetry.load("vllm", raw)
    if load.running is None or load.waiting is None or load.kv_cache_use is None:
        raise Failed(f"read as {load}")
    return f"{len(found)} names as recorded"


def metric_lines(text: str) -> list[str]:
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    labels: dict[str, set[str]] = {}
    for name, inside in re.findall(r"^(vllm:[^{ ]+)(?:\{(.*)\})? \S+$", text, re.MULTILINE):
        labels.setdefault(name, set()).add(",".join(sorted(re.findall(r'(\w+)="', inside))))
    lines = []
    for name, found in sorted(labels.items()):
        family = re.sub(r"_(bucket|count|sum)$", "", name)
        kind = kinds[family] if kinds.get(family) == "histogram" else kinds.get(name, "untyped")
        lines.append(f"{name} {kind} {' | '.join(sorted(found))}")
    return lines


def lora(engine: Engine, folder: Path) -> str:
    given = {"lora_name": ADAPTER, "lora_path": str(folder / "adapter")}
    steps = [
        ("load", engine.post("/v1/load_lora_adapter", given), 200),
        ("again", engine.post("/v1/load_lora_adapter", given), 400),
        ("chat", engine.post("/v1/chat/completions", {"model": ADAPTER, "messages": QUESTION, "max_tokens": 4}), 200),
        ("unload", engine.post("/v1/unload_lora_adapter", {"lora_name": ADAPTER}), 200),
        ("gone", engine.post("/v1/chat/completions", {"model": ADAPTER, "messages": QUESTION, "max_tokens": 4}), 404),
    ]
    wrong = [f"{name}: {status} {body[:120]!r}" for name, (status, body), expected in steps if status != expected]
    if wrong:
        raise Failed("; ".join(wrong))
    return "loaded, loaded again (400), asked, unloaded, unknown"


def sigterm(engine: Engine) -> str:
    """An open stream ends whole, and the process with code 0 within its grace."""
    answer = engine.stream(LONG)
    answer.readline()
    engine.process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    events = events_of(answer)
    streamed_s = time.monotonic() - began
    reason = json.loads(events[-2])["choices"][0]["finish_reason"] if len(events) > 1 else None
    code = engine.process.wait(max(engine.plan.stop_grace_s - streamed_s, 1))
    if (reason, events[-1:], code) != ("length", ["[DONE]"], 0):
        raise Failed(f"finish_reason {reason}, last {events[-1:]}, exit code {code}")
    return f"the stream of {len(events)} events ended whole after {streamed_s:.1f} s, exit code 0"


def sigkill(engine: Engine) -> str:
    """A stream ends without `[DONE]`; the workers stay until the group is killed."""
    answer = engine.stream(LONG)
    answer.readline()
    engine.process.kill()
    events = events_of(answer)
    if "[DONE]" in events:
        raise Failed("the stream ended as if it were whole")
    engine.process.wait()
    left = group(engine.process.pid)
    engine.end()
    until(lambda: not group(engine.process.pid), 10)
    return f"the stream broke off, {len(left)} processes were left and went with their group"


def group(pid: int) -> list[int]:
    """Processes of a group that still run."""
    said = subprocess.run(["ps", "-eo", "pid=,pgid=,stat="], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in said.splitlines()]
    return [int(row[0]) for row in rows if int(row[1]) == pid and not row[2].startswith("Z")]


@contextlib.contextmanager
def up(folder: Path, programs: Path) -> Iterator[str]:
    """`flexinfer up` with the tiny model; its address."""
    state = folder / "up"
    state.mkdir(exist_ok=True)
    manifest = state / "tiny.yaml"
    manifest.write_text(MANIFEST)
    env = os.environ | {"PATH": f"{programs}:{os.environ['PATH']}"}
    command = [sys.executable, "-m", "flexinfer", "up", str(manifest), "--state-dir", str(state / "state")]
    command += ["--models-dir", str(folder), "--port", str(PORT + 2)]
    with (state / "up.log").open("wb") as output:
        process = subprocess.Popen(command, env=env, stdout=output, stderr=output)
    try:
        yield f"127.0.0.1:{PORT + 2}"
    finally:
        process.terminate()
        try:
            process.wait(90)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


MANIFEST = """apiVersion: ai.flexinfer/v1alpha2
kind: Model
metadata: {name: tiny}
spec:
  backend: vllm
  source: file:///models/model
  serverless: {coldStartTimeout: 5m}
  config: {maxModelLen: 1024, maxNumSeqs: 4, enforceEager: true, cpuKvCacheGiB: 1}
"""


def local(folder: Path, programs: Path) -> str:
    """A request wakes the Model; the answer comes through the proxy, whole and streamed."""
    with up(folder, programs) as address:

        def ask(stream: bool) -> http.client.HTTPResponse:
            connection = http.client.HTTPConnection(address, timeout=START_S)
            body = {"model": "tiny", "messages": QUESTION, "max_tokens": 8, "stream": stream, "ignore_eos": True}
            connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
            return connection.getresponse()

        until(lambda: bool(http.client.HTTPConnection(address, timeout=5).request("GET", "/healthz") or True), 30)
        began = time.monotonic()
        answer = ask(stream=False)
        text = answer.read()
        woken_s = time.monotonic() - began
        if answer.status != 200:
            raise Failed(f"{answer.status} {text[:300]!r}")
        events = events_of(ask(stream=True))
        if events[-1:] != ["[DONE]"]:
            raise Failed(f"a stream that ends with {events[-1:]}")
    return f"woken in {woken_s:.0f} s, answered whole and streamed"


def served(checks: Checks, folder: Path, programs: Path, record: bool) -> None:
    engine = Engine(pod_plan(folder, PORT), programs, folder / "vllm.log")
    try:
        engine.until_ready()
        checks.run("chat", lambda: chat(engine))
        checks.run("errors", lambda: errors(engine, record))
        checks.run("lora", lambda: lora(engine, folder))
        checks.run("metrics", lambda: families(engine, record))
        checks.run("SIGTERM with an open stream", lambda: sigterm(engine))
    finally:
        engine.end()
    engine = Engine(pod_plan(folder, PORT + 1), programs, folder / "vllm-killed.log")
    try:
        engine.until_ready()
        checks.run("SIGKILL with an open stream", lambda: sigkill(engine))
    finally:
        engine.end()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", action="store_true", help="write what it says into tests/data/engines")
    parser.add_argument("--parse-only", action="store_true", help="start no engine")
    chosen = parser.parse_args()
    programs = environment.ready(HOME / RELEASE)
    folder = HOME / "tiny"
    if not (folder / "adapter" / "adapter_config.json").exists():
        environment.run(str(programs / "python"), str(ROOT / "hack/engines/tiny_model.py"), str(folder))
    checks = Checks()
    print(f"vLLM {environment.VERSION} on this machine's CPU", flush=True)
    checks.run("options", lambda: options(programs, chosen.record))
    checks.run("command lines", lambda: parse(programs))
    if not chosen.parse_only:
        try:
            served(checks, folder, programs, chosen.record)
        except Failed as error:
            checks.failed.append(f"serving: {error}")
        checks.run("flexinfer up", lambda: local(folder, programs))
    if checks.failed:
        sys.exit(f"test-engines: failed: {', '.join(checks.failed)}; logs are in {folder}")


if __name__ == "__main__":
    main()
