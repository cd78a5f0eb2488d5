"""Truth in the status of a Model: whatever keeps its pods from serving is told, in the words of whoever knows it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

from tests.support.cluster.cluster import Cluster
from tests.support.cluster.kubelet import TestKubelet
from tests.support.cluster.manager import Operator, conditions, operator
from tests.support.cluster.nodes import NodeRow

from flexinfer.api.meta import ObjectKey
from flexinfer.kube.store import DEPLOYMENTS, Object
from flexinfer.kube.wiretime import wire_time

PINNED: dict[str, Any] = {"serverless": {"minReplicas": 1}}
NO_GPU_QUOTA = {
    "metadata": {"name": "no-gpu"},
    "spec": {"hard": {"requests.nvidia.com/gpu": "0"}},
}
CASES: dict[str, dict[str, Any]] = {
    "crashes": {"config": {"exitAfterSeconds": 0.2, "exitCode": 3}},
    "too-big": {"resources": {"limits": {"memory": "6Mi"}}},
    "no-image": {"image": "registry.test/nobody/none:1"},
    "wide": {"resources": {"requests": {"cpu": "1000"}}},
    "over-quota": {"gpu": {"vendor": "nvidia"}},
    "nowhere": {"gpu": {"vendor": "amd"}},
    "slow": {"config": {"loadSeconds": 20}, "serverless": {"coldStartTimeout": "1s"}},
}


async def test_f36_fr_037_fr_042_the_reason_has_the_words_of_whoever_knows_it(cluster: Cluster, kubelet: TestKubelet):
    await cluster.nodes([NodeRow("plain"), NodeRow("gpu", card="l4")])
    async with operator(cluster) as manager:
        quotas = f"/api/v1/namespaces/{manager.namespace}/resourcequotas"
        await cluster.rest.create(quotas, NO_GPU_QUOTA)
        for name, spec in CASES.items():
            await manager.apply(name, **spec)
            await manager.phase(name, "Idle")
        await rejected(manager)
        now = wire_time(datetime.now(UTC))
        for name in CASES:
            await manager.ask(name, now)
        await asyncio.gather(
            crashed(manager), out_of_memory(manager), not_pulled(manager), unschedulable(manager),
            over_quota(cluster, manager, f"{quotas}/no-gpu"), no_such_node(manager), goes_on(manager),
            falls_and_returns(manager),
        )  # fmt: skip
        await manager.quiet()


async def failed(manager: Operator, name: str) -> tuple[str, str]:
    """Reason and message; a Model that sleeps by itself gives its node's room back."""
    model = await manager.phase(name, "Failed")
    _, reason, message = conditions(model)["Loaded"]
    await replicas(manager, name, 0)
    return reason, message


async def replicas(manager: Operator, name: str, count: int) -> Object:
    async with asyncio.timeout(30):
        while True:
            found = await manager.cluster.admin.get(DEPLOYMENTS, ObjectKey(manager.namespace, name))
            if found["spec"]["replicas"] == count:
                return found
            await asyncio.sleep(0.1)


async def rejected(manager: Operator) -> None:
    """What the API server does not take is told in its words, and gone with the next spec."""
    await manager.apply("wrong", resources={"requests": {"cpu": "2"}, "limits": {"cpu": "1"}})
    reason, message = conditions(await manager.phase("wrong", "Failed"))["Ready"][1:]
    assert (reason, "must be less than or equal to cpu limit" in message) == ("Rejected", True)
    await manager.apply("wrong", resources={"requests": {"cpu": "1"}, "limits": {"cpu": "1"}})
    await manager.phase("wrong", "Idle")


async def crashed(manager: Operator) -> None:
    reason, message = await failed(manager, "crashes")
    assert reason == "CrashLoopBackOff"
    assert "the engine ended 3 times (restarts: 3), last with exit code 3" in message
    assert len(message.splitlines()) > 1, "without the engine's own last words"


async def out_of_memory(manager: Operator) -> None:
    reason, message = await failed(manager, "too-big")
    assert reason == "OOMKilled"
    assert "exit code 137, OOMKilled: it took more than its memory limit of 6Mi" in message


async def not_pulled(manager: Operator) -> None:
    reason, message = await failed(manager, "no-image")
    assert reason == "ImagePullBackOff"
    assert "registry.test/nobody/none:1" in message


async def unschedulable(manager: Operator) -> None:
    model = await told(manager, "wide", "Unschedulable")
    assert conditions(model)["Schedulable"][1:] == conditions(model)["Ready"][1:]
    assert "Insufficient cpu" in conditions(model)["Schedulable"][2]


async def no_such_node(manager: Operator) -> None:
    model = await told(manager, "nowhere", "NoMatchingNodes")
    assert "none of the 2 Ready nodes has a GPU of amd" in conditions(model)["Schedulable"][2]


async def over_quota(cluster: Cluster, manager: Operator, quota: str) -> None:
    """It starts without being touched once there is room."""
    model = await told(manager, "over-quota", "QuotaExceeded")
    assert "exceeded quota: no-gpu" in conditions(model)["Schedulable"][2]
    await cluster.rest.call(
        "PATCH",
        quota,
        {"spec": {"hard": {"requests.nvidia.com/gpu": "2"}}},
        content_type="application/merge-patch+json",
    )
    model = await manager.phase("over-quota", "Ready", within_s=90)
    assert (model["status"]["gpu"]["vendor"], model["status"]["gpu"]["node"]) == ("nvidia", "gpu-0")


async def goes_on(manager: Operator) -> None:
    """fr-040: a load is followed in the engine's own words, and has its limit from the last of them on."""
    model = await manager.until_model("slow", lambda model: model["status"].get("loadingProgress"), within_s=60)
    assert (model["status"]["phase"], model["status"]["loadingSubstage"]) == ("Loading", "LoadingWeights")
    assert model["status"]["loadingProgressAt"] > model["status"]["loadingStartedAt"]
    await manager.phase("slow", "Ready")


async def told(manager: Operator, name: str, reason: str) -> Object:
    def so(model: Object) -> bool:
        return conditions(model).get("Schedulable", ("", "", ""))[1] == reason

    model = await manager.until_model(name, so)
    assert model["status"]["phase"] == "Pending"
    return model


async def falls_and_returns(manager: Operator) -> None:
    """fr-037: Ready is False from the first exit until it answers again. A pinned model is left to the kubelet, which
    goes on trying; its failure is told all the same."""
    name, crashing = "pinned", {"exitAfterSeconds": 4, "exitCode": 1}
    await manager.apply(name, config=crashing, **PINNED)
    await manager.phase(name, "Ready")
    fallen = await manager.until_model(name, lambda model: conditions(model)["Ready"][0] == "False")
    assert conditions(fallen)["Ready"][1] in ("EngineExited", "CrashLoopBackOff")
    assert "the engine ended once" in conditions(fallen)["Ready"][2]
    again = await manager.phase(name, "Ready")
    assert conditions(again)["Ready"][:2] == ("True", "BackendReady")
    gave_up = await manager.phase(name, "Failed", within_s=60)
    assert conditions(gave_up)["Loaded"][1] == "CrashLoopBackOff"
    await replicas(manager, name, 1)
    mended = await manager.apply(name, config={"slots": 2}, **PINNED)
    assert mended["metadata"]["generation"] == 2
    await manager.phase(name, "Ready")
