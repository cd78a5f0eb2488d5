"""The process kubelet on the real control plane: a pod's life, from bound to gone."""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections.abc import AsyncIterator

import aiohttp
import pytest
from tests.cluster.kubelet.images import STATIC
from tests.support.cluster.cluster import Cluster
from tests.support.cluster.kubectl import KubectlFailed
from tests.support.cluster.kubelet import TestKubelet
from tests.support.cluster.nodes import NodeRow
from tests.support.cluster.pods import (
    Pods,
    conditions,
    container,
    is_ready,
    terminated,
    tools,
    waiting,
)
from tests.support.processes import with_words
from tests.support.waiting import until


@pytest.fixture
async def pods(cluster: Cluster, kubelet: TestKubelet) -> AsyncIterator[Pods]:
    """Of a fresh namespace; there is one node `n-0`, with two GPUs."""
    await cluster.nodes([NodeRow("n", card="l4", gpus=2)])
    async with cluster.namespace() as namespace:
        yield Pods(cluster, namespace)


async def test_a_bound_pod_runs_is_ready_and_ends(cluster: Cluster, pods: Pods):
    ready = {"httpGet": {"port": "http"}, "periodSeconds": 1}
    server = {"name": "c", "image": STATIC, "ports": [{"name": "http", "containerPort": 8080}]}
    await pods.create({**server, "readinessProbe": ready})
    pod = await pods.ready()
    status = pod["status"]
    assert (status["phase"], status["hostIP"], container(pod)["restartCount"]) == ("Running", "198.18.0.1", 0)
    assert conditions(pod) == dict.fromkeys(
        ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"), "True"
    )
    async with aiohttp.ClientSession() as client, client.get(f"http://{status['podIP']}:8080/") as answer:
        assert await answer.text() == "here\n"
    await pods.delete()
    await pods.gone()
    with pytest.raises(OSError, match=r"unreachable|No route|timed out"):
        socket.create_connection((status["podIP"], 8080), timeout=0.5)


async def test_argv_environment_folder_and_user_are_those_of_the_manifest(cluster: Cluster, pods: Pods):
    await cluster.kubectl("create", "configmap", "-n", pods.namespace, "m", "--from-literal=colour=blue")
    await cluster.kubectl("create", "secret", "generic", "-n", pods.namespace, "s", "--from-literal=word=open")
    env = [
        {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        {"name": "LIMIT", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
        {"name": "WORD", "valueFrom": {"secretKeyRef": {"name": "s", "key": "word"}}},
        {"name": "BOTH", "value": "$(NODE)-$(WORD)-$$(WORD)-$(NONE)"},
    ]
    script = 'echo "$BOTH" "$M_colour" "$LIMIT" "$(pwd)" "$(id -u):$(id -g):$(id -G)" "$1" "$(hostname)"'
    one = {
        **tools(script),
        "command": ["sh", "-c", script, "sh", "$(NODE)"],
        "env": env,
        "envFrom": [{"configMapRef": {"name": "m"}, "prefix": "M_"}],
        "workingDir": "/work-here",
        "resources": {"limits": {"memory": "256Mi"}},
        "securityContext": {"runAsUser": 1234, "runAsGroup": 55},
    }
    await pods.create(one, restartPolicy="Never", securityContext={"fsGroup": 77})
    pod = await pods.ended()
    said = await pods.log()
    assert (said, pod["status"]["phase"]) == (
        "n-0-open-$(WORD)-$(NONE) blue 256 /work-here 1234:55:55 77 n-0 p\n",
        "Succeeded",
    )


async def test_init_containers_run_one_after_the_other_and_sidecars_stay(pods: Pods):
    volume = {"volumeMounts": [{"name": "v", "mountPath": "/v"}]}
    inits = [
        tools("sleep 0.3; echo first >> /v/log", name="first", **volume),
        tools("echo side >> /v/log; exec sleep 600", name="side", restartPolicy="Always", **volume),
        tools("echo second >> /v/log", name="second", **volume),
    ]
    main = tools("cat /v/log", **volume)
    await pods.create(
        main,
        initContainers=inits,
        restartPolicy="Never",
        volumes=[{"name": "v", "emptyDir": {}}],
        terminationGracePeriodSeconds=1,
    )
    pod = await pods.until(lambda pod: pod["status"].get("phase") == "Succeeded")
    assert await pods.log("p", "-c", "c") == "first\nside\nsecond\n"
    assert [terminated(pod, name) for name in ("first", "second", "c")] == [(0, "Completed")] * 3
    pod = await pods.until(lambda pod: terminated(pod, "side"))
    assert conditions(pod)["Initialized"] == "True"


async def test_a_pod_ends_while_a_sidecar_has_not_started(pods: Pods):
    never = {"exec": {"command": ["false"]}, "periodSeconds": 1, "failureThreshold": 600}
    side = tools("exec sleep 600", name="side", restartPolicy="Always", startupProbe=never)
    await pods.create(tools("exec sleep 600"), initContainers=[side], terminationGracePeriodSeconds=1)
    pod = await pods.until(lambda pod: "running" in container(pod, "side").get("state", {}))
    assert (waiting(pod), conditions(pod)["Initialized"]) == ("PodInitializing", "False")
    await pods.delete()
    await pods.gone(within_s=20)


async def test_an_init_container_that_fails_for_good_ends_the_pod(pods: Pods):
    await pods.create(tools("true"), initContainers=[tools("exit 3", name="i")], restartPolicy="Never")
    pod = await pods.ended()
    assert (pod["status"]["phase"], terminated(pod, "i"), waiting(pod)) == ("Failed", (3, "Error"), "PodInitializing")


async def test_a_container_that_ends_is_started_again_with_a_back_off(pods: Pods):
    await pods.create(tools("echo run; exit 7"))
    pod = await pods.until(lambda pod: waiting(pod) == "CrashLoopBackOff" and container(pod)["restartCount"] >= 2)
    assert (terminated(pod, state="lastState"), pod["status"]["phase"]) == ((7, "Error"), "Running")
    assert not is_ready(pod)
    assert await pods.log("p", "--previous") == "run\n"
    assert any("back-off" in message for message in await pods.events("BackOff"))


async def test_an_image_that_nothing_stands_for_is_an_error_until_it_is_there(pods: Pods, kubelet: TestKubelet):
    kubelet.fail_pulls_of("cluster.test/tools:broken")
    await pods.create(
        {**tools("exec sleep 600"), "image": "cluster.test/tools:broken"}, terminationGracePeriodSeconds=0
    )
    await pods.create({"name": "c", "image": "example.test/unknown:1"}, name="q")
    await pods.until(lambda pod: waiting(pod) == "ErrImagePull", within_s=10)
    pod = await pods.until(lambda pod: waiting(pod) == "ImagePullBackOff")
    assert "the test says so" in container(pod)["state"]["waiting"]["message"]
    assert pod["status"]["phase"] == "Pending"
    await pods.until(lambda pod: waiting(pod) == "ImagePullBackOff", "q")
    kubelet.allow_pulls_of("cluster.test/tools:broken")
    await pods.ready()


async def test_a_key_that_is_missing_is_a_configuration_error_until_it_is_there(cluster: Cluster, pods: Pods):
    env = [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "a"}}}]
    await pods.create(tools("exec sleep 600", env=env), terminationGracePeriodSeconds=0)
    pod = await pods.until(lambda pod: waiting(pod) == "CreateContainerConfigError")
    assert container(pod)["state"]["waiting"]["message"] == 'configmap "m" not found'
    await cluster.kubectl("create", "configmap", "-n", pods.namespace, "m", "--from-literal=b=1")
    await pods.until(lambda pod: "couldn't find key a" in container(pod)["state"].get("waiting", {}).get("message", ""))
    await cluster.kubectl("create", "configmap", "-n", pods.namespace, "m2", "--from-literal=a=1")
    await cluster.kubectl("patch", "configmap", "-n", pods.namespace, "m", "--patch", '{"data":{"a":"1"}}')
    await pods.ready()


async def test_a_container_over_its_memory_limit_is_killed(pods: Pods):
    hungry = 'exec python3 -c "x = bytearray(200_000_000); print(1); import time; time.sleep(600)"'
    await pods.create(tools(hungry, resources={"limits": {"memory": "100Mi"}}), restartPolicy="Never")
    pod = await pods.ended()
    assert (pod["status"]["phase"], terminated(pod)) == ("Failed", (137, "OOMKilled"))


async def test_children_and_volumes_in_memory_count_against_the_limit(pods: Pods):
    limits = {"resources": {"limits": {"memory": "100Mi"}}}
    child = "python3 -c 'x = bytearray(200_000_000); import time; time.sleep(600)' & wait"
    filling = "head -c 200000000 /dev/zero > /m/file; exec sleep 600"
    volume = {"volumes": [{"name": "m", "emptyDir": {"medium": "Memory"}}], "restartPolicy": "Never"}
    await pods.create(tools(child, **limits), name="child", restartPolicy="Never")
    mount = {"volumeMounts": [{"name": "m", "mountPath": "/m"}]}
    await pods.create(tools(filling, **limits, **mount), name="filling", **volume)
    for name in ("child", "filling"):
        assert terminated(await pods.ended(name)) == (137, "OOMKilled")


async def test_the_end_is_prestop_then_sigterm_then_sigkill(pods: Pods, kubelet: TestKubelet):
    """The first pod ends itself in time; the second is process 1 without a handler, and is killed."""
    script = "trap 'echo term >> /v/log; exit 0' TERM; while :; do sleep 0.05; done"
    hook = {"preStop": {"exec": {"command": ["sh", "-c", "echo hook >> /v/log"]}}}
    volume = {"volumes": [{"name": "v", "hostPath": {"path": "/shared"}}]}
    polite = tools(script, lifecycle=hook, volumeMounts=[{"name": "v", "mountPath": "/v"}])
    await pods.create(polite, name="polite", terminationGracePeriodSeconds=20, **volume)
    await pods.create(tools("exec sleep 600"), name="deaf", terminationGracePeriodSeconds=2)
    await pods.ready("polite")
    await pods.ready("deaf")
    await pods.delete("polite")
    await pods.gone("polite", within_s=15)
    assert (kubelet.node_folder("n-0") / "shared/log").read_text() == "hook\nterm\n"
    began = time.monotonic()
    await pods.delete("deaf")
    await pods.gone("deaf")
    assert time.monotonic() - began >= 1.9


async def test_a_hook_that_sleeps_delays_sigterm(pods: Pods, kubelet: TestKubelet):
    script = "trap 'date +%s.%N; exit 0' TERM; while :; do sleep 0.05; done"
    await pods.create(tools(script, lifecycle={"preStop": {"sleep": {"seconds": 1}}}), terminationGracePeriodSeconds=20)
    await pods.ready()
    asked = time.time()
    await pods.delete()
    await pods.gone()
    (log,) = kubelet.logs(pods.namespace, "p", "c")
    assert float(log.read_text()) - asked >= 1


async def test_a_hook_before_the_end_asks_over_http(pods: Pods, kubelet: TestKubelet):
    server = tools(f"cd /etc && exec {sys.base_prefix}/bin/python3 -u -m http.server 8080")
    server |= {
        "ports": [{"name": "http", "containerPort": 8080}],
        "readinessProbe": {"httpGet": {"port": "http", "path": "/?ready"}, "periodSeconds": 1},
        "lifecycle": {"preStop": {"httpGet": {"port": "http", "path": "/?end"}}},
    }
    await pods.create(server, terminationGracePeriodSeconds=2)
    await pods.ready()
    await pods.delete()
    await pods.gone()
    (log,) = kubelet.logs(pods.namespace, "p", "c")
    assert log.read_text().count('"GET /?end HTTP/1.1" 200') == 1


async def test_a_failed_liveness_probe_restarts_and_a_startup_probe_holds_the_others_back(pods: Pods):
    probe = {"exec": {"command": ["test", "-e", "/tmp/alive"]}, "periodSeconds": 1, "failureThreshold": 2}
    begin = {"exec": {"command": ["test", "-e", "/tmp/begun"]}, "periodSeconds": 1, "failureThreshold": 30}
    script = "touch /tmp/alive; sleep 1; touch /tmp/begun; sleep 1.5; rm /tmp/alive; exec sleep 600"
    await pods.create(tools(script, livenessProbe=probe, startupProbe=begin), terminationGracePeriodSeconds=0)
    pod = await pods.until(lambda pod: container(pod).get("state", {}).get("running"))
    assert (container(pod)["started"], is_ready(pod)) == (False, False)
    await pods.ready()
    pod = await pods.until(lambda pod: container(pod).get("restartCount") == 1)
    assert terminated(pod, state="lastState") in {(137, "Error"), (143, "Error")}
    assert any("Liveness probe failed" in message for message in await pods.events("Unhealthy"))


async def test_readiness_follows_its_probe_and_a_gate(cluster: Cluster, pods: Pods):
    probe = {"exec": {"command": ["test", "-e", "/tmp/good"]}, "periodSeconds": 1, "failureThreshold": 1}
    script = "touch /tmp/good; sleep 3; rm /tmp/good; exec sleep 600"
    gate = [{"conditionType": "test/gate"}]
    await pods.create(tools(script, readinessProbe=probe), readinessGates=gate, terminationGracePeriodSeconds=0)
    pod = await pods.until(lambda pod: conditions(pod).get("ContainersReady") == "True")
    assert conditions(pod)["Ready"] == "False"
    opened = {"status": {"conditions": [{"type": "test/gate", "status": "True"}]}}
    strategic = "application/strategic-merge-patch+json"
    await cluster.rest.call("PATCH", f"{pods.path}/p/status", opened, content_type=strategic)
    await pods.ready()
    pod = await pods.until(lambda pod: not is_ready(pod))
    assert conditions(pod)["test/gate"] == "True"


async def test_a_grpc_probe_is_refused_with_a_reason(pods: Pods):
    await pods.create(tools("true", readinessProbe={"grpc": {"port": 1}}))
    pod = await pods.until(lambda pod: waiting(pod) == "CreateContainerConfigError")
    assert "grpc probes are not played" in container(pod)["state"]["waiting"]["message"]


async def test_logs_are_told_by_kubectl_and_lie_beside_the_test(pods: Pods, kubelet: TestKubelet):
    await pods.create(tools("for i in 1 2 3; do echo line $i; done; echo err >&2; exec sleep 600"))
    await pods.ready()
    await pods.until(lambda _: kubelet.logs(pods.namespace, "p", "c")[0].read_text().endswith("err\n"))
    assert await pods.log() == "line 1\nline 2\nline 3\nerr\n"
    assert await pods.log("p", "--tail=2") == "line 3\nerr\n"
    with pytest.raises(KubectlFailed, match="previous terminated container"):
        await pods.log("p", "--previous")


async def test_kubectl_follows_a_log_to_its_end(pods: Pods):
    await pods.create(tools("for i in 1 2 3 4; do echo $i; sleep 0.3; done"), restartPolicy="Never")
    await pods.until(lambda pod: container(pod).get("state", {}).get("running"))
    assert await pods.log("p", "--follow") == "1\n2\n3\n4\n"


async def test_what_a_container_writes_last_is_its_message(pods: Pods):
    one = tools("echo from log; exit 1", name="a", terminationMessagePolicy="FallbackToLogsOnError")
    await pods.create(one, tools("echo said > /dev/termination-log"), restartPolicy="Never")
    pod = await pods.ended()
    messages = [container(pod, name)["state"]["terminated"]["message"] for name in ("a", "c")]
    assert messages == ["from log\n", "said\n"]


async def test_a_program_that_there_is_not_is_a_start_error(pods: Pods):
    await pods.create({**tools(""), "command": ["/no/such/program"]}, restartPolicy="Never")
    pod = await pods.ended()
    assert terminated(pod) == (128, "StartError")


async def test_the_root_is_read_only_where_the_manifest_says_so(pods: Pods):
    script = "touch /file /tmp/file; touch /v/file && ls /v; id -u"
    mounts = {"volumeMounts": [{"name": "v", "mountPath": "/v"}]}
    context = {"securityContext": {"readOnlyRootFilesystem": True, "runAsUser": 1000}}
    await pods.create(
        tools(script, **mounts, **context), volumes=[{"name": "v", "emptyDir": {}}], restartPolicy="Never"
    )
    await pods.ended()
    said = await pods.log()
    assert said.count("Read-only file system") == 2
    assert said.endswith("file\n1000\n")


async def test_a_pod_that_may_not_be_root_is_not(pods: Pods):
    await pods.create(tools("true"), securityContext={"runAsNonRoot": True})
    pod = await pods.until(lambda pod: waiting(pod) == "CreateContainerConfigError")
    assert "runAsNonRoot" in container(pod)["state"]["waiting"]["message"]


async def test_a_hook_after_the_start_is_done_before_the_container_counts_as_started(pods: Pods):
    hook = {"postStart": {"exec": {"command": ["sh", "-c", "sleep 0.5; touch /tmp/hooked"]}}}
    probe = {"exec": {"command": ["test", "-e", "/tmp/hooked"]}, "failureThreshold": 1, "periodSeconds": 600}
    await pods.create(tools("exec sleep 600", lifecycle=hook, readinessProbe=probe), terminationGracePeriodSeconds=0)
    await pods.ready()


async def test_a_pod_on_the_network_of_its_node_has_the_node_s_address(pods: Pods):
    await pods.create(tools("exec sleep 600"), hostNetwork=True, terminationGracePeriodSeconds=0)
    pod = await pods.ready()
    assert pod["status"]["podIP"] == "198.18.0.1"


async def test_devices_are_handed_out_by_number(pods: Pods, kubelet: TestKubelet):
    limits = {"resources": {"limits": {"nvidia.com/gpu": "1"}}}
    for name in ("a", "b"):
        await pods.create(
            tools("echo $NVIDIA_VISIBLE_DEVICES; exec sleep 600", **limits), name=name, terminationGracePeriodSeconds=0
        )
        await pods.ready(name)
    assert [await pods.log(name) for name in ("a", "b")] == ["0\n", "1\n"]
    await kubelet.devices("n-0", {"nvidia.com/gpu": 0})
    bound = {"nodeName": "n-0", "restartPolicy": "Never"}
    await pods.create(tools("true", **limits), name="late", **bound)
    pod = await pods.ended("late")
    assert pod["status"]["reason"] == "UnexpectedAdmissionError"


async def test_a_hundred_pods_become_ready_within_seconds(cluster: Cluster, pods: Pods):
    ready = {"tcpSocket": {"port": 8080}, "periodSeconds": 1}
    template = {
        "metadata": {"labels": {"app": "hundred"}},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "c", "image": STATIC, "readinessProbe": ready}],
        },
    }
    spec = {"replicas": 100, "selector": {"matchLabels": {"app": "hundred"}}, "template": template}
    path = f"/apis/apps/v1/namespaces/{pods.namespace}/deployments"
    began = time.monotonic()
    await cluster.rest.create(path, {"metadata": {"name": "hundred"}, "spec": spec})
    async with asyncio.timeout(90):
        while True:
            status = (await cluster.rest.get(f"{path}/hundred"))["status"]
            if status.get("readyReplicas") == 100:
                break
            await asyncio.sleep(0.1)
    print(f"\n100 pods Running and Ready: {time.monotonic() - began:.1f} s")
    addresses = {pod["status"]["podIP"] for pod in (await cluster.rest.get(pods.path))["items"]}
    assert len(addresses) == 100


async def test_a_namespace_ends_without_a_process_and_without_an_object(cluster: Cluster, kubelet: TestKubelet):
    await cluster.nodes([NodeRow("n")])
    async with cluster.namespace() as namespace:
        pods = Pods(cluster, namespace)
        for index in range(3):
            await pods.create(
                tools("sleep 86399 & exec sleep 86399"), name=f"p{index}", terminationGracePeriodSeconds=1
            )
        for index in range(3):
            await pods.ready(f"p{index}")
        assert len(with_words("sleep 86399")) >= 6
    await cluster.rest.until_gone(f"/api/v1/namespaces/{namespace}")
    assert with_words("sleep 86399") == []


async def test_a_kubelet_that_is_killed_leaves_nothing_and_the_next_one_starts_the_pods_again(
    pods: Pods, kubelet: TestKubelet
):
    await pods.create(tools("exec sleep 86398"), terminationGracePeriodSeconds=0)
    await pods.create(tools("exec sleep 86398"), name="once", terminationGracePeriodSeconds=0, restartPolicy="Never")
    await pods.ready()
    await pods.ready("once")
    await kubelet.stop()
    assert with_words("sleep 86398") == []
    await kubelet.start()
    pod = await pods.until(lambda pod: container(pod)["restartCount"] == 1 and is_ready(pod))
    assert terminated(pod, state="lastState") == (137, "ContainerStatusUnknown")
    assert terminated(await pods.ended("once")) == (137, "ContainerStatusUnknown")


async def test_a_pod_that_is_deleted_by_force_ends_at_once(pods: Pods):
    await pods.create(tools("exec sleep 86397"))
    await pods.ready()
    await pods.delete(grace_s=0)
    await until(lambda: not with_words("sleep 86397"), 20)
    assert not await pods.exists()
