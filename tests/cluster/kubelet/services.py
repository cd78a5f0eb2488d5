"""What the pods of one kubelet share: the API, the machine, images, addresses, limits, settings."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.cluster.kubelet.devices import Devices
from tests.cluster.kubelet.events import Events
from tests.cluster.kubelet.images import Images
from tests.cluster.kubelet.memory import Limited
from tests.cluster.kubelet.network import HOST_IP, Addresses
from tests.cluster.kubelet.objects import Contents, Objects, Ref, contents
from tests.cluster.kubelet.probes import Prober
from tests.cluster.kubelet.sandbox import Machine
from tests.cluster.kubelet.servicetable import ServiceTable

from flexinfer.api.meta import ObjectKey
from flexinfer.errors import NotFound
from flexinfer.kube.store import CONFIG_MAPS, SECRETS, ObjectStore, Resource
from flexinfer.kube.wiretime import wire_time

_RESOURCES: Mapping[str, Resource] = {"configmap": CONFIG_MAPS, "secret": SECRETS}
# bubblewrap and an interpreter are work for a core each; more at once only makes all of them late.
_STARTS_AT_ONCE = 6


@dataclass(frozen=True)
class Settings:
    folder: Path
    """Everything that the kubelet writes: pods/, nodes/, volumes/, logs/."""
    api_host: str
    api_port: int
    dns_address: str
    back_off_base_s: float = 10.0
    back_off_cap_s: float = 300.0
    retry_s: float = 0.5
    """Between tries to find what a pod needs: claims, ConfigMaps, Secrets."""
    host_ip: str = HOST_IP

    @property
    def cluster_env(self) -> dict[str, str]:
        """Where the API server is, for every container."""
        host, port = self.api_host, str(self.api_port)
        return {
            "KUBERNETES_SERVICE_HOST": host,
            "KUBERNETES_SERVICE_PORT": port,
            "KUBERNETES_SERVICE_PORT_HTTPS": port,
            "KUBERNETES_PORT": f"tcp://{host}:{port}",
        }


CachedObject = Callable[[Ref, str], Mapping[str, Any] | None]


@dataclass
class Services:
    store: ObjectStore
    settings: Settings
    machine: Machine
    images: Images
    addresses: Addresses
    prober: Prober
    devices: Devices
    events: Events
    cached: CachedObject
    """A ConfigMap or Secret as the watch has it, by reference and namespace; None: unknown."""
    table: ServiceTable
    allocatable: Callable[[str], Mapping[str, str]]
    """What a node has, by its name."""
    limited: dict[int, Limited] = field(default_factory=dict)
    """Containers with a memory limit, by process."""
    starting: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_STARTS_AT_ONCE))

    async def objects(self, refs: Iterable[Ref], namespace: str) -> Objects:
        """What there is of them. Raises StoreError, OSError."""
        found: dict[Ref, Contents] = {}
        for ref in refs:
            obj = self.cached(ref, namespace)
            if obj is None:
                try:
                    obj = await self.store.get(_RESOURCES[ref.kind], ObjectKey(namespace, ref.name))
                except NotFound:
                    continue
            found[ref] = contents(ref, obj)
        return found


def timestamp() -> str:
    return wire_time(datetime.now(UTC))
