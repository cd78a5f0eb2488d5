"""The chart installed by helm: its pods are Ready as its own accounts, and nothing is left when it goes."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from tests.support.cluster.cluster import Cluster
from tests.support.cluster.installation import API_PORT, METRICS_PORT, NAMESPACE, Installation
from tests.support.cluster.kubelet import TestKubelet
from tests.support.cluster.nodes import NodeRow
from tests.support.helm import CHART, ROOT, Helm, program
from tests.support.waiting import until

from flexinfer.api.meta import ObjectKey
from flexinfer.kube.store import MODELS


@pytest.fixture
async def kubelet(own_cluster: Cluster) -> AsyncIterator[TestKubelet]:
    """Of the module's own control plane: CRDs are installed and removed in it."""
    async with TestKubelet(own_cluster) as one:
        yield one


async def status(url: str, key: str = "") -> int:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with aiohttp.ClientSession() as client, client.get(url, headers=headers) as answer:
        return answer.status


async def test_every_object_is_taken_by_the_api_server(own_cluster: Cluster, tmp_path: Path):
    helm = Helm(tmp_path / "helm")
    found = [one for one in helm.template(namespace="default") if one["kind"] != "CustomResourceDefinition"]
    listed = {"apiVersion": "v1", "kind": "List", "items": found}
    said = await own_cluster.kubectl("apply", "--dry-run=server", "-f", "-", "-o", "name", stdin=listed)
    assert len(said.split()) == len(found)


async def test_the_notes_warn_of_open_proxies(own_cluster: Cluster, tmp_path: Path):
    helm = Helm(tmp_path / "helm", own_cluster.admin_kubeconfig)
    words = ("install", "flexinfer", CHART, "--dry-run=client", "--set", "proxy.apiKeys.enabled=false")
    assert "WARNING: proxy.apiKeys.enabled is false" in helm.run(*words).stdout


async def test_the_chart_installs_serves_and_goes(own_cluster: Cluster, kubelet: TestKubelet, tmp_path: Path):
    await own_cluster.nodes([NodeRow("plain", count=2)])
    restricted = {"metadata": {"name": NAMESPACE, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
    await own_cluster.rest.create("/api/v1/namespaces", restricted)
    async with Installation(own_cluster, kubelet, tmp_path) as installed:
        key = await installed.key()
        for address in await installed.addresses("proxy"):
            api, side = f"http://{address}:{API_PORT}", f"http://{address}:{METRICS_PORT}"
            assert await status(f"{api}/v1/models") == 401
            assert await status(f"{api}/v1/models", key) == 200
            assert await status(f"{api}/readyz") == 200
            assert await status(f"{side}/metrics") == 200
        for address in await installed.addresses("manager"):
            assert await status(f"http://{address}:8080/metrics") == 200
        assert (installed.refused("manager"), installed.refused("proxy")) == ([], [])
    await own_cluster.rest.until_gone(f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/flexinfer-proxy")
    kinds = "deployments,services,serviceaccounts,roles,rolebindings,networkpolicies,poddisruptionbudgets"
    left = json.loads(await own_cluster.kubectl("get", kinds, "-n", NAMESPACE, "-o", "json"))["items"]
    assert [one["metadata"]["name"] for one in left] == ["default"]
    rest = await own_cluster.kubectl("get", "clusterroles,clusterrolebindings,crds,secrets", "-A", "-o", "name")
    mine = [name for name in rest.split() if "flexinfer" in name]
    # The definitions, and every Model with them, stay, and so does the key.
    assert mine == [
        "customresourcedefinition.apiextensions.k8s.io/modeldeployments.ai.flexinfer",
        "customresourcedefinition.apiextensions.k8s.io/models.ai.flexinfer",
        "secret/flexinfer-api-keys",
    ]


async def test_an_installation_for_one_namespace_needs_no_right_in_others(
    own_cluster: Cluster, kubelet: TestKubelet, tmp_path: Path
):
    """Its Model is served; one of another namespace is none of its business."""
    await own_cluster.nodes([NodeRow("plain", count=2)])
    values = {"watchNamespaces": ["team-a"], "modelAccess": "proxies", "controller": {"replicas": 1}}
    spec = {"backend": "simulator", "source": "file:///models/none", "serverless": {"minReplicas": 1}}
    for namespace in ("team-a", "team-b"):
        await own_cluster.rest.create("/api/v1/namespaces", {"metadata": {"name": namespace}})
    async with Installation(own_cluster, kubelet, tmp_path, values) as installed:
        keys = [ObjectKey(namespace, "poet") for namespace in ("team-a", "team-b")]
        for key in keys:
            body = {"metadata": {"name": key.name, "namespace": key.namespace}, "spec": spec}
            await own_cluster.admin.create(MODELS, body)

        async def served() -> bool:
            model = await own_cluster.admin.get(MODELS, keys[0])
            return (model.get("status") or {}).get("phase") == "Ready"

        try:
            await until(served, 40, every_s=0.2)
        except AssertionError as error:
            raise AssertionError(await installed.story("team-a", "poet")) from error
        assert "status" not in await own_cluster.admin.get(MODELS, keys[1])
        policy = await own_cluster.rest.get("/apis/networking.k8s.io/v1/namespaces/team-a/networkpolicies/poet")
        assert len(policy["spec"]["ingress"][0]["from"]) == 1
        for address in await installed.addresses("proxy"):
            headers = {"Authorization": f"Bearer {await installed.key()}"}
            url = f"http://{address}:{API_PORT}/v1/models"
            async with aiohttp.ClientSession(headers=headers) as client, client.get(url) as answer:
                assert [one["id"] for one in (await answer.json())["data"]] == ["poet"]
        assert (installed.refused("manager"), installed.refused("proxy")) == ([], [])
        await own_cluster.admin.delete(MODELS, keys[0])
        await own_cluster.rest.until_gone("/apis/ai.flexinfer/v1alpha2/namespaces/team-a/models/poet")


async def test_make_install_and_deploy_do_on_the_cluster_what_they_say(own_cluster: Cluster, tmp_path: Path):
    plane = own_cluster.plane
    env = {
        "PATH": f"{plane.tools}:{Path(program()).parent}:{os.environ['PATH']}",
        "KUBECONFIG": str(own_cluster.admin_kubeconfig),
        "HOME": str(tmp_path),
        "IMG": "harbor.lan:5000/library/flexinfer:dev",
        "ARGS": "--set proxy.replicas=3 --set crds.install=false",
    }

    async def make(target: str) -> None:
        words = [ROOT / "hack/on-cluster.sh", target]
        done = await asyncio.to_thread(subprocess.run, words, env=env, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr

    async def crds() -> list[str]:
        names = (await own_cluster.kubectl("get", "crds", "-o", "name")).split()
        return [name for name in names if name.endswith(".ai.flexinfer")]

    await make("install")
    assert len(await crds()) == 2
    await make("deploy")
    path = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/flexinfer-proxy"
    spec = (await own_cluster.rest.get(path))["spec"]
    assert (spec["replicas"], spec["template"]["spec"]["containers"][0]["image"]) == (3, env["IMG"])
    await make("undeploy")
    await own_cluster.rest.until_gone(path)
    assert len(await crds()) == 2
    await make("uninstall")
    assert await crds() == []


async def test_a_chart_that_comes_back_finds_its_definitions_and_its_key_again(own_cluster: Cluster, tmp_path: Path):
    """Definitions that somebody else put there are not taken over unasked."""
    helm = Helm(tmp_path / "helm", own_cluster.admin_kubeconfig)
    words = ("flexinfer", CHART, "--namespace", NAMESPACE, "--create-namespace")

    async def run(*argv: str | Path) -> tuple[int, str]:
        done = await asyncio.to_thread(helm.run, *argv)
        return done.returncode, done.stderr

    for _ in range(2):
        assert await run("install", *words) == (0, "")
        assert await run("uninstall", "flexinfer", "--namespace", NAMESPACE, "--wait") == (0, "")
    await own_cluster.kubectl("annotate", "crd", "models.ai.flexinfer", "meta.helm.sh/release-name-")
    code, said = await run("install", *words)
    assert (code, "invalid ownership metadata" in said) == (1, True)
    assert await run("install", *words, "--take-ownership") == (0, "")
    await run("uninstall", "flexinfer", "--namespace", NAMESPACE)
    await own_cluster.kubectl("delete", "crd", "models.ai.flexinfer", "modeldeployments.ai.flexinfer")
