"""Nodes of a test cluster, declared in a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any


@dataclass(frozen=True)
class NodeRow:
    """`count` nodes alike: `{name}-0`, `{name}-1`, …"""

    name: str
    count: int = 1
    cpu: str = "16"
    memory: str = "64Gi"
    pods: int = 110
    extended: Mapping[str, int] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[Mapping[str, str], ...] = ()
    ready: bool = True


def node_objects(table: Sequence[NodeRow]) -> list[dict[str, Any]]:
    return [_node(row, f"{row.name}-{index}") for row in table for index in range(row.count)]


def _node(row: NodeRow, name: str) -> dict[str, Any]:
    amounts = {"cpu": row.cpu, "memory": row.memory, "pods": str(row.pods)}
    amounts |= {resource: str(number) for resource, number in row.extended.items()}
    labels = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    ready = {
        "type": "Ready",
        "status": "True" if row.ready else "False",
        "reason": "Declared",
        "message": "a test says so",
        "lastHeartbeatTime": now,
        "lastTransitionTime": now,
    }
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {**labels, **row.labels}, "annotations": dict(row.annotations)},
        "spec": {"taints": [dict(taint) for taint in row.taints]},
        "status": {
            "capacity": amounts,
            "allocatable": amounts,
            "conditions": [ready],
            "addresses": [{"type": "InternalIP", "address": "198.18.0.1"}, {"type": "Hostname", "address": name}],
            "nodeInfo": {
                "machineID": name,
                "systemUUID": name,
                "bootID": name,
                "kernelVersion": "6.1.0",
                "osImage": "test",
                "containerRuntimeVersion": "test://1",
                "kubeletVersion": "v1.36.3",
                "kubeProxyVersion": "",
                "operatingSystem": "linux",
                "architecture": "amd64",
            },
        },
    }
