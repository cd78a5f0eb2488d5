"""Keys, web pages and the access log of a running `up`."""

import asyncio
import json
import os
import subprocess
import sys

import aiohttp
import pytest
from tests.support.running import running, spawn, write

KEY = "a-key-that-is-long-enough"
OTHER = "another-key-that-is-long"
CHAT = {"model": "m", "messages": [{"role": "user", "content": "a-prompt-nobody-logs"}]}


@pytest.fixture
def keys(tmp_path):
    path = tmp_path / "keys"
    path.write_text(f"alice:{KEY}\n")
    return path


@pytest.fixture
def file(tmp_path, manifest):
    return write(tmp_path / "m.yaml", manifest("m", backend="simulator", config={"decodeRate": 0}))


async def ask(url, method, path, **headers):
    async with (
        aiohttp.ClientSession() as client,
        client.request(method, url + path, json=CHAT if method == "POST" else None, headers=headers) as answer,
    ):
        body = await answer.read()
        code = json.loads(body).get("error", {}).get("code", "") if body.startswith(b"{") else ""
        return answer.status, code, answer.headers


async def test_everything_but_health_needs_a_key(tmp_path, file, keys):
    async with running(tmp_path, [file], "--host", "0.0.0.0", "--api-key-file", str(keys)) as up:
        url = up.url
        assert url.startswith("http://127.0.0.1:"), "an address that clients can use"
        for path in ("/healthz", "/readyz"):
            assert (await ask(url, "GET", path))[0] == 200
        for method, path in (
            ("GET", "/v1/models"),
            ("GET", "/metrics"),
            ("GET", "/nope"),
            ("POST", "/v1/chat/completions"),
        ):
            assert (await ask(url, method, path))[:2] == (401, "invalid_api_key")
        assert (await ask(url, "GET", "/healthz/../v1/models"))[0] in (400, 401)
        good = {"Authorization": f"Bearer {KEY}"}
        assert (await ask(url, "POST", "/v1/chat/completions", **good))[0] == 200
        keys.write_text(f"bob:{OTHER}\n")
        await asyncio.sleep(2.1)
        assert (await ask(url, "GET", "/v1/models", **good))[:2] == (401, "invalid_api_key")
        assert (await ask(url, "GET", "/v1/models", Authorization=f"Bearer {OTHER}"))[0] == 200
        metrics = await ask(url, "GET", "/metrics", Authorization=f"Bearer {OTHER}")
        assert metrics[0] == 200
    log = up.log.read_text()
    lines = [json.loads(line) for line in log.splitlines() if '"component":"access"' in line]
    served = [line for line in lines if line.get("model") == "m"]
    assert [(line["key_name"], line["status"], line["outcome"]) for line in served] == [("alice", 200, "success")]
    assert "/v1, and on every other address of this machine\n" in log
    for secret in (KEY, OTHER, "a-prompt-nobody-logs"):
        assert secret not in log


async def test_f48_a_key_file_that_is_rewritten_100_times_under_load_refuses_no_good_key(tmp_path, file, keys):
    good = {"Authorization": f"Bearer {KEY}"}
    found = []

    async def asks():
        while not over.is_set():
            found.append((await ask(up.url, "POST", "/v1/chat/completions", **good))[:2])

    over = asyncio.Event()
    async with running(tmp_path, [file], "--api-key-file", str(keys)) as up, asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(asks())
        for number in range(100):
            following = keys.with_name("next")
            following.write_text("" if number % 10 == 3 else f"alice:{KEY}\nbob:{OTHER}{number}\n")
            following.replace(keys)
            await asyncio.sleep(0.1)
        over.set()
    assert set(found) == {(200, "")}
    assert len(found) > 100
    log = up.log.read_text()
    assert log.count("keys read again") >= 2
    assert KEY not in log


async def test_chat_takes_its_key_from_the_environment_and_says_so(tmp_path, file, keys):
    async def chat(**env):
        argv = [sys.executable, "-m", "flexinfer", "chat", "m", "hi", "--state-dir", up.info.state_dir]
        environment = {name: value for name, value in os.environ.items() if name != "FLEXINFER_API_KEY"} | env
        return await asyncio.to_thread(
            subprocess.run, argv, env=environment, capture_output=True, text=True, timeout=60, check=False
        )

    async with running(tmp_path, [file], "--api-key-file", str(keys)) as up:
        refused = await chat()
        assert (refused.returncode, "this command takes it from FLEXINFER_API_KEY" in refused.stderr) == (1, True)
        assert (await chat(FLEXINFER_API_KEY=KEY)).returncode == 0


async def test_a_web_page_may_call_only_from_an_allowed_origin(tmp_path, file):
    async with running(tmp_path, [file], "--cors-origin", "https://chat.example.org") as up:
        evil = await ask(up.url, "POST", "/v1/chat/completions", Origin="https://evil.example")
        assert evil[:2] == (403, "origin_not_allowed")
        for origin in ("https://chat.example.org", "http://localhost:3000"):
            status, _, headers = await ask(up.url, "POST", "/v1/chat/completions", Origin=origin)
            assert (status, headers["Access-Control-Allow-Origin"], headers["Vary"]) == (200, origin, "Origin")
        asked = {"Origin": "https://chat.example.org", "Access-Control-Request-Method": "POST"}
        status, _, headers = await ask(up.url, "OPTIONS", "/v1/chat/completions", **asked)
        assert (status, "POST" in headers["Access-Control-Allow-Methods"]) == (204, True)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        pytest.param(("--api-key-file", "nope"), 1, "No such file", id="no such key file"),
        pytest.param(("--cors-origin", "*"), 2, "https://chat.example.org", id="any origin"),
        pytest.param(("--host", "0.0.0.0"), 2, "--api-key-file", id="beyond loopback without keys"),
    ],
)
def test_what_is_refused_at_the_start(tmp_path, file, words, code, said):
    process, _, log = spawn(tmp_path, [file], *words)
    assert process.wait(20) == code
    assert said in log.read_text()
    assert "Traceback" not in log.read_text()
