"""`flexinfer proxy` as a process with an identity of its own, and simulated replicas that slices lead to."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from tests.support.cluster.cluster import Cluster
from tests.support.cluster.controlplane import BRIDGE
from tests.support.cluster.identity import Identity, rule
from tests.support.models import manifest
from tests.support.spawned import Spawned
from tests.support.waiting import until

from flexinfer.api.meta import ObjectKey
from flexinfer.kube.store import ENDPOINT_SLICES, MODELS, Object

RIGHTS = (
    rule("ai.flexinfer", "models", "get list watch"),
    rule("ai.flexinfer", "models/status", "patch"),
    rule("discovery.k8s.io", "endpointslices", "list watch"),
)
"""All that a proxy may do where Models are."""
LIMIT_S = 40.0


async def allow(cluster: Cluster, identity: Identity, namespace: str) -> None:
    """RIGHTS in one more namespace."""
    path = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}"
    own, name = identity.user.split(":")[2:]
    await cluster.rest.create(f"{path}/roles", {"metadata": {"name": name}, "rules": list(RIGHTS)})
    binding = {
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": own}],
    }
    await cluster.rest.create(f"{path}/rolebindings", binding)


def free_ports(count: int, host: str = BRIDGE) -> list[int]:
    held = [socket.create_server((host, 0)) for _ in range(count)]
    ports = [sock.getsockname()[1] for sock in held]
    for sock in held:
        sock.close()
    return ports


class Proxy:
    """Its addresses; `child` is the process."""

    def __init__(self, child: Spawned, host: str, ports: Sequence[int]) -> None:
        self.child = child
        self.url, self.metrics, self.wake = (f"http://{host}:{port}" for port in ports)
        self.ports = tuple(ports)

    async def ready(self) -> bool:
        return (await status(f"{self.metrics}/readyz"))[0] == 200

    async def until_ready(self) -> None:
        await asyncio.to_thread(self.child.line, '"serving"', LIMIT_S)
        await until(self.ready, LIMIT_S, every_s=0.05)

    async def end(self) -> int:
        self.child.terminate()
        return await asyncio.to_thread(self.child.end, LIMIT_S)


async def status(url: str, **headers: str) -> tuple[int, str]:
    """0 where nothing listens."""
    try:
        async with aiohttp.ClientSession() as client, client.get(url, headers=headers) as answer:
            return answer.status, await answer.text()
    except aiohttp.ClientConnectionError:
        return 0, ""


@asynccontextmanager
async def proxy(
    identity: Identity, *words: str, auth: Sequence[str] = ("--no-auth",), server: str = "", host: str = BRIDGE
) -> AsyncIterator[Proxy]:
    """Started, not waited for. `server`: the way to the API server that it takes instead of the kubeconfig's."""
    ports = free_ports(3, host)
    named = ("--port", "--metrics-port", "--wake-port")
    where = [word for name, port in zip(named, ports, strict=True) for word in (name, str(port))]
    kubeconfig = identity.kubeconfig
    if server:
        text = kubeconfig.read_text()
        kubeconfig = kubeconfig.with_suffix(f".{ports[0]}")
        kubeconfig.write_text(_led_to(text, server))
    with Spawned("proxy", "--kubeconfig", str(kubeconfig), "--host", host, *where, *auth, *words) as child:
        yield Proxy(child, host, ports)


def _led_to(kubeconfig: str, server: str) -> str:
    import json

    found = json.loads(kubeconfig)
    found["clusters"][0]["cluster"]["server"] = server
    return json.dumps(found)


@asynccontextmanager
async def replica(*models: str, **options: str) -> AsyncIterator[int]:
    """A simulated engine; its port on the bridge."""
    (port,) = free_ports(1)
    words = [word for name in models for word in ("--model", name)]
    words += [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value)]
    with Spawned("sim", "--host", BRIDGE, "--port", str(port), *words) as child:
        await asyncio.to_thread(child.line, "ready|listening", LIMIT_S)
        yield port


class Models:
    """The Models of one namespace, and what the manager and the cluster would write for them, written by hand."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self._store = cluster.admin
        self.namespace = namespace

    def key(self, name: str) -> ObjectKey:
        return ObjectKey(self.namespace, name)

    async def create(self, name: str = "m", **spec: Any) -> None:
        obj = manifest(name, **spec)
        obj["metadata"]["namespace"] = self.namespace
        await self._store.create(MODELS, obj)

    async def get(self, name: str = "m") -> Object:
        return await self._store.get(MODELS, self.key(name))

    async def status(self, name: str = "m", **status: Any) -> None:
        await self._store.patch(
            MODELS, self.key(name), {"status": status}, subresource="status", field_manager="flexinfer-manager"
        )

    async def last_active(self, name: str = "m") -> str | None:
        found: str | None = ((await self.get(name)).get("status") or {}).get("lastActiveTime")
        return found

    async def replicas(self, *ports: int, name: str = "m", host: str = BRIDGE) -> None:
        """These are its ready replicas."""
        for slot, port in enumerate(ports):
            obj = self._slice(f"{name}-{slot}", name, host, port)
            await self._store.apply(ENDPOINT_SLICES, obj, field_manager="cluster-test", force=True)

    async def no_replica(self, name: str = "m", slot: int = 0) -> None:
        await self._store.delete(ENDPOINT_SLICES, self.key(f"{name}-{slot}"))

    def _slice(self, own: str, service: str, host: str, port: int) -> Object:
        return {
            "apiVersion": ENDPOINT_SLICES.api_version,
            "kind": "EndpointSlice",
            "metadata": {
                "name": own,
                "namespace": self.namespace,
                "labels": {
                    "kubernetes.io/service-name": service,
                    "endpointslice.kubernetes.io/managed-by": "test",
                    "app.kubernetes.io/managed-by": "flexinfer",
                },
            },
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
            "endpoints": [{"addresses": [host], "conditions": {"ready": True}, "nodeName": "n-0"}],
        }
