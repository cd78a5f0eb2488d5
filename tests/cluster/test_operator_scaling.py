"""How many replicas a Model has on a real control plane: by hand, by its load, and within its bound."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from aiohttp import web
from tests.support.cluster.cluster import Cluster
from tests.support.cluster.controlplane import BRIDGE
from tests.support.cluster.kubelet import TestKubelet
from tests.support.cluster.manager import Operator, conditions, operator
from tests.support.cluster.nodes import NodeRow

from flexinfer.controllers.inflight import METRICS_PORT
from flexinfer.kube.store import ENDPOINT_SLICES
from flexinfer.kube.wiretime import wire_time

PROXY = "flexinfer-proxy"


class Load:
    """What a proxy of the namespace tells of the Model m; `silent` tells nothing."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.in_flight = 0
        self.silent = False
        self.asked = 0

    async def metrics(self, _request: web.Request) -> web.Response:
        self.asked += 1
        labels = f'{{model="m",namespace="{self.namespace}"}}'
        return web.Response(
            text=f"flexinfer_proxy_active_connections{labels} {self.in_flight}\n", status=503 if self.silent else 200
        )


@asynccontextmanager
async def proxy_of(manager: Operator) -> AsyncIterator[Load]:
    """The metrics port of a proxy, where the slices of the proxies' Service lead."""
    load = Load(manager.namespace)
    app = web.Application()
    app.router.add_get("/metrics", load.metrics)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, BRIDGE, METRICS_PORT).start()
        slices: dict[str, Any] = {
            "metadata": {
                "name": PROXY,
                "namespace": manager.namespace,
                "labels": {"kubernetes.io/service-name": PROXY},
            },
            "addressType": "IPv4",
            "endpoints": [{"addresses": [BRIDGE], "conditions": {"ready": True}}],
            "ports": [{"name": "http", "port": 8080}],
        }
        await manager.cluster.admin.create(ENDPOINT_SLICES, slices)
        yield load
    finally:
        await runner.cleanup()


async def used(manager: Operator) -> None:
    await manager.ask("m", wire_time(datetime.now(UTC)))


async def replicas(manager: Operator, count: int) -> dict[str, Any]:
    """The Model once so many are Ready."""
    deployments = f"/apis/apps/v1/namespaces/{manager.namespace}/deployments/m"

    async def ready() -> int:
        found = await manager.cluster.rest.get(deployments)
        return int(found["status"].get("readyReplicas", 0)) if found["spec"]["replicas"] == count else -1

    async with asyncio.timeout(60):
        while await ready() != count:
            await asyncio.sleep(0.1)
    return await manager.until_model("m", lambda model: model["status"].get("replicas") == count)


async def test_by_hand_as_kubectl_scale_does_it(cluster: Cluster, kubelet: TestKubelet):
    await cluster.nodes([NodeRow("plain")])
    async with operator(cluster) as manager:
        await manager.apply("m", serverless={"maxReplicas": 3})
        await manager.phase("m", "Idle")
        await used(manager)
        await replicas(manager, 1)
        scale = ("scale", "model", "m", "-n", manager.namespace)
        await cluster.kubectl(*scale, "--current-replicas=1", "--replicas=2")
        await replicas(manager, 2)
        seen = json.loads(
            await cluster.kubectl(
                "get", "--raw", f"/apis/ai.flexinfer/v1alpha2/namespaces/{manager.namespace}/models/m/scale"
            )
        )
        assert (seen["spec"], seen["status"]) == (
            {"replicas": 2},
            {"replicas": 2, "selector": "flexinfer.ai/model=m"},
        )
        await cluster.kubectl(*scale, "--replicas=5")
        model = await replicas(manager, 3)
        limited = ("True", "TooManyReplicas", "spec.replicas is 5, spec.serverless.maxReplicas is 3")
        assert (model["spec"]["replicas"], conditions(model)["ScalingLimited"]) == (5, limited)
        await cluster.kubectl(*scale, "--replicas=0")
        model = await manager.phase("m", "Idle")
        assert "ScalingLimited" not in conditions(model)
        await replicas(manager, 0)


async def test_by_the_requests_in_flight(cluster: Cluster, kubelet: TestKubelet):
    await cluster.nodes([NodeRow("plain")])
    async with operator(cluster) as manager, proxy_of(manager) as load:
        await manager.apply("m", serverless={"maxReplicas": 3, "targetInFlight": 4})
        await manager.phase("m", "Idle")
        await used(manager)
        await replicas(manager, 1)
        load.in_flight = 7
        await replicas(manager, 2)
        load.in_flight = 100
        model = await replicas(manager, 3)
        assert conditions(model)["ScalingLimited"][2] == (
            "the requests in flight ask for 25, spec.serverless.maxReplicas is 3"
        )
        load.in_flight, load.silent, asked = 0, True, load.asked
        async with asyncio.timeout(30):
            while load.asked < asked + 2:
                await asyncio.sleep(0.1)
        await replicas(manager, 3)
