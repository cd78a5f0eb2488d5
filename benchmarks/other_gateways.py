"""CPU per request of gateways for language models, beside ours: what passes one request on costs each of them."""

from __future__ import annotations

import contextlib
import http.client
import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks import machine, peers, wrk
from benchmarks.peers import ROOT, Peer
from benchmarks.table import Table, median

ROUNDS = 2
START_S = 120.0
"""LiteLLM imports for as long as half a minute."""
PROGRAMS = ROOT / ".venv-bench" / "bin"


@contextlib.contextmanager
def _started(
    name: str, argv: Sequence[str], port: int, folder: Path, environment: Mapping[str, str] | None = None
) -> Iterator[Peer]:
    command = [str(PROGRAMS / argv[0]), *argv[1:], "--host", "127.0.0.1", "--port", str(port)]
    log = folder / f"{argv[0]}.log"
    with machine.running(command, core=machine.PROXY_CORE, log=log, environment=environment) as process:
        machine.wait_for_port(port, process, START_S)
        _wait_for_answer(port)
        yield Peer(name, port, process.pid)


def _wait_for_answer(port: int) -> None:
    """A port may be open before anything behind it can answer."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("POST", "/v1/chat/completions", wrk.chat_body(), {"Content-Type": "application/json"})
            if connection.getresponse().status == 200:
                return
        connection.close()
        time.sleep(0.5)
    raise SystemExit(f"nothing on port {port} answers after {START_S:.0f} s")


def _router(program: str, name: str, *options: str) -> peers.StartProxy:
    def start(upstream: int, folder: Path) -> contextlib.AbstractContextManager[Peer]:
        argv = [program, *options, "--worker-urls", f"http://127.0.0.1:{upstream}", "--policy", "round_robin"]
        argv += ["--log-level", "error", "--prometheus-port", str(machine.free_port())]
        return _started(name, argv, machine.free_port(), folder)

    return start


def _litellm(upstream: int, folder: Path) -> contextlib.AbstractContextManager[Peer]:
    engine = {"model": "openai/bench", "api_base": f"http://127.0.0.1:{upstream}/v1", "api_key": "none"}
    config = folder / "litellm.yaml"
    config.write_text(json.dumps({"model_list": [{"model_name": "bench", "litellm_params": engine}]}))
    environment = {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # otherwise it fetches one
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
        "LITELLM_LOG": "ERROR",
    }
    argv = ["litellm", "--config", str(config), "--telemetry", "False"]
    return _started("LiteLLM", argv, machine.free_port(), folder, environment)


GATEWAYS: dict[str, peers.StartProxy] = {
    "smg": _router("smg", "smg (Rust)", "launch", "--backend", "openai", "--history-backend", "none"),
    "vllm-router": _router("vllm-router", "vllm-router (Rust)"),
    "litellm": _litellm,
}


def main(seconds: float = 3.0) -> Table:
    missing = [program for program in GATEWAYS if not (PROGRAMS / program).exists()]
    costs: dict[str, list[float]] = {}
    rates: dict[str, list[float]] = {}
    errors: dict[str, int] = {}
    starts = [peers.ours_with_keys, *(start for program, start in GATEWAYS.items() if program not in missing)]
    with tempfile.TemporaryDirectory(prefix="bench-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        upstream = stack.enter_context(peers.json_upstream(folder))
        proxies = [stack.enter_context(start(upstream.port, folder)) for start in starts]
        for proxy in proxies:
            wrk.run(proxy.port, connections=32, seconds=1, folder=folder)
        for _ in range(ROUNDS):
            for proxy in proxies:
                tree = machine.process_tree(proxy.pid)
                before = machine.cpu_ns(tree)
                load = wrk.run(proxy.port, connections=32, seconds=seconds, folder=folder)
                costs.setdefault(proxy.name, []).append((machine.cpu_ns(tree) - before) / 1000 / max(1, load.requests))
                rates.setdefault(proxy.name, []).append(load.requests / max(1, round(seconds)))
                errors[proxy.name] = errors.get(proxy.name, 0) + load.errors
    cost = {name: median(values) for name, values in costs.items()}
    ours = next(iter(cost.values()))
    return Table(
        title="Other gateways",
        command="python -m benchmarks other_gateways",
        columns=("gateway", "CPU µs / request", "ratio to flexinfer", "requests/s", "errors"),
        rows=[
            (name, f"{value:,.1f}", f"{value / ours:.1f}", f"{median(rates[name]):,.0f}", str(errors[name]))
            for name, value in cost.items()
        ],
        notes=[
            "The same load as in `cpu_per_request`, each with one engine, round robin; logs say errors only.",
            "Errors of the slow ones are answers that took longer than the 2 s that the load generator waits.",
            *(f"{program} is not installed here: `make bench` installs it." for program in missing),
        ],
    )
