"""Bytes of Models on a real control plane: claims, Jobs by the real controllers, a hub and a registry of ours."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.cluster.cluster import Cluster
from tests.support.cluster.controlplane import BRIDGE
from tests.support.cluster.kubelet import TestKubelet
from tests.support.cluster.manager import Operator, conditions, operator
from tests.support.cluster.nodes import NodeRow
from tests.support.hub import Hub
from tests.support.registry import Registry

from flexinfer.api.meta import ObjectKey
from flexinfer.engine import demo_model
from flexinfer.kube.store import JOBS, PERSISTENT_VOLUME_CLAIMS, PODS, SECRETS, Object, Selection

TOKEN = "canary-of-the-hub-token"


@pytest.fixture
def weights(tmp_path: Path) -> bytes:
    demo_model.write(tmp_path / "demo.gguf")
    return (tmp_path / "demo.gguf").read_bytes()


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub(host=BRIDGE) as one:
        yield one


def told(hub: Hub) -> dict[str, str]:
    return {"HF_ENDPOINT": hub.url, "HF_HUB_DOWNLOAD_TIMEOUT": "5"}


def cached(reason: str) -> Any:
    def reached(model: Object) -> bool:
        return conditions(model).get("Cached", ("", "", ""))[1] == reason if model.get("status") else False

    return reached


async def listed(manager: Operator, resource: Any) -> dict[str, Object]:
    found = await manager.cluster.admin.list(resource, Selection(manager.namespace))
    return {obj["metadata"]["name"]: obj for obj in found.items}


def owners(obj: Object) -> list[str]:
    return sorted(ref["name"] for ref in obj["metadata"].get("ownerReferences") or ())


async def test_fr_022_a_gated_repository_is_fetched_with_the_token_of_the_secret_and_nothing_else_sees_it(
    cluster: Cluster, kubelet: TestKubelet, hub: Hub, weights: bytes
):
    """And a second Model of the same source downloads nothing; the copy goes with the last of them."""
    hub.add("org/name", {"model.gguf": weights}, token=TOKEN)
    await cluster.nodes([NodeRow("plain")])
    restricted = {"pod-security.kubernetes.io/enforce": "restricted"}
    async with operator(cluster, env=told(hub), labels=restricted) as manager:
        await manager.apply("one", backend="llamacpp", source="HF://org/name", serverless={"minReplicas": 1})
        refused = await manager.until_model("one", cached("Unauthorized"))
        message = conditions(refused)["Cached"][2]
        assert "needs a token (HF_TOKEN) that was not given" in message
        assert "spec.secretRef names the Secret" in message
        assert (refused["status"]["phase"], refused["status"]["cache"]["jobPhase"]) == ("Failed", "Failed")
        assert await pods_of(manager, "one") == []

        secret = {"metadata": {"name": "hf", "namespace": manager.namespace}, "stringData": {"token": TOKEN}}
        await cluster.admin.create(SECRETS, secret)
        named = {"backend": "llamacpp", "source": "HF://org/name", "secretRef": {"name": "hf"}}
        await manager.apply("one", **named, serverless={"minReplicas": 1})
        model = await manager.phase("one", "Ready")
        assert model["status"]["cache"] == {
            "strategy": "SharedPVC",
            "ready": True,
            "pvcName": "one-cache",
            "jobName": model["status"]["cache"]["jobName"],
            "jobPhase": "Succeeded",
            "message": "HF://org/name is on claim one-cache",
            "sizeBytes": len(weights),
        }
        fetched = len(hub.bodies())
        assert {request.authorization for request in hub.bodies()} == {f"Bearer {TOKEN}"}

        await manager.apply("two", backend="llamacpp", source="hf://org/name", serverless={"minReplicas": 1})
        second = await manager.phase("two", "Ready")
        assert (second["status"]["cache"]["pvcName"], len(hub.bodies())) == ("one-cache", fetched)
        await until_claims(manager, {"one-cache": ["one", "two"]})
        await nothing_has_the_token(manager, kubelet)

        await cluster.kubectl("delete", "model", "one", "-n", manager.namespace)
        await manager.gone("one")
        await until_claims(manager, {"one-cache": ["two"]})
        assert (await manager.phase("two", "Ready"))["status"]["cache"]["ready"] is True
        await cluster.kubectl("delete", "model", "two", "-n", manager.namespace)
        await manager.gone("two")
        await manager.until_left([])


@pytest.mark.soak
async def test_f65_a_secret_that_is_changed_is_used_within_a_minute(
    cluster: Cluster, kubelet: TestKubelet, hub: Hub, weights: bytes
):
    hub.add("org/name", {"model.gguf": weights}, token=TOKEN)
    await cluster.nodes([NodeRow("plain")])
    async with operator(cluster, env=told(hub)) as manager:
        secret = {"metadata": {"name": "hf", "namespace": manager.namespace}, "stringData": {"token": "wrong"}}
        await cluster.admin.create(SECRETS, secret)
        await manager.apply("m", backend="llamacpp", source="HF://org/name", secretRef={"name": "hf"})
        refused = await manager.until_model("m", cached("TokenRefused"))
        assert "the token is that of Secret hf (spec.secretRef" in conditions(refused)["Cached"][2]
        patch = {"stringData": {"token": TOKEN}}
        await cluster.admin.patch(SECRETS, ObjectKey(manager.namespace, "hf"), patch)
        await manager.until_model("m", cached("Succeeded"), within_s=60)


async def test_a_retained_claim_outlives_its_model_and_a_changed_source_is_fetched_beside_it(
    cluster: Cluster, kubelet: TestKubelet, hub: Hub, weights: bytes
):
    hub.add("org/name", {"model.gguf": weights})
    hub.add("org/other", {"model.gguf": weights})
    await cluster.nodes([NodeRow("plain")])
    async with operator(cluster, env=told(hub)) as manager:
        kept = {"backend": "llamacpp", "cache": {"retain": True}}
        await manager.apply("m", **kept, source="HF://org/name")
        await manager.until_model("m", cached("Succeeded"))
        await cluster.kubectl("delete", "model", "m", "-n", manager.namespace)
        await manager.gone("m")
        fetched = len(hub.bodies())

        memory = {"backend": "llamacpp", "serverless": {"minReplicas": 1}, "cache": {"strategy": "Memory"}}
        await manager.apply("n", **memory, source="HF://org/name")
        ready = await manager.phase("n", "Ready")
        assert (ready["status"]["cache"]["pvcName"], len(hub.bodies())) == ("m-cache", fetched)
        assert await claims_of(manager) == {"m-cache": []}
        [pod] = await pods_of(manager, "n")
        await cluster.admin.delete(PODS, ObjectKey(manager.namespace, pod["metadata"]["name"]))
        await manager.until_model("n", lambda model: model["status"]["phase"] != "Ready")
        await manager.phase("n", "Ready")
        assert len(hub.bodies()) == fetched

        # The new one waits for its bytes, the old one serves on.
        hub.fault("model.gguf", stall_at=1000, stall=True)
        await manager.apply("n", **memory, source="HF://org/other")
        model = await manager.until_model("n", lambda one: "PrefetchRunning" in json.dumps(one["status"]))
        assert (model["status"]["phase"], conditions(model)["RolledOut"][0]) == ("Ready", "False")
        first = model["status"]["cache"]["jobName"]
        hub.faults.clear()
        hub.add("org/third", {"model.gguf": weights})
        await manager.apply("n", **memory, source="HF://org/third")
        await manager.until_model("n", lambda one: conditions(one)["RolledOut"][0] == "True")
        assert first not in await listed(manager, JOBS)
        content = (await manager.model("n"))["status"]["cache"]["pvcName"]
        await until_claims(manager, {"m-cache": [], content: ["n"]})


async def test_a_download_that_fails_and_is_tried_again_is_not_failed(
    cluster: Cluster, kubelet: TestKubelet, hub: Hub, weights: bytes
):
    """F66: a hub that limits requests. F62: a volume that is too small; the other model is unharmed."""
    hub.add("org/busy", {"busy.gguf": weights})
    hub.fault("busy.gguf", status=429, times=1000, headers={"Retry-After": "900"})
    hub.add("org/large", {"large.gguf": weights})
    hub.repositories["org/large"].sizes["large.gguf"] = 2**60
    await cluster.nodes([NodeRow("plain")])
    async with operator(cluster, env=told(hub)) as manager:
        await manager.apply("busy", backend="llamacpp", source="HF://org/busy")
        await manager.apply("large", backend="llamacpp", source="HF://org/large")
        for name, words in (("busy", "the hub limits requests (429)"), ("large", "bytes more in /models")):
            model = await manager.until_model(name, lambda one, words=words: words in json.dumps(one.get("status")))
            assert (model["status"]["phase"], conditions(model)["Cached"][1]) == ("Pending", "PrefetchRunning")
        hub.faults.clear()
        hub.repositories["org/large"].sizes.clear()
        for name in ("busy", "large"):
            await manager.until_model(name, cached("Succeeded"), within_s=90)


async def test_a_model_that_comes_again_at_once_takes_no_claim_over(
    cluster: Cluster, kubelet: TestKubelet, hub: Hub, weights: bytes
):
    """Its own bytes are fetched anew; nothing of the old one is left."""
    hub.add("org/name", {"model.gguf": weights})
    await cluster.nodes([NodeRow("plain")])
    async with operator(cluster, env=told(hub)) as manager:
        spec = {"backend": "llamacpp", "source": "HF://org/name", "serverless": {"minReplicas": 1}}
        await manager.apply("m", **spec)
        await manager.phase("m", "Ready")
        [old] = (await listed(manager, PERSISTENT_VOLUME_CLAIMS)).values()
        await cluster.kubectl("delete", "model", "m", "-n", manager.namespace)
        await manager.apply("m", **spec)
        await manager.phase("m", "Ready", within_s=90)
        [new] = (await listed(manager, PERSISTENT_VOLUME_CLAIMS)).values()
        assert (new["metadata"]["name"], new["metadata"]["uid"] == old["metadata"]["uid"]) == ("m-cache", False)
        assert len(hub.bodies()) == 2


async def test_a_quota_that_refuses_the_claim_is_told_in_its_own_words(
    cluster: Cluster, kubelet: TestKubelet, hub: Hub, weights: bytes
):
    hub.add("org/name", {"model.gguf": weights})
    await cluster.nodes([NodeRow("plain")])
    async with operator(cluster, env=told(hub)) as manager:
        hard = {"persistentvolumeclaims": "0"}
        quota = {"metadata": {"name": "none", "namespace": manager.namespace}, "spec": {"hard": hard}}
        path = f"/api/v1/namespaces/{manager.namespace}/resourcequotas"
        await cluster.rest.call("POST", path, {"apiVersion": "v1", "kind": "ResourceQuota", **quota})
        await until_counted(cluster, f"{path}/none", hard)
        await manager.apply("m", backend="llamacpp", source="HF://org/name")
        model = await manager.until_model("m", cached("QuotaExceeded"))
        assert "exceeded quota: none, requested: persistentvolumeclaims=1" in conditions(model)["Cached"][2]
        await cluster.kubectl("delete", "quota", "none", "-n", manager.namespace)
        model = await manager.until_model("m", cached("Succeeded"))
        assert model["status"]["phase"] == "Idle"


async def test_pods_that_fetch_for_themselves(cluster: Cluster, kubelet: TestKubelet, hub: Hub, weights: bytes):
    hub.add("org/name", {"model.gguf": weights}, token=TOKEN)
    await cluster.nodes([NodeRow("plain")])
    async with operator(cluster, env={**told(hub), "FLEXINFER_ALLOW_HOST_PATH": "true"}) as manager:
        secret = {"metadata": {"name": "hf", "namespace": manager.namespace}, "stringData": {"HF_TOKEN": TOKEN}}
        await cluster.admin.create(SECRETS, secret)
        spec = {"backend": "llamacpp", "source": "HF://org/name", "secretRef": {"name": "hf"}}
        for name, strategy in (("one", "None"), ("two", "Local")):
            cache = {"cache": {"strategy": strategy}, "config": {"ggufFile": "model.gguf"}}
            await manager.apply(name, **spec, **cache, serverless={"minReplicas": 1})
        for name in ("one", "two"):
            model = await manager.phase(name, "Ready")
            assert conditions(model)["Cached"][:2] == ("True", "NoCacheJob")
        assert (await claims_of(manager), await listed(manager, JOBS)) == ({}, {})
        await nothing_has_the_token(manager, kubelet)


async def test_a_tag_of_ollama_lies_on_the_claim_as_ollama_reads_it(cluster: Cluster, kubelet: TestKubelet):
    await cluster.nodes([NodeRow("plain")])
    with Registry(host=BRIDGE) as registry:
        registry.add("library/llama3", "8b", [b"weights" * 1000, b"template"])
        async with operator(cluster, env={"FLEXINFER_OLLAMA_REGISTRY": registry.url}) as manager:
            await manager.apply("m", backend="ollama", source="ollama://llama3:8b", serverless={"minReplicas": 1})
            await manager.phase("m", "Ready")
            [pod] = await pods_of(manager, "m")
            env = {one["name"]: one.get("value") for one in pod["spec"]["containers"][0]["env"]}
            folder = await folder_of(manager, "m-cache") / Path(env["OLLAMA_MODELS"]).relative_to("/models")
            manifest = folder / "manifests/registry.ollama.ai/library/llama3/8b"
            assert manifest.read_bytes() == registry.manifests[("library/llama3", "8b")]
            assert {path.name for path in (folder / "blobs").iterdir()} == {
                digest.replace(":", "-") for digest in registry.blobs
            }
            assert [mount["readOnly"] for mount in mounts(pod, "/models")] == [True]


async def test_a_claim_of_the_users_is_looked_at_once_and_what_is_wrong_with_it_is_told(
    cluster: Cluster, kubelet: TestKubelet, weights: bytes
):
    await cluster.nodes([NodeRow("plain")])
    async with operator(cluster) as manager:
        spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
        named = {"name": "weights", "namespace": manager.namespace}
        await cluster.admin.create(PERSISTENT_VOLUME_CLAIMS, {"metadata": named, "spec": spec})
        folder = await folder_of(manager, "weights")
        (folder / "llama").mkdir(parents=True)
        (folder / "llama" / "demo.gguf").write_bytes(weights)
        given = {"backend": "llamacpp", "serverless": {"minReplicas": 1}}
        await manager.apply("gone", **given, source="pvc://weights/mistral")
        await manager.apply("m", **given, source="pvc://weights/llama")
        model = await manager.phase("m", "Ready")
        assert conditions(model)["Cached"][:2] == ("True", "CacheIgnored")
        [pod] = await pods_of(manager, "m")
        assert "/models/llama/demo.gguf" in pod["spec"]["containers"][0]["args"]
        gone = await manager.until_model("gone", lambda one: "does not exist on the claim" in json.dumps(one))
        assert conditions(gone)["Cached"][:2] == ("False", "CacheCheckRunning")
        for name in ("m", "gone"):
            await cluster.kubectl("delete", "model", name, "-n", manager.namespace)
        await manager.until_left(["persistentvolumeclaim/weights"])


async def pods_of(manager: Operator, name: str) -> list[Object]:
    found = await manager.cluster.admin.list(PODS, Selection(manager.namespace, labels={"flexinfer.ai/model": name}))
    return [pod for pod in found.items if "deletionTimestamp" not in pod["metadata"]]


async def folder_of(manager: Operator, claim: str) -> Path:
    """Where its volume lies on this machine, once it has one."""
    deadline = time.monotonic() + 40
    while True:
        found = await manager.cluster.admin.get(PERSISTENT_VOLUME_CLAIMS, ObjectKey(manager.namespace, claim))
        if (found.get("status") or {}).get("phase") == "Bound":
            break
        assert time.monotonic() < deadline, found
        await asyncio.sleep(0.1)
    volume = await manager.cluster.rest.get(f"/api/v1/persistentvolumes/{found['spec']['volumeName']}")
    return Path(volume["spec"]["hostPath"]["path"])


def mounts(pod: Object, path: str) -> list[Object]:
    return [one for one in pod["spec"]["containers"][0]["volumeMounts"] if one["mountPath"] == path]


async def until_claims(manager: Operator, expected: dict[str, list[str]], within_s: float = 60.0) -> None:
    """Claims of the namespace by name, with the names of their owners."""
    deadline = time.monotonic() + within_s
    while (found := await claims_of(manager)) != expected:
        assert time.monotonic() < deadline, f"{found}\n{manager.log()[-3000:]}"
        await asyncio.sleep(0.2)


async def until_counted(cluster: Cluster, quota: str, hard: dict[str, str]) -> None:
    deadline = time.monotonic() + 40
    while (await cluster.rest.get(quota)).get("status", {}).get("hard") != hard:
        assert time.monotonic() < deadline, "the quota does not count yet"
        await asyncio.sleep(0.1)


async def claims_of(manager: Operator) -> dict[str, list[str]]:
    found = await listed(manager, PERSISTENT_VOLUME_CLAIMS)
    return {name: owners(claim) for name, claim in found.items()}


async def nothing_has_the_token(manager: Operator, kubelet: TestKubelet) -> None:
    """Specifications, statuses, events, logs, and the environment that a serving container is started with."""
    kinds = "models,pods,jobs,deployments,persistentvolumeclaims,events"
    everything = await manager.cluster.kubectl("get", kinds, "-n", manager.namespace, "-o", "json")
    assert TOKEN not in everything
    assert TOKEN not in manager.log()
    for file in (kubelet.folder / "logs").rglob("*.log"):
        assert TOKEN not in file.read_text(errors="replace"), file
    for pod in await pods_of(manager, "one"):
        assert "hf" not in json.dumps([container.get("env") for container in pod["spec"]["containers"]]).split('"')
