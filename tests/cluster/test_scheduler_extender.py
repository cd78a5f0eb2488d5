"""A control plane whose scheduler asks an extender: `own_settings` names it, and its word is heard."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from tests.support.cluster.cluster import Cluster
from tests.support.cluster.controlplane import BRIDGE, Settings
from tests.support.cluster.nodes import NodeRow

PORT = 18082


@pytest.fixture(scope="module")
def own_settings() -> Settings:
    extender = {
        "urlPrefix": f"http://{BRIDGE}:{PORT}",
        "filterVerb": "filter",
        "nodeCacheCapable": True,
        "ignorable": False,
        "httpTimeout": "2s",
    }
    return Settings(extenders=(extender,))


@pytest.fixture
async def asked() -> AsyncIterator[list[dict[str, Any]]]:
    """An extender that lets pods on nodes called `chosen-…` only; what it was asked."""
    questions: list[dict[str, Any]] = []

    async def answer(request: web.Request) -> web.Response:
        question = await request.json()
        questions.append(question)
        names = question["NodeNames"]
        passed = [name for name in names if name.startswith("chosen-")]
        failed = {name: "the test did not choose it" for name in names if name not in passed}
        return web.json_response({"NodeNames": passed, "FailedNodes": failed})

    app = web.Application()
    app.router.add_post("/filter", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, BRIDGE, PORT).start()
    yield questions
    await runner.cleanup()


async def test_the_scheduler_asks_the_extender_and_does_as_it_says(own_cluster: Cluster, asked: list[dict[str, Any]]):
    await own_cluster.nodes([NodeRow("other", count=5), NodeRow("chosen")])
    async with own_cluster.namespace() as ns:
        pod = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "example.test/c:1"}]}}
        await own_cluster.rest.create(f"/api/v1/namespaces/{ns}/pods", pod)
        async with asyncio.timeout(40):
            while "nodeName" not in (found := await own_cluster.rest.get(f"/api/v1/namespaces/{ns}/pods/p"))["spec"]:
                await asyncio.sleep(0.1)
    assert found["spec"]["nodeName"] == "chosen-0"
    assert [question["Pod"]["metadata"]["name"] for question in asked] == ["p"]
    assert sorted(asked[0]["NodeNames"]) == ["chosen-0", *(f"other-{index}" for index in range(5))]
