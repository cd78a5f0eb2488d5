"""Reports on what clients run into: lists that wait, preflights, vectors of a wrong length, retries that run out."""

from __future__ import annotations

import asyncio
import base64
import struct
import time
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from tests.support import stub_engines
from tests.support.asking import ask, client
from tests.support.figures import address, metric
from tests.support.proxy import full_backlog
from tests.support.running import running, write


def openai_client(url: str, **more: Any) -> AsyncOpenAI:
    """As it comes, with its retries."""
    return AsyncOpenAI(base_url=f"{url}/v1", api_key="none", **more)


async def test_fr_009_a_dead_server_does_not_delay_the_list(tmp_path, manifest):
    """Connects to one of three models hang; the list is there at once, cold and warm."""
    dead, sockets = await full_backlog()
    try:
        file = write(
            tmp_path / "m.yaml",
            manifest("a", "simulator"),
            manifest("b", "simulator"),
            manifest("dead", "external", f"http://127.0.0.1:{dead.port}", serverless={"minReplicas": 1}),
        )
        async with running(tmp_path, [file]) as up, client() as session:
            took: list[float] = []

            async def listed() -> list[tuple[str, bool]]:
                began = time.monotonic()
                async with session.get(f"{up.url}/v1/models") as answer:
                    found = [(model["id"], model["ready"]) for model in (await answer.json())["data"]]
                took.append(time.monotonic() - began)
                return found

            for _ in range(25):
                assert await listed() == [("a", False), ("b", False), ("dead", False)]
            for name in ("a", "b"):
                assert (await ask(session, up.url, name)).served
            waiting = asyncio.create_task(ask(session, up.url, "dead"))
            for _ in range(25):
                assert await listed() == [("a", True), ("b", True), ("dead", False)]
            assert not waiting.done()
            waiting.cancel()
        assert sorted(took)[-2] < 0.1
    finally:
        for sock in sockets:
            sock.close()


ORIGIN = "http://localhost:3000"
PREFLIGHT = {
    "Origin": ORIGIN,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type,x-stainless-os",
}


async def test_fr_010_a_preflight_is_answered_and_wakes_nobody(tmp_path, manifest):
    file = write(tmp_path / "m.yaml", manifest("m", "simulator"))
    async with running(tmp_path, [file]) as up, client() as session:
        for path in ("/v1/chat/completions", "/v1/models", "/v1/embeddings"):
            async with session.options(up.url + path, headers=PREFLIGHT) as answer:
                assert answer.status in (200, 204)
                assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
                assert "POST" in answer.headers["Access-Control-Allow-Methods"]
                allowed = {name.strip().lower() for name in answer.headers["Access-Control-Allow-Headers"].split(",")}
                assert {"authorization", "content-type", "x-stainless-os"} <= allowed
        assert await up.control.engines() == []
        for model, status in (("m", 200), ("nope", 404)):
            body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
            async with session.post(f"{up.url}/v1/chat/completions", json=body, headers={"Origin": ORIGIN}) as answer:
                assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (status, ORIGIN)
        foreign = {**PREFLIGHT, "Origin": "https://evil.test"}
        async with session.options(f"{up.url}/v1/chat/completions", headers=foreign) as answer:
            assert (answer.status, "Access-Control-Allow-Origin" in answer.headers) == (403, False)


def _backend(tmp_path, manifest, backend):
    tools = tmp_path / "bin"
    tools.mkdir()
    env = {"PATH": f"{tools}:/usr/bin:/bin"}
    if backend == "ollama":
        stub_engines.install(tools, "ollama")
        return manifest("m", "ollama", "ollama://embed:1b"), env
    if backend == "llamacpp":
        return manifest("m", config={"embeddings": True, "contextSize": 512}), env
    return manifest("m", "simulator"), env


@pytest.mark.parametrize("backend", ["simulator", "llamacpp", "ollama"])
async def test_fr_011_vectors_have_the_length_and_the_values_of_the_engine(tmp_path, models, manifest, backend):
    """The client asks for base64 by itself; whatever it asks for, it gets what the engine says."""
    spec, env = _backend(tmp_path, manifest, backend)
    file = write(tmp_path / "m.yaml", spec)
    async with running(tmp_path, [file], env=env) as up, client() as session, openai_client(up.url) as ai:
        plain = (await ai.embeddings.create(model="m", input="some words")).data[0].embedding
        floats = await ai.embeddings.create(model="m", input="some words", encoding_format="float")
        packed = await ai.embeddings.create(model="m", input="some words", encoding_format="base64")
        name = "embed:1b" if backend == "ollama" else "m"
        body = {"model": name, "input": "some words", "encoding_format": "float"}
        async with session.post(f"{await address(up, 'm')}/v1/embeddings", json=body) as answer:
            direct = (await answer.json())["data"][0]["embedding"]
    assert len(direct) == 64
    raw = base64.b64decode(str(packed.data[0].embedding))
    for found in (plain, floats.data[0].embedding, struct.unpack(f"<{len(raw) // 4}f", raw)):
        assert found == pytest.approx(direct, abs=1e-6)


async def test_fr_012_the_retries_of_a_client_outlast_a_slow_load(tmp_path, manifest):
    """A load that outlasts the budget, and a client as it comes: held, told when to come back, answered."""
    times = {"coldStartTimeout": "1s", "idleTimeout": "5s"}
    spec = manifest("m", "simulator", serverless=times, config={"loadSeconds": 1.8})
    seen: list[tuple[int, str, float]] = []
    began = time.monotonic()

    async def note(response: Any) -> None:
        seen.append((response.status_code, response.headers.get("Retry-After", ""), time.monotonic() - began))

    http = openai.DefaultAsyncHttpx2Client(event_hooks={"response": [note]})
    async with running(tmp_path, [write(tmp_path / "m.yaml", spec)]) as up, client() as session:
        # Once before, so that the wait it is told of is as long as a load, and not the 10 s of an unknown one.
        assert (await ask(session, up.url, "m")).status == 503
        await up.phase("m", "Ready")
        await up.phase("m", "Idle")
        async with openai_client(up.url, http_client=http) as ai:
            began = time.monotonic()
            # A busy machine may need more tries than the client's two.
            patient = ai.with_options(max_retries=6)
            answer = await patient.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])
        assert answer.choices[0].message.content
        assert await metric(session, up.url, "flexinfer_proxy_scale_ups_total", model="m") == 2
    assert {status for status, _, _ in seen[:-1]} == {503}
    assert seen[-1][0] == 200
    assert 0.9 <= seen[0][2] < 5
    assert 1 <= int(seen[0][1]) <= 60
    assert seen[1][2] - seen[0][2] >= 0.9 * int(seen[0][1])
    assert len(list((tmp_path / "state" / "logs" / "m").glob("*.log"))) == 2
