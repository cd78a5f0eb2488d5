"""Nodes of a test cluster, declared in a table: what they have, what they cost, what discovery says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from flexinfer.kube.wiretime import wire_time

NOT_READY = "node.kubernetes.io/not-ready"
"""The taint of a new node, until the node-lifecycle controller has seen that it is Ready."""


class Card(NamedTuple):
    """A GPU as its vendor's device plugin and feature discovery tell of it."""

    vendor: str
    product: str
    arch: str
    vram_mib: int
    resource: str


CARDS: Mapping[str, Card] = {
    "gtx-980-ti": Card("NVIDIA", "NVIDIA-GeForce-GTX-980-Ti", "sm_52", 6144, "nvidia.com/gpu"),
    "rtx-3060": Card("NVIDIA", "NVIDIA-GeForce-RTX-3060", "sm_86", 12288, "nvidia.com/gpu"),
    "rtx-4090": Card("NVIDIA", "NVIDIA-GeForce-RTX-4090", "sm_89", 24564, "nvidia.com/gpu"),
    "l4": Card("NVIDIA", "NVIDIA-L4", "sm_89", 23034, "nvidia.com/gpu"),
    "a100-80gb": Card("NVIDIA", "NVIDIA-A100-SXM4-80GB", "sm_80", 81920, "nvidia.com/gpu"),
    "h100": Card("NVIDIA", "NVIDIA-H100-80GB-HBM3", "sm_90", 81559, "nvidia.com/gpu"),
    "rx-7900-xtx": Card("AMD", "Radeon_RX_7900_XTX", "gfx1100", 24560, "amd.com/gpu"),
    "mi300x": Card("AMD", "AMD_Instinct_MI300X_OAM", "gfx942", 196592, "amd.com/gpu"),
    "arc-a770": Card("Intel", "Arc_A770", "xe-hpg", 16288, "gpu.intel.com/i915"),
}


@dataclass(frozen=True)
class NodeRow:
    """`count` nodes alike: `{name}-0`, `{name}-1`, …

    `card` is a key of CARDS; `gpus` of them are in each node. Labels and annotations given here come after
    those of discovery and win.
    """

    name: str
    count: int = 1
    card: str | None = None
    gpus: int = 1
    cost_per_hour: float | None = None
    cpu: str = "16"
    memory: str = "64Gi"
    pods: int = 110
    avx512: bool = True
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[Mapping[str, str], ...] = ()
    ready: bool = True


def node_objects(table: Sequence[NodeRow]) -> list[dict[str, Any]]:
    return [_node(row, f"{row.name}-{index}") for row in table for index in range(row.count)]


def discovered(card: Card, gpus: int) -> dict[str, str]:
    """Labels that node feature discovery and the vendor's own put on a node with such cards."""
    match card.vendor:
        case "NVIDIA":
            major, minor = card.arch.removeprefix("sm_")[:-1], card.arch[-1]
            return {
                "feature.node.kubernetes.io/pci-10de.present": "true",
                "nvidia.com/gpu.present": "true",
                "nvidia.com/gpu.product": card.product,
                "nvidia.com/gpu.memory": str(card.vram_mib),
                "nvidia.com/gpu.count": str(gpus),
                "nvidia.com/gpu.compute.major": major,
                "nvidia.com/gpu.compute.minor": minor,
            }
        case "AMD":
            return {
                "feature.node.kubernetes.io/pci-1002.present": "true",
                "feature.node.kubernetes.io/amd-gpu": "true",
                "amd.com/gpu.vram": f"{round(card.vram_mib / 1024)}G",
                "amd.com/gpu.product-name": card.product,
                "gpu.amd.com/gpu-architecture": card.arch,
            }
        case _:
            return {
                "feature.node.kubernetes.io/pci-8086.present": "true",
                "intel.feature.node.kubernetes.io/gpu": "true",
            }


def _node(row: NodeRow, name: str) -> dict[str, Any]:
    labels = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
    amounts = {"cpu": row.cpu, "memory": row.memory, "pods": str(row.pods)}
    annotations = dict(row.annotations)
    if row.avx512:
        labels["feature.node.kubernetes.io/cpu-cpuid.AVX512F"] = "true"
    if row.card is not None:
        card = CARDS[row.card]
        labels |= discovered(card, row.gpus)
        amounts[card.resource] = str(row.gpus)
    if row.cost_per_hour is not None:
        annotations.setdefault("flexinfer.ai/cost", str(row.cost_per_hour))
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {**labels, **row.labels}, "annotations": annotations},
        "spec": {"taints": [dict(taint) for taint in row.taints]},
        "status": {
            "capacity": amounts,
            "allocatable": amounts,
            "conditions": [ready_condition(ready=row.ready)],
            "addresses": [{"type": "InternalIP", "address": "198.18.0.1"}, {"type": "Hostname", "address": name}],
            "nodeInfo": _INFO | {"machineID": name, "systemUUID": name, "bootID": name},
        },
    }


def ready_condition(*, ready: bool) -> dict[str, str]:
    now = wire_time(datetime.now(UTC))
    return {
        "type": "Ready",
        "status": "True" if ready else "False",
        "reason": "Declared",
        "message": "the table of the test says so",
        "lastHeartbeatTime": now,
        "lastTransitionTime": now,
    }


_INFO = {
    "kernelVersion": "6.1.0",
    "osImage": "test",
    "containerRuntimeVersion": "test://1",
    "kubeletVersion": "v1.34.0",
    "kubeProxyVersion": "",
    "operatingSystem": "linux",
    "architecture": "amd64",
}
