"""The control plane of the cluster tests: what it is, who may do what on it, and what is written on it at rest."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import pytest
from tests.support.cluster.cluster import Cluster
from tests.support.cluster.controlplane import ControlPlane, NotStarted, Settings, tools_folder
from tests.support.cluster.identity import rule
from tests.support.cluster.kubectl import KubectlFailed, run_kubectl
from tests.support.cluster.nodes import NOT_READY, NodeRow
from tests.support.cluster.rest import Refused

POD = {"containers": [{"name": "c", "image": "example.test/c:1"}]}


def deployment(name: str, replicas: int = 1, **pod: Any) -> dict[str, Any]:
    labels = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {**POD, **pod}},
        },
    }


async def test_it_is_healthy_within_seconds(cluster: Cluster):
    assert cluster.plane.started_in_s < 30
    version = await cluster.rest.get("/version")
    assert version["gitVersion"].startswith("v1.")


def test_nothing_leads_out_of_the_namespace():
    with pytest.raises(OSError, match="unreachable"):
        socket.create_connection(("192.0.2.1", 443), timeout=5)


async def test_kubectl_applies_what_the_schema_allows_and_refuses_what_it_does_not(cluster: Cluster):
    async with cluster.namespace() as ns:
        said = await cluster.kubectl("apply", "-n", ns, "-f", "-", stdin=deployment("d"))
        assert said == "deployment.apps/d created\n"
        with pytest.raises(KubectlFailed, match=r'unknown field "spec.template.spec.colour"'):
            await cluster.kubectl("apply", "-n", ns, "-f", "-", stdin=deployment("e", colour="blue"))


async def test_controllers_and_the_scheduler_act(cluster: Cluster):
    """A Deployment becomes a ReplicaSet, that a pod, and that is bound to the declared node with room for it."""
    await cluster.nodes([NodeRow("small", count=3, cpu="1"), NodeRow("large", cpu="64")])
    async with cluster.namespace() as ns:
        wanted = {**POD["containers"][0], "resources": {"requests": {"cpu": "32"}}}
        await cluster.kubectl("apply", "-n", ns, "-f", "-", stdin=deployment("d", containers=[wanted]))
        assert await bound_nodes(cluster, ns, 1) == ["large-0"]


async def bound_nodes(cluster: Cluster, ns: str, count: int) -> list[str]:
    """The nodes of the pods of a namespace, once `count` of them are bound."""
    async with asyncio.timeout(40):
        while True:
            pods = await cluster.rest.get(f"/api/v1/namespaces/{ns}/pods")
            found = [pod["spec"]["nodeName"] for pod in pods["items"] if "nodeName" in pod["spec"]]
            if len(found) >= count:
                return found
            await asyncio.sleep(0.1)


async def test_nodes_are_declared_by_the_hundred_and_gone_after_the_test(control_plane: ControlPlane):
    table = [
        NodeRow("rtx", count=100, card="rtx-4090", gpus=2, cost_per_hour=0.8),
        NodeRow("mi", count=100, card="mi300x", gpus=8, cost_per_hour=12.0),
        NodeRow("arc", count=50, card="arc-a770"),
        NodeRow("cpu", count=50, avx512=False),
        NodeRow("broken", count=2, card="h100", ready=False),
    ]
    async with Cluster(control_plane) as cluster:
        names = await cluster.nodes(table)
        assert (len(names), names[0], names[-1]) == (302, "rtx-0", "broken-1")
        node = await cluster.rest.get("/api/v1/nodes/mi-7")
        assert node["status"]["allocatable"] == {"cpu": "16", "memory": "64Gi", "pods": "110", "amd.com/gpu": "8"}
        assert node["metadata"]["labels"]["gpu.amd.com/gpu-architecture"] == "gfx942"
        assert node["metadata"]["annotations"]["flexinfer.ai/cost"] == "12.0"
        broken = await cluster.rest.get("/api/v1/nodes/broken-0")
        assert NOT_READY in [taint["key"] for taint in broken["spec"]["taints"]]
    async with Cluster(control_plane) as cluster:
        assert (await cluster.rest.get("/api/v1/nodes"))["items"] == []


async def test_a_namespace_ends_with_all_that_is_in_it(cluster: Cluster):
    async with cluster.namespace() as ns:
        await cluster.kubectl("create", "configmap", "-n", ns, "c")
    await cluster.rest.until_gone(f"/api/v1/namespaces/{ns}")


async def test_pod_security_refuses_what_the_namespace_forbids(cluster: Cluster):
    host = {"volumes": [{"name": "h", "hostPath": {"path": "/"}}], **POD}
    async with cluster.namespace({"pod-security.kubernetes.io/enforce": "baseline"}) as ns:
        with pytest.raises(Refused, match='violates PodSecurity \\\\"baseline:latest\\\\": hostPath'):
            await cluster.rest.create(f"/api/v1/namespaces/{ns}/pods", {"metadata": {"name": "p"}, "spec": host})
    async with cluster.namespace() as ns:
        await cluster.rest.create(f"/api/v1/namespaces/{ns}/pods", {"metadata": {"name": "p"}, "spec": host})


async def test_an_identity_may_do_what_its_rules_say_and_nothing_else(cluster: Cluster):
    async with cluster.namespace() as ns, cluster.namespace() as other:
        rules, cluster_rules = [rule("", "configmaps", "create get")], [rule("", "nodes", "list")]
        someone = await cluster.identity("someone", namespace=ns, rules=rules, cluster_rules=cluster_rules)
        assert await cluster.kubectl(
            "auth", "whoami", "-o", "jsonpath={.status.userInfo.username}", identity=someone
        ) == (f"system:serviceaccount:{ns}:someone")
        await cluster.kubectl("create", "configmap", "-n", ns, "c", identity=someone)
        await cluster.kubectl("get", "nodes", identity=someone)
        with pytest.raises(KubectlFailed, match="cannot create resource"):
            await cluster.kubectl("create", "configmap", "-n", other, "c", identity=someone)
        with pytest.raises(KubectlFailed, match="cannot delete resource"):
            await cluster.kubectl("delete", "configmap", "-n", ns, "c", identity=someone)
        assert someone.token_file.read_text() == someone.token


async def test_what_an_identity_may_do_in_the_whole_cluster_goes_with_the_test(control_plane: ControlPlane):
    async with Cluster(control_plane) as cluster:
        someone = await cluster.identity("passing", cluster_rules=[rule("", "nodes", "list")])
        await cluster.kubectl("get", "nodes", identity=someone)
    async with Cluster(control_plane) as cluster:
        with pytest.raises(KubectlFailed, match="cannot list resource"):
            await cluster.kubectl("get", "nodes", identity=someone)


async def test_a_client_certificate_is_a_user_of_its_groups(cluster: Cluster):
    kubeconfig = cluster.identities.client_certificate("carla", ("system:masters",))
    said = await run_kubectl(cluster.plane.tools / "kubectl", kubeconfig, ("auth", "whoami", "-o", "json"))
    user = json.loads(said)["status"]["userInfo"]
    assert (user["username"], user["groups"]) == ("carla", ["system:masters", "system:authenticated"])


async def test_the_audit_log_has_who_did_what(cluster: Cluster):
    async with cluster.namespace() as ns:
        someone = await cluster.identity("writer", namespace=ns, rules=[rule("", "configmaps", "create")])
        await cluster.kubectl("create", "configmap", "-n", ns, "c", identity=someone)
        with pytest.raises(KubectlFailed):
            await cluster.kubectl("create", "secret", "generic", "-n", ns, "s", identity=someone)
        calls = [
            (call.verb, call.resource, call.name, call.code)
            for call in cluster.audit(user=someone.user)
            if call.is_write
        ]
    assert calls == [("create", "configmaps", "c", 201), ("create", "secrets", "", 403)]  # nobody read its name


async def test_a_part_that_does_not_start_says_why_with_the_end_of_its_log():
    settings = Settings(parts=("etcd", "apiserver"), flags={"apiserver": ("--no-such-flag",)})
    with pytest.raises(NotStarted) as raised, ControlPlane(tools_folder(), settings):
        pass
    assert str(raised.value).startswith("apiserver ended; its log ends with:\n")
    assert "unknown flag: --no-such-flag" in str(raised.value)


async def test_an_eviction_obeys_a_disruption_budget(cluster: Cluster):
    async with cluster.namespace() as ns:
        pods, budgets = f"/api/v1/namespaces/{ns}/pods", f"/apis/policy/v1/namespaces/{ns}/poddisruptionbudgets"
        await cluster.rest.create(pods, {"metadata": {"name": "p", "labels": {"app": "p"}}, "spec": POD})
        healthy = {"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}
        merge = "application/merge-patch+json"
        await cluster.rest.call("PATCH", f"{pods}/p/status", healthy, content_type=merge)
        chosen = {"matchLabels": {"app": "p"}}
        await cluster.rest.create(budgets, {"metadata": {"name": "b"}, "spec": {"minAvailable": 1, "selector": chosen}})
        async with asyncio.timeout(40):
            while (await cluster.rest.get(f"{budgets}/b")).get("status", {}).get("currentHealthy") != 1:
                await asyncio.sleep(0.1)
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}}
        with pytest.raises(Refused) as refused:
            await cluster.rest.create(f"{pods}/p/eviction", eviction)
        assert refused.value.status == 429
        await cluster.rest.delete(f"{budgets}/b")
        await cluster.rest.create(f"{pods}/p/eviction", eviction)
