"""A Model on a real control plane: its children, its status, and what its pods are like."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from tests.support.cluster.cluster import Cluster
from tests.support.cluster.kubelet import TestKubelet
from tests.support.cluster.manager import Operator, conditions, operator
from tests.support.cluster.nodes import NodeRow
from tests.support.cluster.pods import Pods


async def test_a_pinned_model_is_served_by_its_pod_and_deleting_it_leaves_nothing(
    cluster: Cluster, kubelet: TestKubelet
):
    """Under two managers, of which the one that leads is killed before the Model is deleted."""
    await cluster.nodes([NodeRow("plain")])
    async with operator(cluster, args=()) as manager, follower(manager) as second:
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
        assert (len(manager.logged("leading")), len(second.logged("leading"))) == (1, 0)
        await manager.end(signal.SIGKILL)
        await cluster.kubectl("delete", "model", "m", "-n", manager.namespace, "--wait=false")
        await second.gone("m")
        await second.until_left([])


@asynccontextmanager
async def follower(leader: Operator) -> AsyncIterator[Operator]:
    """Another manager with the same account, which waits for the lead."""
    one = Operator(leader.cluster, leader.namespace, leader.who, leader.env, leader.args)
    await leader.until(lambda: leader.logged("leading"), "nobody leads")
    await one.start()
    try:
        yield one
    finally:
        await one.end(signal.SIGKILL)
