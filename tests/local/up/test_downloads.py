"""Models of the hub: fetched when they are applied, shown, resumed, shared, refused with a reason."""

import asyncio
import os
from pathlib import Path

import aiohttp
import pytest
from tests.local.up.test_commands import call
from tests.support.hub import Hub
from tests.support.running import running, write

from flexinfer.engine import demo_model
from flexinfer.local import keeper as wire

SMALL = {"contextSize": 512}


@pytest.fixture
def hub():
    with Hub() as hub:
        yield hub


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "demo.gguf"
    demo_model.write(path)
    return path.read_bytes()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "models").mkdir()
    return tmp_path


async def ask(up, model, **headers):
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
    async with aiohttp.ClientSession() as client, client.post(f"{up.url}/v1/chat/completions", json=body) as answer:
        return answer.status, dict(answer.headers), await answer.json()


def said(answer):
    return answer["choices"][0]["message"]["content"].strip()


async def until(condition, limit_s=10.0):
    deadline = asyncio.get_running_loop().time() + limit_s
    while not await condition():
        assert asyncio.get_running_loop().time() < deadline, "waited in vain"
        await asyncio.sleep(0.02)


async def test_a_repository_is_fetched_when_it_is_applied_and_answers(folder, hub, weights, manifest):
    hub.add("org/demo", {"demo.gguf": weights, "README.md": b"words"})
    hub.fault("demo.gguf", bytes_per_s=300_000)
    file = write(folder / "m.yaml", manifest("demo", source="HF://org/demo", config=SMALL))
    async with running(folder, [file], env=hub.env(folder)) as up:
        seen = []

        async def moves():
            status = (await up.model("demo")).status
            seen.append((status.phase, status.loading_substage, status.loading_progress, status.tier))
            return status.phase == "Idle"

        await until(moves)
        downloading = [one for one in seen if one[:2] == ("Pending", "Downloading")]
        assert downloading, seen
        assert any(one[2] for one in downloading), seen
        assert {one[3] for one in downloading} == {"cold"}
        assert (await up.model("demo")).status.tier == "cached"
        status, _, answer = await ask(up, "demo")
        assert (status, said(answer)) == (200, demo_model.SENTENCE)
