"""A Model on a real control plane: its children, its status, and what its pods are like."""

from __future__ import annotations

import aiohttp
from tests.support.cluster.cluster import Cluster
from tests.support.cluster.kubelet import TestKubelet
from tests.support.cluster.manager import conditions, operator
from tests.support.cluster.nodes import NodeRow
from tests.support.cluster.pods import Pods


async def test_a_pinned_model_is_served_by_its_pod_and_deleting_it_leaves_nothing(
    cluster: Cluster, kubelet: TestKubelet
):
    await cluster.nodes([NodeRow("plain")])
    async with operator(cluster) as manager:
        await manager.apply("m", serverless={"minReplicas": 1})
        model = await manager.phase("m", "Ready")
        told = conditions(model)
        assert {kind: (status, reason) for kind, (status, reason, _) in told.items()} == {
            "Cached": ("True", "Succeeded"),
            "Schedulable": ("True", "Schedulable"),
            "Loaded": ("True", "BackendReady"),
            "Ready": ("True", "BackendReady"),
            "ConfigValid": ("True", "ConfigValid"),
            "RolledOut": ("True", "RolledOut"),
        }
        status = model["status"]
        endpoint = f"http://m.{manager.namespace}.svc.cluster.local:8000"
        assert (status["endpoint"], status["replicas"], status["selector"]) == (endpoint, 1, "flexinfer.ai/model=m")
        pods = await cluster.rest.get(f"{Pods(cluster, manager.namespace).path}?labelSelector=flexinfer.ai/model=m")
        [pod] = pods["items"]
        async with (
            aiohttp.ClientSession() as client,
            client.get(f"http://{pod['status']['podIP']}:8000/v1/models") as answer,
        ):
            assert [one["id"] for one in (await answer.json())["data"]] == ["m"]
        await cluster.kubectl("delete", "model", "m", "-n", manager.namespace)
        await manager.gone("m")
        await manager.until_left([])
