"""A Model of a server that runs elsewhere: watched while awake, called by proxies alone, only where that is allowed."""

from __future__ import annotations

from datetime import UTC, datetime

from tests.support.asking import ask, client
from tests.support.cluster.cluster import Cluster
from tests.support.cluster.controlplane import BRIDGE
from tests.support.cluster.kubelet import TestKubelet
from tests.support.cluster.manager import Operator, conditions, operator
from tests.support.cluster.nodes import NodeRow
from tests.support.cluster.proxies import RIGHTS, proxy, replica
from tests.support.waiting import until

from flexinfer.api.meta import ObjectKey
from flexinfer.kube.store import ENDPOINT_SLICES, Object
from flexinfer.kube.wiretime import wire_time

ALLOWED = {"FLEXINFER_ALLOW_UPSTREAM": f"{BRIDGE}/32"}


async def slice_of(manager: Operator, name: str) -> Object:
    return await manager.cluster.admin.get(ENDPOINT_SLICES, ObjectKey(manager.namespace, f"{name}-external"))


async def test_a_request_wakes_it_and_is_answered_by_the_server_elsewhere(cluster: Cluster):
    async with operator(cluster, env=ALLOWED) as manager, replica("theirs") as port:
        source = f"http://{BRIDGE}:{port}"
        await manager.apply("far", backend="external", source=source, config={"servedModelName": "theirs"})
        await manager.phase("far", "Idle")
        assert [name for name in await manager.left() if "deployment" in name] == []
        who = await cluster.identity("proxy", namespace=manager.namespace, rules=RIGHTS)
        words = ("--namespace", manager.namespace, "--allow-upstream", f"{BRIDGE}/32")
        async with proxy(who, *words) as one, client() as session:
            await one.until_ready()
            answer = await ask(session, one.url, "far")
            assert answer.served, answer
        model = await manager.phase("far", "Ready")
        assert conditions(model)["Ready"][:2] == ("True", "BackendReady")
        found = await slice_of(manager, "far")
        assert (found["endpoints"][0]["addresses"], found["ports"][0]["port"]) == ([BRIDGE], port)
        await manager.quiet()
        await manager.cluster.kubectl("delete", "model", "far", "-n", manager.namespace)
        await manager.until_left([])


async def test_what_the_installation_does_not_list_is_never_dialled(cluster: Cluster):
    async with operator(cluster) as manager, replica("theirs") as port:
        await manager.apply("far", backend="external", source=f"http://{BRIDGE}:{port}")
        await manager.ask("far", wire_time(datetime.now(UTC)))
        model = await manager.phase("far", "Failed")
        assert conditions(model)["Loaded"][1:] == (
            "AddressNotAllowed",
            f"{BRIDGE} is not among the addresses that this installation allows (`allowUpstream` of the chart)",
        )


async def test_pods_take_the_place_of_a_server_and_leave_it_again(cluster: Cluster, kubelet: TestKubelet):
    await cluster.nodes([NodeRow("plain")])
    pinned = {"serverless": {"minReplicas": 1}}
    async with operator(cluster, env=ALLOWED) as manager, replica("theirs") as port:
        elsewhere = {"backend": "external", "source": f"http://{BRIDGE}:{port}"}
        await manager.apply("m", **elsewhere, **pinned)
        await manager.phase("m", "Ready")
        await manager.apply("m", **pinned)
        assert (await manager.phase("m", "Ready"))["status"]["backend"] == "simulator"
        await manager.apply("m", **elsewhere, **pinned)
        await manager.phase("m", "Ready")

        async def no_pods() -> bool:
            return [name for name in await manager.left() if not name.startswith("endpointslice")] == ["service/m"]

        await until(no_pods, 60, every_s=0.2)
        assert (await manager.model("m"))["status"]["phase"] == "Ready"
