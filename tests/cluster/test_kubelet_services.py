"""Services in the test cluster: pods and tests reach them by name and by address, and the ready pods behind them."""

from __future__ import annotations

import secrets
import sys
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from tests.cluster.kubelet.images import TOOLS
from tests.support.cluster.cluster import Cluster
from tests.support.cluster.kubelet import TestKubelet
from tests.support.cluster.nodes import NodeRow
from tests.support.cluster.pods import Pods, is_ready
from tests.support.waiting import until

PYTHON = f"{sys.base_prefix}/bin/python3"
# Answers with the name of its pod, the port that was reached and the Host that was asked for.
SERVER = """
import http.server, os, signal, sys, threading
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = f"{os.environ['HOSTNAME']} {self.server.server_port} {self.headers['Host']}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
first, second = (http.server.ThreadingHTTPServer(("0.0.0.0", port), Handler) for port in (8000, 9000))
threading.Thread(target=first.serve_forever).start()
second.serve_forever()
"""
# Asks each URL until it answers.
CLIENT = """
import ssl, sys, time, urllib.request
account = "/var/run/secrets/kubernetes.io/serviceaccount"
tls = ssl.create_default_context(cafile=f"{account}/ca.crt")
for url in sys.argv[1:]:
    asked = urllib.request.Request(url, headers={"Authorization": "Bearer " + open(f"{account}/token").read()})
    for attempt in range(200):
        try:
            with urllib.request.urlopen(asked, timeout=5, context=tls) as answer:
                print(answer.read().decode().split()[-2:])
            break
        except OSError as error:
            time.sleep(0.1)
    else:
        sys.exit(repr(error))
"""
# The addresses of a name, once there are so many.
LOOKUP = """
import socket, sys, time
found = []
while len(found) != int(sys.argv[2]):
    time.sleep(0.1)
    try:
        found = sorted({one[4][0] for one in socket.getaddrinfo(sys.argv[1], 80)})
    except OSError:
        pass
print(found)
"""
PORTS = [
    {"name": "http", "port": 80, "targetPort": "http"},
    {"name": "metrics", "port": 90, "targetPort": "metrics"},
]


@pytest.fixture
async def pods(cluster: Cluster, kubelet: TestKubelet) -> AsyncIterator[Pods]:
    """Of a fresh namespace; there are two nodes."""
    await cluster.nodes([NodeRow("n", count=2)])
    async with cluster.namespace() as namespace:
        yield Pods(cluster, namespace)


def server() -> dict[str, Any]:
    return {
        "name": "c",
        "image": TOOLS,
        "command": [PYTHON, "-c", SERVER],
        "ports": [{"name": "http", "containerPort": 8000}, {"name": "metrics", "containerPort": 9000}],
        "readinessProbe": {"tcpSocket": {"port": "metrics"}, "periodSeconds": 1},
    }


def workload(name: str, **spec: Any) -> dict[str, Any]:
    """Two servers, of a Deployment or a StatefulSet."""
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [server()]}}
    return {
        "metadata": {"name": name},
        "spec": {"replicas": 2, "selector": {"matchLabels": labels}, "template": template, **spec},
    }


async def service(cluster: Cluster, namespace: str, name: str, **spec: Any) -> str:
    """Its address."""
    made = {"metadata": {"name": name}, "spec": {"ports": PORTS, **spec}}
    found = await cluster.rest.create(f"/api/v1/namespaces/{namespace}/services", made)
    return str(found["spec"]["clusterIP"])


async def said(pods: Pods, name: str, *argv: str, **spec: Any) -> list[str]:
    """The lines that a command in a pod of its own writes; it ends well."""
    await pods.create({"name": "c", "image": TOOLS, "command": [*argv]}, name=name, restartPolicy="Never", **spec)
    pod = await pods.ended(name)
    assert pod["status"]["phase"] == "Succeeded", await pods.log(name)
    return (await pods.log(name)).splitlines()


async def answer(address: str, port: int) -> str:
    """Empty where the connection is refused."""
    try:
        async with aiohttp.ClientSession() as client, client.get(f"http://{address}:{port}/") as got:
            return await got.text()
    except aiohttp.ClientConnectorError:
        return ""


async def test_a_service_leads_from_every_namespace_to_all_its_ready_pods(cluster: Cluster, pods: Pods):
    namespace = pods.namespace
    await cluster.rest.create(f"/apis/apps/v1/namespaces/{namespace}/deployments", workload("web"))
    address = await service(cluster, namespace, "web", selector={"app": "web"})
    names = ("http://web/", f"http://web.{namespace}.svc:90/", f"http://web.{namespace}.svc.cluster.local/")
    expected = [
        "['8000', 'web']",
        f"['9000', 'web.{namespace}.svc:90']",
        f"['8000', 'web.{namespace}.svc.cluster.local']",
    ]
    assert await said(pods, "near", PYTHON, "-c", CLIENT, *names) == expected
    async with cluster.namespace() as other:
        assert await said(Pods(cluster, other), "far", PYTHON, "-c", CLIENT, *names[1:]) == expected[1:]
    # Tests stand on the bridge, and dial the address themselves.
    reached: set[str] = set()

    async def both() -> bool:
        reached.add((await answer(address, 80)).split()[0])
        return len(reached) == 2

    await until(both, 40)
    assert all(name.startswith("web-") for name in reached)


async def test_a_service_without_a_ready_pod_refuses_until_somebody_s_slice_leads_elsewhere(
    cluster: Cluster, pods: Pods
):
    address = await service(cluster, pods.namespace, "asleep", selector={"app": "none"})
    await pods.create(server(), name="waker")
    waker = await pods.until(is_ready, "waker")
    assert await answer(address, 80) == ""
    slices = f"/apis/discovery.k8s.io/v1/namespaces/{pods.namespace}/endpointslices"
    slice_ = {
        "metadata": {"name": "wake", "labels": {"kubernetes.io/service-name": "asleep"}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 9000}],
        "endpoints": [{"addresses": [waker["status"]["podIP"]], "conditions": {"ready": True}}],
    }
    await cluster.rest.create(slices, slice_)

    async def leads() -> bool:
        return await answer(address, 80) == f"waker 9000 {address}"

    async def refuses() -> bool:
        return await answer(address, 80) == ""

    await until(leads, 40)
    assert await answer(address, 90) == ""
    await cluster.rest.delete(f"{slices}/wake")
    await until(refuses, 40)


async def test_a_headless_service_has_the_names_of_its_pods(cluster: Cluster, pods: Pods):
    await service(cluster, pods.namespace, "each", selector={"app": "each"}, clusterIP="None")
    await cluster.rest.create(
        f"/apis/apps/v1/namespaces/{pods.namespace}/statefulsets", workload("each", serviceName="each")
    )
    addresses = []
    for name in ("each-0", "each-1"):
        await cluster.rest.until_found(f"{pods.path}/{name}")
        addresses.append((await pods.until(is_ready, name))["status"]["podIP"])
    assert await said(pods, "all", PYTHON, "-c", LOOKUP, "each", "2") == [str(sorted(addresses))]
    assert await said(pods, "one", PYTHON, "-c", LOOKUP, "each-1.each", "1") == [str(addresses[1:])]


async def test_a_pod_is_told_of_services_and_of_the_api_server(cluster: Cluster, pods: Pods):
    address = await service(cluster, pods.namespace, "my-web", selector={"app": "none"})
    script = "echo $MY_WEB_SERVICE_HOST $MY_WEB_SERVICE_PORT_METRICS $MY_WEB_PORT; cat /etc/resolv.conf"
    dns = cluster.plane.places.dns_address
    search = f"search {pods.namespace}.svc.cluster.local svc.cluster.local cluster.local"

    told = [""]
    # The kubelet hears of a Service at about the time when its creation is answered.
    while not told[0]:
        told = await said(pods, f"told-{secrets.token_hex(2)}", "sh", "-c", script)
    assert told == [f"{address} 90 tcp://{address}:80", f"nameserver {dns}", search, "options ndots:5"]
    assert await said(pods, "plain", "sh", "-c", "echo $MY_WEB_PORT", enableServiceLinks=False) == [""]
    version = "https://kubernetes.default.svc/api"
    assert len(await said(pods, "api", PYTHON, "-c", CLIENT, version)) == 1
