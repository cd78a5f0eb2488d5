"""Where the pods of Models go on a mixed cluster, and what they are told of their devices and of lost nodes."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from tests.cluster.test_operator_faults import PINNED
from tests.support.cluster.cluster import Cluster
from tests.support.cluster.kubelet import TestKubelet
from tests.support.cluster.manager import Operator, conditions, operator
from tests.support.cluster.nodes import NodeRow
from tests.support.cluster.pods import Pod, is_ready

NODES = (
    NodeRow("nvidia", card="l4", gpus=4),
    NodeRow("amd", card="rx-7900-xtx", gpus=3),
    NodeRow("old", card="gtx-980-ti"),
    # One of them is lost: none that another Model needs.
    NodeRow("plain", count=3, labels={"cluster.test/cards": "none"}),
)
MODELS: dict[str, dict[str, Any]] = {
    "auto": {"gpu": {"count": 2}},
    "on-amd": {"gpu": {"vendor": "amd"}},
    "on-cpu": {
        "serverless": {"minReplicas": 2},
        "resources": {"requests": {"cpu": "1"}},
        "nodeSelector": {"cluster.test/cards": "none"},
    },
}


async def test_f25_auto_chooses_vendors_do_not_fall_back_and_a_lost_node_is_left(
    cluster: Cluster, kubelet: TestKubelet
):
    await cluster.nodes(NODES)
    classes = "/apis/node.k8s.io/v1/runtimeclasses"
    await cluster.rest.create(classes, {"metadata": {"name": "nvidia"}, "handler": "nvidia"})
    try:
        async with operator(cluster) as manager:
            for name, spec in MODELS.items():
                await manager.apply(name, **(PINNED | spec))
            await asyncio.gather(
                on_two_gpus(manager), on_amd(manager), on_the_cpu(cluster, manager), one_of_a_group(manager)
            )
    finally:
        await cluster.rest.delete(f"{classes}/nvidia")


async def on_two_gpus(manager: Operator) -> None:
    model = await manager.phase("auto", "Ready")
    gpu = model["status"]["gpu"]
    assert gpu == {"node": "nvidia-0", "vendor": "nvidia", "architecture": "sm_89", "memoryMB": 23034}
    [pod] = await pods_of(manager, "auto")
    assert pod["spec"]["runtimeClassName"] == "nvidia"
    assert pod["spec"]["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": "2"}


async def on_amd(manager: Operator) -> None:
    model = await manager.phase("on-amd", "Ready")
    assert (model["status"]["gpu"]["node"], model["status"]["gpu"]["architecture"]) == ("amd-0", "gfx1100")
    [pod] = await pods_of(manager, "on-amd")
    assert "runtimeClassName" not in pod["spec"]
    assert pod["spec"]["securityContext"]["supplementalGroups"] == [109, 992]


async def one_of_a_group(manager: Operator) -> None:
    """Two GPUs would be free: one of the group runs all the same, the other when it has gone."""
    members = ("desk-1", "desk-2")
    for name in members:
        await manager.apply(name, **(PINNED | {"gpu": {"vendor": "amd", "shared": "desk"}}))
    phases: list[str] = []
    async with asyncio.timeout(40):
        while sorted(phases) != ["Pending", "Ready"]:
            await asyncio.sleep(0.2)
            phases = [str((await manager.model(name)).get("status", {}).get("phase")) for name in members]
    runs, waits = (members[phases.index(phase)] for phase in ("Ready", "Pending"))
    said = conditions(await manager.model(waits))["Schedulable"]
    assert said == ("False", "Preempted", f"the shared group desk runs one model, and {runs} has its place")
    assert await pods_of(manager, waits) == []
    await manager.apply(runs, replicas=0, **(PINNED | {"gpu": {"vendor": "amd", "shared": "desk"}}))
    await manager.phase(waits, "Ready", within_s=60)


async def on_the_cpu(cluster: Cluster, manager: Operator) -> None:
    """F25: two replicas on two nodes; one node is lost."""
    await manager.until_model("on-cpu", lambda model: model.get("status", {}).get("replicas") == 2)
    await manager.phase("on-cpu", "Ready")
    first, second = await ready_pods(manager, 2)
    assert first["spec"]["nodeName"] != second["spec"]["nodeName"]
    lost = first["spec"]["nodeName"]
    await cluster.rest.delete(f"/api/v1/nodes/{lost}")
    # What the garbage collector of pods does 40 s later with those of a node that is gone.
    path = f"/api/v1/namespaces/{manager.namespace}/pods/{first['metadata']['name']}"
    await cluster.rest.delete(path, grace_period_s=0)
    assert conditions(await manager.model("on-cpu"))["Ready"][0] == "True"
    await cluster.rest.until_gone(path)
    anew = await ready_pods(manager, 2)
    assert lost not in {pod["spec"]["nodeName"] for pod in anew}
    names = [pod["metadata"]["name"] for pod in anew]
    assert second["metadata"]["name"] in names


async def pods_of(manager: Operator, name: str) -> list[Pod]:
    path = f"/api/v1/namespaces/{manager.namespace}/pods?labelSelector=flexinfer.ai/model={name}"
    found = (await manager.cluster.rest.get(path))["items"]
    return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]


async def ready_pods(manager: Operator, count: int, within_s: float = 40.0) -> list[Pod]:
    deadline = time.monotonic() + within_s
    while len(found := [pod for pod in await pods_of(manager, "on-cpu") if is_ready(pod)]) != count:
        assert time.monotonic() < deadline, [pod["status"] for pod in await pods_of(manager, "on-cpu")]
        await asyncio.sleep(0.2)
    return found
