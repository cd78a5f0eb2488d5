"""Our llama.cpp engine as a Deployment that a ServiceAccount applies with kubectl, until nothing of it is left."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
from tests.support.cluster.cluster import Cluster
from tests.support.cluster.identity import rule
from tests.support.cluster.kubelet import TestKubelet
from tests.support.cluster.nodes import NodeRow
from tests.support.processes import with_words
from tests.support.waiting import until

from flexinfer.engine.demo_model import SENTENCE

IMAGE = "ghcr.io/flexinfer/flexinfer:test"
MODEL = "/models/applied-by-kubectl.gguf"
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
LOCKED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
}


def manifest() -> dict[str, Any]:
    """An init container writes the tiny model, the engine serves it; both as a user who may nothing."""
    labels = {"app": "llama"}
    shared = {"image": IMAGE, "securityContext": LOCKED, "volumeMounts": [{"name": "models", "mountPath": "/models"}]}
    engine = {
        **shared,
        "name": "engine",
        "args": ["engine", "-m", MODEL, "--host", "0.0.0.0", "--port", "8080", "--alias", "tiny", "-t", "1"],
        "ports": [{"name": "http", "containerPort": 8080}],
        "readinessProbe": {"httpGet": {"path": "/health", "port": "http"}, "periodSeconds": 1},
        "resources": {"requests": {"cpu": "1", "memory": "256Mi"}, "limits": {"memory": "1Gi"}},
    }
    pod = {
        "nodeSelector": {"feature.node.kubernetes.io/cpu-cpuid.AVX512F": "true"},
        "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 5,
        "initContainers": [{**shared, "name": "weights", "args": ["demo-model", MODEL]}],
        "containers": [engine],
        "volumes": [{"name": "models", "emptyDir": {}}],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "llama"},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }


async def streamed(address: str) -> tuple[str, int]:
    """What the model says to a chat, and in how many pieces it came."""
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Who are you?"}], "stream": True}
    pieces = []
    async with (
        aiohttp.ClientSession() as client,
        client.post(f"http://{address}:8080/v1/chat/completions", json=body) as answer,
    ):
        assert (answer.status, answer.content_type) == (200, "text/event-stream")
        async for line in answer.content:
            if line.startswith(b"data: {"):
                choices = json.loads(line.removeprefix(b"data: "))["choices"]
                pieces += [choice["delta"].get("content") or "" for choice in choices]
    said = [piece for piece in pieces if piece]
    return "".join(said).strip(), len(said)


async def test_a_deployment_of_llamacpp_streams_and_leaves_nothing(cluster: Cluster, kubelet: TestKubelet):
    await cluster.nodes([NodeRow("plain", count=3, avx512=False), NodeRow("fast")])
    async with cluster.namespace(RESTRICTED) as ns:
        rules = [rule("apps", "deployments", "get list watch create patch"), rule("", "pods", "get list")]
        deployer = await cluster.identity("deployer", namespace=ns, rules=rules)
        await cluster.kubectl("apply", "-n", ns, "-f", "-", identity=deployer, stdin=manifest())
        await cluster.kubectl("rollout", "status", "-n", ns, "deployment/llama", "--timeout=50s", identity=deployer)
        pods = json.loads(await cluster.kubectl("get", "pods", "-n", ns, "-o", "json", identity=deployer))["items"]
        assert [pod["spec"]["nodeName"] for pod in pods] == ["fast-0"]

        said, pieces = await streamed(pods[0]["status"]["podIP"])
        assert said == SENTENCE
        assert pieces == len(SENTENCE.split())
        assert with_words(MODEL) != []
        assert {call.user for call in cluster.audit(resource="deployments", namespace=ns) if call.verb == "create"} == {
            deployer.user
        }
    await cluster.rest.until_gone(f"/api/v1/namespaces/{ns}")
    await until(lambda: not with_words(MODEL), 10)
    left = await cluster.kubectl("get", "pods,replicasets,deployments,endpointslices,events,pv", "-A", "-o", "name")
    assert [line for line in left.splitlines() if "llama" in line] == []
