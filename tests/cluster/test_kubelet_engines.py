"""Engines in pods of the process kubelet: llama.cpp is the real one, the others speak their own APIs."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from tests.golden import test_pod_plans
from tests.support.cluster.cluster import Cluster
from tests.support.cluster.kubelet import TestKubelet
from tests.support.cluster.nodes import NodeRow
from tests.support.cluster.pods import Pods

from flexinfer import backends
from flexinfer.backends.images import IMAGES
from flexinfer.engine.demo_model import SENTENCE

OURS = "ghcr.io/example/flexinfer:test"
CHAT = {"model": "m", "messages": [{"role": "user", "content": "Say it."}], "stream": True, "max_tokens": 64}


@pytest.fixture
async def pods(cluster: Cluster, kubelet: TestKubelet) -> AsyncIterator[Pods]:
    await cluster.nodes([NodeRow("n", card="l4", gpus=2)])
    async with cluster.namespace() as namespace:
        yield Pods(cluster, namespace)


def engine(image: str, port: int, path: str, *args: str, **more: Any) -> dict[str, Any]:
    probe = {"httpGet": {"path": path, "port": "http"}, "periodSeconds": 1}
    ports = [{"name": "http", "containerPort": port}]
    return {"name": "engine", "image": image, "args": list(args), "ports": ports, "readinessProbe": probe, **more}


async def streamed(address: str, port: int) -> str:
    """The words of a streamed chat answer."""
    async with (
        aiohttp.ClientSession() as client,
        client.post(f"http://{address}:{port}/v1/chat/completions", json=CHAT) as answer,
    ):
        assert answer.status == 200, await answer.text()
        lines = [
            line.removeprefix("data: ") for line in (await answer.text()).splitlines() if line.startswith("data: ")
        ]
    assert lines[-1] == "[DONE]"
    chunks = [json.loads(line) for line in lines[:-1]]
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"]).strip()


async def test_llamacpp_s_own_image_serves_a_model_that_a_claim_holds(cluster: Cluster, pods: Pods):
    """An init container of ours writes the model; the engine may read it, as a user with a read-only root."""
    claim = {
        "metadata": {"name": "models"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    await cluster.rest.create(f"/api/v1/namespaces/{pods.namespace}/persistentvolumeclaims", claim)
    mount = {"name": "models", "mountPath": "/models"}
    fill = {"name": "fill", "image": OURS, "args": ["demo-model", "/models/demo.gguf"], "volumeMounts": [mount]}
    serve = engine(
        IMAGES["llamacpp"]["cpu"][0].reference,
        8080,
        "/health",
        *("--host", "0.0.0.0", "--port", "8080", "--model", "/models/demo.gguf", "--alias", "m", "--threads", "1"),
        volumeMounts=[{**mount, "readOnly": True}],
        securityContext={"readOnlyRootFilesystem": True, "runAsUser": 1000},
        resources={"limits": {"memory": "1Gi"}},
    )
    await pods.create(
        serve,
        initContainers=[fill],
        terminationGracePeriodSeconds=5,
        volumes=[{"name": "models", "persistentVolumeClaim": {"claimName": "models"}}],
    )
    pod = await pods.ready()
    assert await streamed(pod["status"]["podIP"], 8080) == SENTENCE


@pytest.mark.parametrize(
    ("container", "port"),
    [
        pytest.param(
            engine(
                IMAGES["vllm"]["nvidia"][0].reference,
                8000,
                "/health",
                *("--model", "/models/x", "--served-model-name", "m", "--host", "0.0.0.0", "--max-model-len=4096"),
                "--trust-remote-code",
            ),
            8000,
            id="vLLM as its image starts it",
        ),
        pytest.param(
            engine(
                "lmsysorg/sglang:v0.5.3",
                30000,
                "/health",
                command=["python3", "-m", "sglang.launch_server", "--model-path", "m", "--host", "0.0.0.0"],
            ),
            30000,
            id="SGLang by its module",
        ),
        pytest.param(
            engine(
                IMAGES["ollama"]["nvidia"][0].reference,
                11434,
                "/",
                env=[{"name": "OLLAMA_HOST", "value": "0.0.0.0:11434"}],
            ),
            11434,
            id="Ollama listening where its variable says",
        ),
    ],
)
async def test_other_engines_answer_a_chat_from_their_pod(pods: Pods, container: dict[str, Any], port: int):
    await pods.create(container, terminationGracePeriodSeconds=2)
    pod = await pods.ready()
    if port != 11434:
        assert await streamed(pod["status"]["podIP"], port)
        return
    async with (
        aiohttp.ClientSession() as client,
        client.get(f"http://{pod['status']['podIP']}:{port}/api/tags") as answer,
    ):
        assert (answer.status, "models" in await answer.json()) == (200, True)


PLAYED = [one for one in backends.REGISTRY if one.process and one.name not in ("llamacpp", "simulator")]
ASKED: dict[str, tuple[str, dict[str, Any]]] = {
    "ollama": ("/api/pull", {"model": "llama3:8b", "stream": False}),
    "vllm-omni": ("/v1/images/generations", {"model": "chat", "prompt": "a cat"}),
    "diffusers": ("/v1/images/generations", {"prompt": "a cat"}),
    "comfyui": ("/prompt", {"prompt": {"3": {"class_type": "KSampler", "inputs": {}}}}),
}
"""What is asked of an engine that is no use for a chat."""


async def test_the_container_of_every_plan_gets_ready_and_answers(cluster: Cluster, pods: Pods):
    """Command, arguments, environment, user and port are as planned; the image is of the table, or one of ours."""
    for backend in PLAYED:
        plan = test_pod_plans.plan(backend, ())
        known = IMAGES.get(backend.name, {}).get("nvidia", ())
        image = known[0].reference if known else f"cluster.test/{backend.name}:1"
        container = engine(
            image,
            plan.port,
            plan.health_path,
            *plan.args,
            env=[{"name": name, "value": value} for name, value in plan.env.items()],
            securityContext={"runAsUser": plan.user},
        )
        if plan.container_command:
            container["command"] = list(plan.container_command)
        await pods.create(container, name=backend.name, terminationGracePeriodSeconds=2)
    for backend in PLAYED:
        pod = await pods.ready(backend.name)
        path, body = ASKED.get(backend.name, ("/v1/chat/completions", CHAT | {"model": "chat"}))
        url = f"http://{pod['status']['podIP']}:{backend.port}{path}"
        async with aiohttp.ClientSession() as client, client.post(url, json=body) as answer:
            assert answer.status == 200, (backend.name, await answer.text())
