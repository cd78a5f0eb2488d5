"""The chart installed by helm: its pods are Ready as its own accounts, and nothing is left when it goes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from tests.support.cluster.cluster import Cluster
from tests.support.cluster.installation import API_PORT, METRICS_PORT, NAMESPACE, Installation
from tests.support.cluster.kubelet import TestKubelet
from tests.support.cluster.nodes import NodeRow
from tests.support.helm import CHART, Helm


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
