"""The simulated vLLM beside the recorded one: errors, metrics and streams have the same shapes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import aiohttp
import pytest

RECORDS = Path(__file__).parents[2] / "data" / "engines" / "vllm-0.32.0"
CASES = {case["case"]: case for case in json.loads((RECORDS / "errors.json").read_text())}
# What the simulator knows of vLLM's requests; it reads no sampling parameters, tools, images or adapters.
PLAYED = (
    "unknown model, chat", "unknown model, completions", "no messages", "broken json", "wrong type", "max_tokens -1",
    "embeddings on a generate server", "no such path", "wrong method", "one model by id",
)  # fmt: skip


def shape(body: Any) -> Any:
    """Of an error what does not depend on the words: its kind and its number."""
    error = body.get("error")
    return (error["type"], error["code"], sorted(error)) if error else body


def samples(text: str) -> dict[str, str]:
    """Name -> kind and the names of its labels."""
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    found = {}
    for name, labels in re.findall(r"^(vllm:[^{ ]+)(?:\{(.*)\})? \S+$", text, re.MULTILINE):
        family = re.sub(r"_(bucket|count|sum)$", "", name)
        kind = kinds[family] if kinds.get(family) == "histogram" else kinds[name]
        found[name] = f"{kind} {','.join(sorted(re.findall(r'([a-z_]+)=', labels)))}"
    return found


def events(text: str) -> list[Any]:
    lines = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def outline(chunk: Any) -> Any:
    """What a reader of a stream goes by: role, whether it speaks, how it ends, whether it counts."""
    if chunk == "[DONE]":
        return chunk
    if not chunk["choices"]:
        return sorted(chunk["usage"])[:1]
    (choice,) = chunk["choices"]
    return (chunk["object"], sorted(choice["delta"]), choice["finish_reason"])


@pytest.mark.parametrize("name", PLAYED)
async def test_an_error_has_the_recorded_status_and_kind(start: Any, name: str) -> None:
    simulator = await start(engine="vllm", models=("tiny",), embeddings=False)
    case = CASES[name]
    asked = case["request"]
    body = asked.get("raw") or json.dumps(asked["body"]) if asked["method"] == "POST" else None
    async with aiohttp.ClientSession() as session:
        headers = {"Content-Type": "application/json"}
        async with session.request(
            asked["method"], simulator.url + asked["path"], data=body, headers=headers
        ) as answer:
            found = (answer.status, shape(await answer.json()))
    assert found == (case["status"], shape(case["body"]))
    if name.startswith("unknown model"):
        assert (case["body"]["error"]["message"]) == "The model `nope` does not exist. Valid aliases: tiny."


async def test_every_metric_is_a_recorded_one_with_its_kind_and_labels(start: Any) -> None:
    simulator = await start(engine="vllm", models=("tiny",))
    async with aiohttp.ClientSession() as session, session.get(f"{simulator.url}/metrics") as answer:
        found = samples(await answer.text())
    recorded = {}
    for line in (RECORDS / "metrics.txt").read_text().splitlines():
        name, kind, labels = line.split(" ", 2)
        recorded[name] = f"{kind} {labels}"
    # The cache's sizes are labels, of which the simulator has a few.
    assert found.pop("vllm:cache_config_info").startswith("gauge block_size,engine,kv_cache_size_tokens")
    assert {name: recorded.get(name) for name in found} == found
    assert len(found) > 15


async def test_a_stream_goes_as_the_recorded_one(start: Any) -> None:
    simulator = await start(engine="vllm", models=("tiny",), output_tokens=24)
    body = {
        "model": "tiny", "messages": [{"role": "user", "content": "x"}], "stream": True, "max_tokens": 24,
        "stream_options": {"include_usage": True},
    }  # fmt: skip
    url = f"{simulator.url}/v1/chat/completions"
    async with aiohttp.ClientSession() as session, session.post(url, json=body) as answer:
        kind, found = answer.headers["Content-Type"], events(await answer.text())
    recorded = events((RECORDS / "chat.sse").read_text())
    assert kind == "text/event-stream; charset=utf-8"
    assert [outline(chunk) for chunk in (*found[:2], *found[-3:])] == [
        outline(chunk) for chunk in (*recorded[:2], *recorded[-3:])
    ]
    assert set(found[0]) <= set(recorded[0])


@pytest.mark.parametrize(("how", "file"), [("abort", "end-abort.sse"), ("error", "end-error.sse")])
async def test_a_stream_that_sigterm_cuts_ends_as_recorded(start: Any, how: str, file: str) -> None:
    simulator = await start(engine="vllm", models=("tiny",), faults=_break(how))
    body = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "stream": True}
    url = f"{simulator.url}/v1/chat/completions"
    async with aiohttp.ClientSession() as session, session.post(url, json=body) as answer:
        *_, last, end = events(await answer.text())
    *_, recorded, recorded_end = events((RECORDS / file).read_text())
    assert (end, recorded_end) == ("[DONE]", "[DONE]")
    if how == "abort":
        assert outline(last)[2] == outline(recorded)[2] == "abort"
    else:
        assert {**last["error"], "message": ""} == {**recorded["error"], "message": ""}


def _break(how: str) -> Any:
    from flexinfer.sim.faults import Faults

    return Faults(break_after=3, break_how=how)  # type: ignore[arg-type]
