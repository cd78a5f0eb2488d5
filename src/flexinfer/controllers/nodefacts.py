"""Nodes of a cluster as placement looks at them; heartbeats and whatever else changes often are left out."""

from __future__ import annotations

import msgspec

from flexinfer.api.quantity import Quantity
from flexinfer.kube import typed
from flexinfer.kube.store import Object
from flexinfer.placement.clusternodes import RESOURCES, ClusterNode

_read = typed.reader(typed.Node)


class SeenNode(msgspec.Struct, frozen=True, kw_only=True):
    facts: ClusterNode
    lost: str = ""
    """Why it is not Ready; empty when it is."""


def read(obj: Object) -> SeenNode:
    """For an Informer; raises UnreadableObject."""
    node = _read(obj)
    ready = next((one for one in node.status.conditions if one.type == "Ready"), None)
    is_ready = ready is not None and ready.status == "True"
    said = ": ".join(filter(None, (ready.reason, ready.message))) if ready is not None else "it has not reported yet"
    return SeenNode(
        facts=ClusterNode(
            name=node.metadata.name,
            ready=is_ready,
            labels=node.metadata.labels,
            capacity={
                name: _whole(node.status.capacity[name]) for name in RESOURCES.values() if name in node.status.capacity
            },
        ),
        lost="" if is_ready else f"node {node.metadata.name} is not Ready ({said})",
    )


def _whole(quantity: str | float) -> int:
    try:
        return int(Quantity(str(quantity)).value)
    except ValueError:
        return 0
