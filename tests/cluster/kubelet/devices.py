"""Device plugins: which numbers of a node's extended resources a pod holds, and what its containers are told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tests.cluster.kubelet.amounts import number

_VISIBLE: Mapping[str, str] = {
    "nvidia.com/gpu": "NVIDIA_VISIBLE_DEVICES",
    "amd.com/gpu": "ROCR_VISIBLE_DEVICES",
    "gpu.intel.com/i915": "ZE_AFFINITY_MASK",
}


class NoDevice(Exception):
    """The node has fewer than the pod was promised: UnexpectedAdmissionError."""


class Devices:
    """Whole devices by number, the lowest free ones first."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, str], dict[int, str]] = {}
        """(node, resource) -> number -> uid of the pod."""

    def take(self, pod: Mapping[str, Any], allocatable: Mapping[str, str]) -> dict[str, dict[str, str]]:
        """Variables by container. Raises NoDevice; then the pod holds none."""
        uid, node = pod["metadata"]["uid"], pod["spec"].get("nodeName", "")
        told: dict[str, dict[str, str]] = {}
        for container, resource, count in wanted(pod):
            held = self._held.setdefault((node, resource), {})
            total = int(number(allocatable.get(resource, "0")))
            free = [index for index in range(total) if index not in held][:count]
            if len(free) < count:
                self.release(uid)
                raise NoDevice(f"Allocate failed due to requested number of devices unavailable for {resource}")
            held.update(dict.fromkeys(free, uid))
            if variable := _VISIBLE.get(resource):
                told.setdefault(container, {})[variable] = ",".join(map(str, free))
        return told

    def release(self, uid: str) -> None:
        for held in self._held.values():
            for index in [index for index, holder in held.items() if holder == uid]:
                del held[index]


def wanted(pod: Mapping[str, Any]) -> Iterator[tuple[str, str, int]]:
    """(container, resource, count) for every extended resource that a main container asks for."""
    for container in pod["spec"]["containers"]:
        limits = (container.get("resources") or {}).get("limits") or {}
        for resource, amount in limits.items():
            if "/" in resource and not resource.startswith("hugepages-"):
                yield container["name"], resource, int(number(amount))
