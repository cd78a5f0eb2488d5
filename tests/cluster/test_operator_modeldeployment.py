"""A ModelDeployment on a real control plane, as the manager's own account may keep it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from tests.support.cluster.cluster import Cluster
from tests.support.cluster.kubelet import TestKubelet
from tests.support.cluster.manager import Operator, conditions, operator
from tests.support.cluster.nodes import NodeRow

from flexinfer.api.meta import ObjectKey
from flexinfer.errors import NotFound
from flexinfer.kube.store import MODEL_DEPLOYMENTS, MODELS, Object
from flexinfer.kube.wiretime import wire_time


class Deployments:
    """The ModelDeployments of an operator's namespace."""

    def __init__(self, manager: Operator) -> None:
        self.manager = manager
        self.store = manager.cluster.admin

    async def apply(self, name: str, **spec: Any) -> Object:
        body = {
            "metadata": {"name": name, "namespace": self.manager.namespace},
            "spec": {"backend": "simulator", "model": "org/name", **spec},
        }
        return await self.store.apply(MODEL_DEPLOYMENTS, body, field_manager="user", force=True)

    async def until(self, name: str, what: Callable[[Object], Any]) -> Object:
        deadline = time.monotonic() + 40
        while True:
            found = await self.store.get(MODEL_DEPLOYMENTS, ObjectKey(self.manager.namespace, name))
            if "status" in found and what(found):
                return found
            assert time.monotonic() < deadline, f"still not so: {found.get('status')}\n{self.manager.log()[-4000:]}"
            await asyncio.sleep(0.05)

    async def gone(self, name: str) -> None:
        deadline = time.monotonic() + 40
        while time.monotonic() < deadline:
            try:
                await self.store.get(MODEL_DEPLOYMENTS, ObjectKey(self.manager.namespace, name))
            except NotFound:
                return
            await asyncio.sleep(0.05)
        raise AssertionError(self.manager.log()[-4000:])


async def test_it_is_served_by_the_model_that_it_makes(cluster: Cluster, kubelet: TestKubelet):
    await cluster.nodes([NodeRow("plain")])
    async with operator(cluster) as manager:
        old = Deployments(manager)
        await old.apply("m", minReplicas=1, modelCacheRef="shared", resources={"limits": {"nvidia.com/gpu": 0}})
        found = await old.until(
            "m", lambda one: one["status"].get("phase") == "Running" and "endpoints" in one["status"]
        )
        told = {kind: (status, reason) for kind, (status, reason, _) in conditions(found).items()}
        assert told == {
            "Ready": ("True", "DeploymentReady"),
            "ModelLoaded": ("True", "DeploymentReady"),
            "EndpointReady": ("True", "ServiceReady"),
            "Progressing": ("False", "DeploymentReady"),
            "NotYetEffective": ("True", "NotYetEffective"),
        }
        status = found["status"]
        assert (status["replicas"], status["selector"]) == (1, "flexinfer.ai/model=m")
        await manager.quiet()
        await cluster.kubectl("scale", "modeldeployment", "m", "--replicas=2", "-n", manager.namespace)
        # Unused it rests at minReplicas.
        await manager.ask("m", wire_time(datetime.now(UTC)))
        await old.until("m", lambda one: one["status"].get("replicas") == 2)
        assert (await manager.model("m"))["spec"]["replicas"] == 2
        columns = await cluster.kubectl("get", "modeldeployments", "m", "-n", manager.namespace)
        assert columns.split()[:9] == ["NAME", "BACKEND", "MODEL", "REPLICAS", "TPS", "m", "simulator", "org/name", "2"]
        await cluster.kubectl("delete", "modeldeployment", "m", "-n", manager.namespace, "--wait=false")
        await old.gone("m")
        await manager.gone("m")
        await manager.until_left([])


async def test_a_model_that_is_not_its_own_stays_as_it_is(cluster: Cluster):
    async with operator(cluster) as manager:
        old = Deployments(manager)
        await manager.apply("m", replicas=3)
        await manager.phase("m", "Idle")
        await manager.quiet()
        before = await manager.model("m")
        await old.apply("m")
        found = await old.until("m", lambda one: one["status"].get("phase") == "Failed")
        assert conditions(found)["Ready"][:2] == ("False", "NameTaken")
        await cluster.kubectl("delete", "modeldeployment", "m", "-n", manager.namespace, "--wait=false")
        await old.gone("m")
        assert await manager.model("m") == before
        await cluster.admin.delete(MODELS, ObjectKey(manager.namespace, "m"))
