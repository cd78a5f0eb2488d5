"""`flexinfer sim` as a process: start, end, crashes, what it leaves behind, and the stub executables."""

from __future__ import annotations

import http.client
import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tests.support import stub_engines
from tests.support.processes import live
from tests.support.spawned import Spawned
from tests.support.waiting import until

SLOW_STREAM = ("--model", "m", "--prefill-rate", "0", "--decode-rate", "20", "--output-tokens", "400")
CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hello"}], "stream": True}


@contextmanager
def stream(url: str) -> Iterator[http.client.HTTPResponse]:
    """A stream of which the first event was read."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(CHAT), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        assert answer.readline().startswith(b"data: ")
        yield answer
    finally:
        connection.close()


def get(url: str, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=5)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def rest(answer: http.client.HTTPResponse) -> tuple[bytes, bool]:
    """What is left of a stream, and whether it ends as HTTP says."""
    try:
        return answer.read(), True
    except http.client.IncompleteRead as broken:
        return broken.partial, False


def test_it_listens_on_loopback_and_says_where_and_ends_with_0() -> None:
    with Spawned("sim", "--engine", "llamacpp", "--model", "m") as child:
        url = child.url()
        child.line("^flexinfer sim: ready$")
        assert child.lines == [
            f"flexinfer sim: llamacpp simulator for m listening on {url}",
            "flexinfer sim: ready",
        ]
        assert url.startswith("http://127.0.0.1:")
        assert get(url, "/health") == (200, b'{"status":"ok"}')
        child.terminate()
        assert child.end() == 0


@pytest.mark.parametrize(
    ("how", "ends_whole", "says"),
    [
        pytest.param("exit", False, b"", id="breaks them off"),
        pytest.param("abort", True, b'"finish_reason":"abort"', id="aborts them"),
        pytest.param("error", True, b'{"error":{', id="sends an error event"),
    ],
)
def test_sigterm_with_an_open_stream(how: str, ends_whole: bool, says: bytes) -> None:
    with Spawned("sim", *SLOW_STREAM, "--on-sigterm", how) as child, stream(child.url()) as answer:
        child.terminate()
        text, whole = rest(answer)
        assert (whole, says in text, b"[DONE]" in text) == (ends_whole, True, ends_whole)
        assert child.end() == 0


def test_sigterm_may_let_streams_end_and_refuse_new_ones() -> None:
    args = (*SLOW_STREAM, "--output-tokens", "20", "--on-sigterm", "drain")
    with Spawned("sim", *args) as child, stream(child.url()) as answer:
        child.terminate()
        child.line("SIGTERM: drain")
        assert get(child.url(), "/health")[0] == 200
        connection = http.client.HTTPConnection(urlsplit(child.url()).netloc, timeout=5)
        connection.request("POST", "/v1/chat/completions", json.dumps(CHAT), {"Content-Type": "application/json"})
        assert connection.getresponse().status == 500
        connection.close()
        text, whole = rest(answer)
        assert (whole, b"[DONE]" in text) == (True, True)
        assert child.end() == 0


def test_sigterm_may_leave_streams_silent_until_their_clients_go() -> None:
    with Spawned("sim", *SLOW_STREAM, "--on-sigterm", "silent") as child:
        with stream(child.url()):
            child.terminate()
            child.line("SIGTERM: silent")
            with pytest.raises(Exception, match="timed out"):
                child.end(within_s=0.3)
        assert child.end() == 0


def test_ctrl_c_ends_what_ignores_sigterm_and_says_so() -> None:
    with Spawned("sim", "--on-sigterm", "ignore") as child:
        child.url()
        child.process.send_signal(signal.SIGINT)
        child.line("SIGINT: exit")
        assert child.end() == 0


def test_sigterm_may_be_ignored() -> None:
    with Spawned("sim", "--on-sigterm", "ignore") as child:
        url = child.url()
        child.terminate()
        child.line("SIGTERM: ignored")
        assert get(url, "/health")[0] == 200


@pytest.mark.parametrize(
    ("args", "code", "last_line"),
    [
        pytest.param(
            ("--exit-after", "0", "--exit-code", "7"),
            7,
            "flexinfer sim: error: told to fail at start, exit code 7",
            id="at once",
        ),
        pytest.param(
            ("--exit-after", "0.2", "--exit-code", "0", "--never-ready"),
            0,
            "flexinfer sim: error: told to fail, exit code 0",
            id="later, with the code of success",
        ),
    ],
)
def test_it_can_fail_by_itself(args: tuple[str, ...], code: int, last_line: str) -> None:
    with Spawned("sim", *args) as child:
        assert (child.end(), child.lines[-1]) == (code, last_line)


@pytest.mark.parametrize(
    ("how", "code"), [pytest.param("exit", 3, id="exits"), pytest.param("kill", -signal.SIGKILL, id="is killed")]
)
def test_it_can_die_in_a_stream(how: str, code: int) -> None:
    args = (*SLOW_STREAM, "--break-after", "3", "--break-how", how, "--exit-code", "3")
    with Spawned("sim", *args) as child, stream(child.url()) as answer:
        text, whole = rest(answer)
        assert (whole, b"[DONE]" in text) == (False, False)
        assert child.end() == code


def test_a_port_in_use_is_said_and_ends_it() -> None:
    with Spawned("sim") as first:
        port = str(urlsplit(first.url()).port)
        with Spawned("sim", "--port", port) as second:
            assert second.end() == 1
            assert (
                second.lines[-1] == f"flexinfer sim: error: cannot listen on 127.0.0.1:{port}: Address already in use"
            )


async def test_a_worker_and_a_daemon_outlive_it() -> None:
    with Spawned("sim", "--worker", "--daemon") as child:
        worker = int(child.line(r"worker pid=(\d+)")[1])
        daemon = int(child.line(r"daemon pid=(\d+)")[1])
        child.url()
        try:
            child.process.kill()
            assert child.end() == -signal.SIGKILL
            os.kill(worker, signal.SIGTERM)
            assert live([worker, daemon]) == [worker, daemon]
            assert os.getsid(daemon) != os.getsid(worker)
        finally:
            for pid in (worker, daemon):
                os.kill(pid, signal.SIGKILL)
        await until(lambda: not live([worker, daemon]))


def test_the_log_shows_progress_and_where_the_layers_are() -> None:
    with Spawned("sim", "--load-seconds", "0.2", "--gpu-log", "gpu") as child:
        child.line("ready$")
        assert child.lines[:5] == [
            "flexinfer sim: loading weights: 25%",
            "flexinfer sim: loading weights: 50%",
            "flexinfer sim: loading weights: 75%",
            "flexinfer sim: loading weights: 100%",
            "flexinfer sim: load_tensors: offloaded 33/33 layers to GPU",
        ]


@pytest.mark.parametrize(
    ("program", "argv", "env", "path", "answer"),
    [
        pytest.param(
            "vllm",
            ["serve", "/models/m", "--host", "127.0.0.1", "--port", "PORT", "--served-model-name", "a", "b"],
            {},
            "/v1/models",
            b'"id":"b"',
            id="vllm",
        ),
        pytest.param(
            "llama-server",
            ["--model", "/m.gguf", "--host", "127.0.0.1", "--port", "PORT", "--alias", "a", "-ngl", "99", "--jinja"],
            {},
            "/health",
            b'{"status":"ok"}',
            id="llama-server",
        ),
        pytest.param("ollama", ["serve"], {"OLLAMA_HOST": "127.0.0.1:PORT"}, "/", b"Ollama is running", id="ollama"),
    ],
)
def test_a_stub_executable_takes_the_engine_s_command_line(
    tmp_path: Path, program: str, argv: list[str], env: dict[str, str], path: str, answer: bytes
) -> None:
    stub = stub_engines.install(tmp_path / "bin", program, layers="gpu")
    argv = [word.replace("PORT", "0") for word in argv]
    env = {name: value.replace("PORT", "0") for name, value in env.items()}
    with Spawned(argv=[str(stub), *argv], env=env) as child:
        child.line("ready$")
        status, body = get(child.url(), path)
        assert (status, answer in body) == (200, True)


@pytest.mark.parametrize(
    ("layers", "line"),
    [
        pytest.param("gpu", "offloaded 33/33 layers to GPU", id="GPU"),
        pytest.param("cpu", "offloaded 0/33 layers to GPU", id="CPU"),
    ],
)
def test_a_stub_llama_server_logs_where_its_layers_are(tmp_path: Path, layers: str, line: str) -> None:
    stub = stub_engines.install(tmp_path, "llama-server", layers=layers)
    with Spawned(argv=[str(stub), "--port", "0"]) as child:
        child.line(line)
