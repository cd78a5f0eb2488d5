"""Simulated engines that make images."""

from __future__ import annotations

import base64
from typing import Any

import aiohttp
import pytest

WORKFLOW = {"prompt": {"3": {"class_type": "KSampler", "inputs": {}}}}


async def asked(method: str, url: str, body: Any = None) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as session, session.request(method, url, json=body) as answer:
        return answer.status, await answer.json(content_type=None)


@pytest.mark.parametrize("engine", ["vllm-omni", "diffusers"])
async def test_images_are_png_of_the_size_that_was_asked_for(start: Any, engine: str) -> None:
    simulator = await start(engine=engine)
    body = {"model": "m", "prompt": "a cat", "n": 2, "size": "32x16"}
    status, found = await asked("POST", f"{simulator.url}/v1/images/generations", body)
    images = [base64.b64decode(one["b64_json"]) for one in found["data"]]
    assert (status, len(images), images[0] != images[1]) == (200, 2, True)
    assert all(image.startswith(b"\x89PNG") and image[16:24] == bytes([0, 0, 0, 32, 0, 0, 0, 16]) for image in images)
    assert simulator.stats.completed == 1


@pytest.mark.parametrize(
    ("body", "status"),
    [
        pytest.param({}, 400, id="no prompt"),
        pytest.param({"prompt": "x", "size": "big"}, 400, id="no size"),
        pytest.param({"prompt": "x", "num_inference_steps": 0}, 400, id="no steps"),
    ],
)
async def test_what_makes_no_image_is_refused(start: Any, body: Any, status: int) -> None:
    simulator = await start(engine="diffusers")
    assert (await asked("POST", f"{simulator.url}/v1/images/generations", body))[0] == status


async def test_an_engine_for_images_has_no_chat(start: Any) -> None:
    simulator = await start(engine="diffusers")
    assert (await asked("POST", f"{simulator.url}/v1/chat/completions", {}))[0] == 404


async def test_a_workflow_is_queued_and_in_the_history(start: Any) -> None:
    simulator = await start(engine="comfyui")
    assert (await asked("GET", f"{simulator.url}/system_stats"))[0] == 200
    status, queued = await asked("POST", f"{simulator.url}/prompt", WORKFLOW)
    assert (status, queued["node_errors"]) == (200, {})
    _, history = await asked("GET", f"{simulator.url}/history/{queued['prompt_id']}")
    assert history[queued["prompt_id"]]["status"]["completed"] is True
    assert await asked("GET", f"{simulator.url}/history/other") == (200, {})
    assert await asked("GET", f"{simulator.url}/prompt") == (200, {"exec_info": {"queue_remaining": 0}})
