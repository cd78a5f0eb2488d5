"""Reports on the names that models go by: with a slash, as an alias, under the engine's own name."""

from __future__ import annotations

import asyncio

import pytest
from openai import AsyncOpenAI
from tests.support.asking import client
from tests.support.proxy import answers, json_answer
from tests.support.running import running, write


async def test_fr_005_a_name_with_a_slash_is_listed_and_found(tmp_path, manifest, scripted):
    engine = await scripted(answers(json_answer()))
    name = "acme/tiny-chat:v1"
    source = f"http://127.0.0.1:{engine.port}"
    file = write(tmp_path / "m.yaml", manifest("tiny", "external", source, config={"servedModelName": name}))
    async with running(tmp_path, [file]) as up, client() as session:
        async with session.get(f"{up.url}/v1/models") as answer:
            listed = {model["id"]: model for model in (await answer.json())["data"]}
        assert name in listed
        for spelling in (name, "acme%2Ftiny-chat%3Av1", "acme%2ftiny-chat:v1", "acme/tiny-chat%3av1"):
            async with session.get(f"{up.url}/v1/models/{spelling}") as answer:
                assert (answer.status, await answer.json()) == (200, listed[name])
        async with AsyncOpenAI(base_url=f"{up.url}/v1", api_key="none", max_retries=0) as ai:
            assert (await ai.models.retrieve(name)).id == name
        async with session.get(f"{up.url}/v1/models/acme/tiny-chat:v2") as answer:
            error = (await answer.json())["error"]
        assert (answer.status, error["code"], name in error["message"]) == (404, "model_not_found", True)


@pytest.mark.parametrize("args", [pytest.param((), id="alone"), pytest.param(("--workers", "2"), id="two workers")])
async def test_fr_013_every_name_that_is_accepted_is_listed_once(tmp_path, manifest, scripted, args):
    engine = await scripted(answers(json_answer()))
    source = f"http://127.0.0.1:{engine.port}"
    names = {"aliases": ["gpt-4o-mini", "default"], "servedModelName": "qwen/qwen-small"}
    small = manifest("qwen-small", "external", source, litellm=names, serviceLabels=["chat"])
    parked = manifest("parked", "external", source, litellm={"enabled": False, "aliases": ["hidden"]})
    file = write(tmp_path / "m.yaml", small, parked)
    async with running(tmp_path, [file], *args) as up, client() as session:
        async with session.get(f"{up.url}/v1/models") as answer:
            listed = (await answer.json())["data"]
        expected = ["default", "gpt-4o-mini", "qwen-small", "qwen/qwen-small"]
        assert sorted((model["id"], model["root"]) for model in listed) == [(name, "qwen-small") for name in expected]
        for model in listed:
            assert (model["served_model_name"], model["service_labels"]) == ("qwen/qwen-small", ["chat"])
            assert model["aliases"] == ["qwen/qwen-small", "gpt-4o-mini", "default"]
        async with AsyncOpenAI(base_url=f"{up.url}/v1", api_key="none", max_retries=0) as ai:
            for name in expected:
                assert (await ai.models.retrieve(name)).id == name
                body = {"model": name, "messages": [{"role": "user", "content": "hi"}]}
                async with session.post(f"{up.url}/v1/chat/completions", json=body) as answer:
                    assert answer.status == 200
        for name in ("parked", "hidden"):
            body = {"model": name, "messages": [{"role": "user", "content": "hi"}]}
            async with session.post(f"{up.url}/v1/chat/completions", json=body) as answer:
                assert (answer.status, (await answer.json())["error"]["code"]) == (404, "model_not_found")
            async with session.get(f"{up.url}/v1/models/{name}") as answer:
                assert answer.status == 404


async def test_an_alias_that_two_models_want_is_the_first_ones_and_both_say_so(tmp_path, manifest, scripted):
    engine = await scripted(answers(json_answer()))
    source = f"http://127.0.0.1:{engine.port}"
    one = manifest("b-model", "external", source, litellm={"aliases": ["shared", "own"]})
    two = manifest("a-model", "external", source, litellm={"aliases": ["shared"]})
    file = write(tmp_path / "m.yaml", one, two)
    async with running(tmp_path, [file]) as up, client() as session:
        async with session.get(f"{up.url}/v1/models/shared") as answer:
            assert (await answer.json())["root"] == "a-model"
        for name in ("a-model", "b-model"):
            await up.phase(name, "Idle", "Ready")
            condition = (await up.model(name)).condition("ConfigValid")
            assert condition is not None
            said = "the name 'shared' leads to Model a-model, b-model wants it as well"
            assert (condition.status, condition.reason, condition.message) == ("False", "AliasConflict", said)
        one["spec"]["litellm"] = {"aliases": ["own"]}
        write(file, one, two)
        async with session.get(f"{up.url}/v1/models/own") as answer:
            assert answer.status == 200
        async with asyncio.timeout(10):
            while (await up.model("a-model")).condition("ConfigValid").status != "True":
                await asyncio.sleep(0.02)
