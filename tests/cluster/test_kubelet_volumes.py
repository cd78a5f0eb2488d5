"""Volumes of the process kubelet: what is in them, who may write, what stays, and tokens that the API server takes."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.support.cluster.cluster import Cluster
from tests.support.cluster.identity import rule
from tests.support.cluster.kubelet import TestKubelet
from tests.support.cluster.nodes import NodeRow
from tests.support.cluster.pods import Pods, tools

# Asks the API server as in-cluster clients do, and prints the names that it answers.
ASK = """
import json, os, ssl, urllib.request
at = "/var/run/secrets/kubernetes.io/serviceaccount/"
host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
namespace, token = open(at + "namespace").read(), open(at + "token").read()
url = f"https://{host}:{port}/api/v1/namespaces/{namespace}/configmaps"
call = urllib.request.Request(url, headers={"Authorization": "Bearer " + token})
tls = ssl.create_default_context(cafile=at + "ca.crt")
found = json.load(urllib.request.urlopen(call, context=tls, timeout=20))
print(sorted(one["metadata"]["name"] for one in found["items"]))
"""


@pytest.fixture
async def pods(cluster: Cluster, kubelet: TestKubelet) -> AsyncIterator[Pods]:
    await cluster.nodes([NodeRow("n")])
    async with cluster.namespace() as namespace:
        yield Pods(cluster, namespace)


def mounted(name: str = "v", path: str = "/v", **more: Any) -> dict[str, Any]:
    return {"name": name, "mountPath": path, **more}


async def said(pods: Pods, script: str, volume: dict[str, Any], *mounts: dict[str, Any], **spec: Any) -> str:
    """What a script prints in a pod with this volume."""
    one = tools(script, volumeMounts=list(mounts) or [mounted()])
    await pods.create(one, volumes=[{"name": "v", **volume}], restartPolicy="Never", **spec)
    await pods.ended()
    return await pods.log()


async def test_keys_are_files_with_their_modes_and_paths(cluster: Cluster, pods: Pods):
    await cluster.kubectl("create", "configmap", "-n", pods.namespace, "m", "--from-literal=a=1", "--from-literal=b=2")
    items = [{"key": "a", "path": "deep/a"}, {"key": "b", "path": "b", "mode": 0o400}]
    volume = {"configMap": {"name": "m", "items": items, "defaultMode": 0o640}}
    script = "cd /v; cat deep/a b; stat -L -c '%a' deep/a b; touch x"
    found = await said(pods, script, volume, mounted(readOnly=True))
    assert found.startswith("12640\n400\ntouch: cannot touch 'x': Read-only file system")


async def test_a_projected_volume_has_the_files_of_all_its_sources(cluster: Cluster, pods: Pods):
    await cluster.kubectl("create", "secret", "generic", "-n", pods.namespace, "s", "--from-literal=word=open")
    sources = [
        {"secret": {"name": "s"}},
        {"configMap": {"name": "none", "optional": True}},
        {"downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}},
        {"serviceAccountToken": {"path": "token", "audience": "somebody", "expirationSeconds": 600}},
    ]
    found = await said(pods, "cd /v; ls; cat name word; echo; cat token", {"projected": {"sources": sources}})
    files, token = found.rsplit("\n", 1)
    assert files == "name\ntoken\nword\npopen"
    claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    assert (claims["aud"], claims["kubernetes.io"]["pod"]["name"]) == (["somebody"], "p")


async def test_the_token_of_a_pod_is_taken_by_the_api_server(cluster: Cluster, pods: Pods):
    await cluster.identity("someone", namespace=pods.namespace, rules=[rule("", "configmaps", "list")])
    one = {"name": "c", "image": "cluster.test/tools:1", "command": ["python3", "-c", ASK]}
    await pods.create(one, serviceAccountName="someone", restartPolicy="Never")
    pod = await pods.ended()
    assert (await pods.log(), pod["status"]["phase"]) == ("['kube-root-ca.crt']\n", "Succeeded")


async def test_the_token_of_a_pod_ends_with_the_pod(cluster: Cluster, pods: Pods):
    script = "cat /var/run/secrets/kubernetes.io/serviceaccount/token; exec sleep 600"
    await pods.create(tools(script), terminationGracePeriodSeconds=0)
    await pods.ready()
    token = await pods.log()
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}}
    path = "/apis/authentication.k8s.io/v1/tokenreviews"
    user = f"system:serviceaccount:{pods.namespace}:default"
    assert (await cluster.rest.create(path, review))["status"]["user"]["username"] == user
    await pods.delete()
    await pods.gone()
    answer = await pods.until_answered(path, review, lambda found: not found["status"].get("authenticated"))
    assert "authenticated" not in answer["status"]


async def test_files_follow_a_config_map_that_changes(cluster: Cluster, pods: Pods, kubelet: TestKubelet):
    await cluster.kubectl("create", "configmap", "-n", pods.namespace, "m", "--from-literal=a=old")
    script = "cat /v/a; while ! grep -q new /v/a; do sleep 0.05; done; cat /v/a; ls /v"
    await pods.create(
        tools(script, volumeMounts=[mounted()]),
        volumes=[{"name": "v", "configMap": {"name": "m"}}],
        restartPolicy="Never",
    )
    await pods.until(lambda _: [file for file in kubelet.logs(pods.namespace, "p", "c") if file.read_text() == "old"])
    fresh = '[{"op": "replace", "path": "/data", "value": {"a": "new", "b": ""}}]'
    await cluster.kubectl("patch", "configmap", "-n", pods.namespace, "m", "--type=json", "--patch", fresh)
    await pods.ended()
    assert await pods.log() == "oldnewa\nb\n"


async def test_a_pod_waits_for_a_secret_that_its_volume_needs(cluster: Cluster, pods: Pods):
    volume = {"name": "v", "secret": {"secretName": "late"}}
    await pods.create(tools("cat /v/word", volumeMounts=[mounted()]), volumes=[volume], restartPolicy="Never")
    await pods.until_event("FailedMount", 'secret "late" not found')
    await cluster.kubectl("create", "secret", "generic", "-n", pods.namespace, "late", "--from-literal=word=open")
    await pods.ended()
    assert await pods.log() == "open"


async def test_a_claim_is_given_a_folder_that_outlives_the_pod_and_goes_with_the_claim(
    cluster: Cluster, pods: Pods, kubelet: TestKubelet
):
    claim = {
        "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    claims = f"/api/v1/namespaces/{pods.namespace}/persistentvolumeclaims"
    await cluster.rest.create(claims, claim)
    volumes = {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}], "restartPolicy": "Never"}
    mounts = {"volumeMounts": [mounted(path="/models")]}
    await pods.create(tools("echo kept > /models/file", **mounts), name="writer", **volumes)
    await pods.ended("writer")
    await pods.delete("writer")
    await pods.gone("writer")
    reading = tools(
        "cat /models/file; ls -ld /models | cut -c1-10", volumeMounts=[mounted(path="/models", readOnly=True)]
    )
    await pods.create(reading, name="reader", **volumes)
    await pods.ended("reader")
    assert await pods.log("reader") == "kept\ndrwxrwxrwx\n"
    bound = await cluster.rest.get(f"{claims}/data")
    assert (bound["spec"]["storageClassName"], bound["status"]["phase"]) == ("test", "Bound")
    await pods.delete("reader")
    await cluster.rest.delete(f"{claims}/data")
    await cluster.rest.until_gone(f"/api/v1/persistentvolumes/{bound['spec']['volumeName']}")
    assert not (kubelet.folder / "volumes" / bound["spec"]["volumeName"]).exists()


async def test_a_claim_of_another_class_is_left_alone(cluster: Cluster, pods: Pods):
    claim = {
        "metadata": {"name": "data"},
        "spec": {
            "storageClassName": "other",
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }
    await cluster.rest.create(f"/api/v1/namespaces/{pods.namespace}/persistentvolumeclaims", claim)
    await pods.create(
        tools("true", volumeMounts=[mounted()]),
        volumes=[{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}],
        nodeName="n-0",
    )
    await pods.until_event("FailedMount", "claim data is not bound")


async def test_host_paths_are_those_of_the_node(pods: Pods, kubelet: TestKubelet):
    folder = kubelet.node_folder("n-0") / "var/models"
    folder.mkdir(parents=True)
    (folder / "weights").write_text("heavy\n")
    assert await said(pods, "cat /v/weights", {"hostPath": {"path": "/var/models", "type": "Directory"}}) == "heavy\n"


async def test_a_host_path_of_another_type_is_not_mounted(pods: Pods):
    volume = {"name": "v", "hostPath": {"path": "/none", "type": "Directory"}}
    await pods.create(tools("true", volumeMounts=[mounted()]), volumes=[volume])
    await pods.until_event("FailedMount", "hostPath type check failed: /none is not a Directory")


async def test_sub_paths_and_volumes_inside_volumes(cluster: Cluster, pods: Pods):
    await cluster.kubectl("create", "configmap", "-n", pods.namespace, "m", "--from-literal=app.yaml=x: 1")
    script = "cat /etc/app/app.yaml; echo; echo a > /v/one/file; ls /v; ls -ld /models /models/deep | cut -c1-10"
    one = tools(
        script,
        volumeMounts=[
            mounted("conf", "/etc/app/app.yaml", subPath="app.yaml"),
            mounted("data", "/v/one", subPath="inside/one"),
            mounted("data", "/v"),
            mounted("data", "/models/deep"),
        ],
    )
    await pods.create(
        one,
        volumes=[{"name": "conf", "configMap": {"name": "m"}}, {"name": "data", "emptyDir": {}}],
        restartPolicy="Never",
        securityContext={"runAsUser": 0, "fsGroup": 5},
    )
    await pods.ended()
    assert await pods.log() == "x: 1\ninside\none\ndrwxr-xr-x\ndrwxrwsrwx\n"


async def test_memory_volumes_are_as_large_as_they_say(pods: Pods):
    script = "df -k --output=size,fstype /v | tail -1; head -c 2000000 /dev/zero > /v/file || echo full"
    found = await said(pods, script, {"emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}})
    assert found.split()[:2] == ["1024", "tmpfs"]
    assert found.endswith("full\n")


async def test_a_group_of_the_pod_may_write_where_others_may_not(pods: Pods):
    script = "id -u; id -G; touch /v/file && stat -c %g /v/file; touch /root/file || echo refused"
    context = {"runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 2000}
    found = await said(pods, script, {"emptyDir": {}}, securityContext=context)
    assert [line for line in found.splitlines() if "touch:" not in line] == ["1000", "1000 2000", "2000", "refused"]
