"""A real vLLM in a pod of the test cluster, for a Model with `backend: vllm`: a chat, a stream, SIGTERM with it open.

Part of `make test-engines`; pytest runs it with the fixtures of the cluster tests (`-p tests.cluster.conftest`).
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.support.cluster.cluster import Cluster
from tests.support.cluster.kubelet import TestKubelet
from tests.support.cluster.manager import Operator, operator
from tests.support.cluster.nodes import NodeRow
from tests.support.cluster.pods import Pod, Pods, tools

ROOT = Path(__file__).parents[2]
ENVIRONMENT = ROOT / ".engines" / "vllm-0.32.0"
IMAGE = "cluster.test/vllm-for-cpus:1"
START_S = 400.0
LONG = 900
LOG_BYTES = 20_000
ASKED: dict[str, Any] = {
    "model": "tiny",
    "messages": [{"role": "user", "content": "one two three"}],
    "ignore_eos": True,
}


@pytest.fixture
async def manager(cluster: Cluster, kubelet: TestKubelet) -> AsyncIterator[Operator]:
    """A manager, a node, the image, and a claim with the tiny model in it."""
    await cluster.nodes([NodeRow("n")])
    kubelet.image(IMAGE, env={"PATH": f"{ENVIRONMENT}/bin:/usr/bin:/bin"})
    async with operator(cluster) as one:
        pods = Pods(cluster, one.namespace)
        claim = {
            "metadata": {"name": "models"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        }
        await cluster.rest.create(f"/api/v1/namespaces/{one.namespace}/persistentvolumeclaims", claim)
        mounted = [{"name": "models", "persistentVolumeClaim": {"claimName": "models"}}]
        copy = tools(
            f"cp -r {ROOT}/.engines/tiny/model /models/", volumeMounts=[{"name": "models", "mountPath": "/models"}]
        )
        await pods.create(copy, name="fill", volumes=mounted, restartPolicy="Never")
        assert (await pods.ended("fill"))["status"]["phase"] == "Succeeded"
        yield one


async def events(answer: aiohttp.ClientResponse) -> list[str]:
    return [line[6:].decode().strip() async for line in answer.content if line.startswith(b"data: ")]


async def started(cluster: Cluster, manager: Operator, pods: Pods) -> Pod:
    """The pod once its Model is Ready; an engine that ends before that fails with what it said."""
    deadline = time.monotonic() + START_S
    said: list[str] = []
    while True:
        listed = await cluster.rest.get(f"{pods.path}?labelSelector=flexinfer.ai/model=tiny")
        states = [state for pod in listed["items"] for state in pod["status"].get("containerStatuses") or ()]
        if any(state["restartCount"] for state in states):
            name = listed["items"][0]["metadata"]["name"]
            said.append(await cluster.kubectl("logs", "-n", manager.namespace, name, "--previous"))
        if said or time.monotonic() > deadline:
            pytest.fail(f"not Ready; vLLM said:\n{''.join(said)[-LOG_BYTES:]}", pytrace=False)
        model = await manager.model("tiny")
        if (model.get("status") or {}).get("phase") == "Ready":
            [pod] = listed["items"]
            return pod
        await asyncio.sleep(1)


async def test_a_model_with_backend_vllm_serves_from_its_pod(cluster: Cluster, manager: Operator) -> None:
    await manager.apply(
        "tiny",
        backend="vllm",
        source="pvc://models/model",
        image=IMAGE,
        serverless={"minReplicas": 1, "coldStartTimeout": "10m"},
        config={"maxModelLen": 1024, "maxNumSeqs": 4, "enforceEager": True, "cpuKvCacheGiB": 1},
        resources={"limits": {"memory": "8Gi"}},
    )
    began = time.monotonic()
    pods = Pods(cluster, manager.namespace)
    pod = await started(cluster, manager, pods)
    print(f"\nReady after {time.monotonic() - began:.0f} s", flush=True)
    url = f"http://{pod['status']['podIP']}:8000/v1/chat/completions"
    async with aiohttp.ClientSession() as client:
        async with client.post(url, json=ASKED | {"max_tokens": 8}) as answer:
            whole = await answer.json()
            assert (answer.status, whole["choices"][0]["finish_reason"]) == (200, "length"), whole
        async with client.post(url, json=ASKED | {"max_tokens": LONG, "stream": True}) as answer:
            assert answer.status == 200
            await answer.content.readline()
            began = time.monotonic()
            await pods.delete(pod["metadata"]["name"])
            found = await events(answer)
    ends = json.loads(found[-2])["choices"][0]["finish_reason"]
    assert (found[-1], ends) == ("[DONE]", "length")
    await asyncio.wait_for(pods.gone(pod["metadata"]["name"], 60), 90)
    print(f"the open stream ended whole, the pod was gone after {time.monotonic() - began:.1f} s", flush=True)
