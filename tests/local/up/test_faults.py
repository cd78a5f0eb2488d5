"""What `up` says and does when files, engines, ports or itself fail. Real processes throughout."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import socket
from collections import Counter

import aiohttp
import pytest
from tests.support.asking import MESSAGES, chat
from tests.support.figures import metric, stats
from tests.support.processes import command_line, live, tree
from tests.support.running import running, spawn, write
from tests.support.waiting import until


async def drink(answer: aiohttp.ClientResponse, into: bytearray) -> None:
    async for chunk in answer.content.iter_any():
        into += chunk


def failure(spawned: tuple) -> tuple[int, str]:
    process, _, log = spawned
    code = process.wait(20)
    return code, log.read_text()


def test_three_mistakes_in_one_manifest_are_told_at_once(tmp_path, manifest):
    wrong = manifest("m", backend="lamacpp", gpu={"vendor": "cpu", "count": 2}, serverless={"idleTimeout": "5"})
    code, said = failure(spawn(tmp_path, [write(tmp_path / "m.yaml", wrong)]))
    assert code == 2
    for expected in ("spec.backend", "llamacpp", "spec.gpu", "spec.serverless.idleTimeout", "m.yaml"):
        assert expected in said


def test_two_models_with_one_name_are_refused_with_both_files(tmp_path, manifest):
    files = [write(tmp_path / name, manifest("twin", backend="simulator")) for name in ("a.yaml", "b.yaml")]
    code, said = failure(spawn(tmp_path, files))
    assert code == 2
    assert "a.yaml" in said
    assert "b.yaml" in said


def test_a_missing_manifest_is_named(tmp_path):
    code, said = failure(spawn(tmp_path, [tmp_path / "nope.yaml"]))
    assert (code, "nope.yaml" in said) == (2, True)


def test_a_taken_port_is_named_with_the_way_out(tmp_path, manifest):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        file = write(tmp_path / "m.yaml", manifest("m", backend="simulator"))
        code, said = failure(spawn(tmp_path, [file], "--port", str(port)))
    assert code == 1
    assert f"127.0.0.1:{port}" in said
    assert "--port" in said
    assert "Traceback" not in said


async def test_a_second_up_is_refused_with_the_pid_of_the_first(tmp_path, manifest):
    file = write(tmp_path / "m.yaml", manifest("m", backend="simulator"))
    async with running(tmp_path, [file]) as up:
        second, _, _ = spawn(tmp_path, [file])
        assert await asyncio.to_thread(second.wait, 20) == 1
        assert f"pid {up.process.pid}" in up.log.read_text()


def test_beyond_loopback_needs_a_word(tmp_path, manifest):
    file = write(tmp_path / "m.yaml", manifest("m", backend="simulator"))
    code, said = failure(spawn(tmp_path, [file], "--host", "0.0.0.0"))
    assert (code, "--no-auth" in said) == (2, True)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param(None, "no such file", id="missing"),
        pytest.param(b"<!DOCTYPE html><html>sign in</html>", "GGUF", id="a login page saved as a model"),
        pytest.param("half", "cut off", id="truncated"),
    ],
)
async def test_a_bad_model_file_is_failed_before_anybody_asks(tmp_path, models, manifest, content, said):
    path = models / "bad.gguf"
    if content == "half":
        path.write_bytes((models / "demo.gguf").read_bytes()[:200_000])
    elif content is not None:
        path.write_bytes(content)
    file = write(tmp_path / "m.yaml", manifest("bad", source="file:///models/bad.gguf"), manifest("good"))
    async with running(tmp_path, [file]) as up:
        status = (await up.phase("bad", "Failed")).status
        assert said.lower() in status.message.lower()
        code, headers, body = await chat(up.url, "bad")
        assert (code, body["error"]["code"]) == (503, "model_failed")
        assert said.lower() in body["error"]["message"].lower()
        assert 1 <= int(headers["Retry-After"]) <= 60
        assert (await chat(up.url, "good"))[0] == 200


async def test_an_engine_that_exits_at_once_is_told_with_code_and_last_lines(tmp_path, manifest):
    spec = manifest("m", backend="simulator", config={"extraArgs": ["--exit-after", "0", "--exit-code", "3"]})
    async with running(tmp_path, [write(tmp_path / "m.yaml", spec)]) as up:
        code, _, body = await chat(up.url, "m")
        assert (code, body["error"]["code"]) == (503, "model_failed")
        assert "exit code 3" in body["error"]["message"]
        status = (await up.phase("m", "Failed")).status
        assert "exit code 3" in status.message
        again = await asyncio.wait_for(chat(up.url, "m"), 1)
        assert (again[0], again[2]["error"]["code"]) == (503, "model_failed")


async def test_an_engine_that_never_gets_ready_is_told_within_the_budget(tmp_path, manifest):
    spec = manifest(
        "m", backend="simulator", serverless={"coldStartTimeout": "1s"}, config={"extraArgs": ["--never-ready"]}
    )
    async with running(tmp_path, [write(tmp_path / "m.yaml", spec)]) as up:
        began = asyncio.get_running_loop().time()
        code, headers, body = await chat(up.url, "m")
        assert (code, body["error"]["code"]) == (503, "model_loading")
        assert 0.9 <= asyncio.get_running_loop().time() - began < 3
        assert 1 <= int(headers["Retry-After"]) <= 60
        assert "Loading" in body["error"]["message"]


@pytest.mark.parametrize("how", ["close", "reset", "truncate"])
async def test_an_engine_that_dies_mid_stream_never_ends_cleanly(tmp_path, manifest, how):
    spec = manifest("m", backend="simulator", config={"extraArgs": ["--break-after", "5", "--break-how", how]})
    async with running(tmp_path, [write(tmp_path / "m.yaml", spec)]) as up, aiohttp.ClientSession() as client:
        body = {"model": "m", "stream": True, "messages": MESSAGES}
        async with client.post(f"{up.url}/v1/chat/completions", json=body) as answer:
            assert answer.status == 200
            seen = bytearray()
            with pytest.raises(aiohttp.ClientPayloadError):
                await drink(answer, seen)
        assert b'"error"' in seen
        assert b"[DONE]" not in seen


@pytest.mark.parametrize(
    ("queue_size", "served"),
    [pytest.param(1000, 1000, id="room for all"), pytest.param(100, None, id="the default room")],
)
async def test_a_thousand_requests_at_once_on_a_cold_model(tmp_path, manifest, queue_size, served):
    spec = manifest("m", backend="simulator", config={"loadSeconds": 1.5, "slots": 64, "decodeRate": 100000})
    file = write(tmp_path / "m.yaml", spec)
    async with running(tmp_path, [file], "--queue-size", str(queue_size)) as up:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as client:

            async def one() -> tuple[int, str]:
                body = {"model": "m", "max_tokens": 2, "messages": MESSAGES}
                async with client.post(f"{up.url}/v1/chat/completions", json=body) as answer:
                    return answer.status, (await answer.json()).get("error", {}).get("code", "")

            answers = await asyncio.gather(*(one() for _ in range(1000)))
            activations = await metric(client, up.url, "flexinfer_proxy_scale_ups_total", model="m")
            counted = await stats(client, up, "m")
        told = Counter(answers)
        assert told[200, ""] + told[503, "queue_full"] == 1000
        if served is not None:
            assert told[200, ""] == served
        assert activations == 1
        # As the engine counts: every request that was held came to it once, and no other one.
        assert (counted["total"], counted["completed"]) == (told[200, ""], told[200, ""])


async def test_sigterm_lets_open_streams_end(tmp_path, manifest):
    spec = manifest("m", backend="simulator", config={"decodeRate": 40})
    async with running(tmp_path, [write(tmp_path / "m.yaml", spec)]) as up, aiohttp.ClientSession() as client:
        body = {"model": "m", "stream": True, "max_tokens": 40, "messages": MESSAGES}
        async with client.post(f"{up.url}/v1/chat/completions", json=body) as answer:
            await answer.content.readany()
            up.process.send_signal(signal.SIGTERM)
            rest = await answer.content.read()
        assert rest.rstrip().endswith(b"data: [DONE]")
        assert await up.ended() == 0


async def test_sigkill_of_up_leaves_no_process_and_the_next_up_starts_clean(tmp_path, manifest):
    spec = manifest("m", backend="simulator", config={"extraArgs": ["--worker", "--daemon"]})
    file = write(tmp_path / "m.yaml", spec)
    async with running(tmp_path, [file]) as up:
        assert (await chat(up.url, "m"))[0] == 200
        family = tree(up.process.pid)
        assert len(family) >= 4
        up.process.kill()
        await up.ended()
        await until(lambda: not live(family), limit_s=1.0)
    async with running(tmp_path, [file]) as again:
        assert (await again.model("m")).status.phase in (None, "Idle")
        assert (await chat(again.url, "m"))[0] == 200


async def test_sigkill_of_the_keeper_costs_engines_not_the_endpoint(tmp_path, manifest):
    file = write(tmp_path / "m.yaml", manifest("m", backend="simulator"))
    async with running(tmp_path, [file]) as up:
        assert (await chat(up.url, "m"))[0] == 200
        engine = (await up.control.engines())[0].pid
        keeper = next(pid for pid in tree(up.process.pid) if any("keeper.py" in word for word in command_line(pid)))
        os.kill(keeper, signal.SIGKILL)
        await until(lambda: not live([engine]))
        assert (await chat(up.url, "m"))[0] == 200


async def test_invalid_bodies_and_paths_have_their_codes(tmp_path, manifest):
    file = write(tmp_path / "m.yaml", manifest("m", backend="simulator"))
    async with running(tmp_path, [file]) as up, aiohttp.ClientSession() as client:
        for path, body, status, code in (
            ("/v1/chat/completions", b"{not json", 400, "invalid_request_body"),
            ("/v1/chat/completions", b"{}", 400, "missing_required_field"),
            ("/v1/chat/completions", b'{"model":"nope"}', 404, "model_not_found"),
            ("/v1/nothing", b"{}", 404, "not_found"),
            ("/v1/chat/completions", b'{"model":"m","x":"' + b"a" * (65 * 2**20) + b'"}', 413, "request_too_large"),
        ):
            headers = {"Content-Type": "application/json"}
            async with client.post(up.url + path, data=io.BytesIO(body), headers=headers) as answer:
                assert (answer.status, (await answer.json())["error"]["code"]) == (status, code)
