"""EndpointSlices that lead the Service of a Model to the proxies while no replica of it can be called.

They stand beside those that the cluster keeps for the Service's selector. The port has the Service's own name
for it and the number of the proxies' port for such callers. One slice for each family of addresses.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from flexinfer.api.v1alpha2.model import Model
from flexinfer.api.wellknown import LABEL_MODEL, LABEL_SERVICE_NAME, LABEL_SLICE_MANAGED_BY
from flexinfer.resources import names

WAKE_PORT = 8083
MANAGED_BY = "flexinfer"
PORT_NAME = "http"
_MOST = 1000
"""Endpoints that a slice may have."""


class Slice(NamedTuple):
    """What of an EndpointSlice matters here, and is compared."""

    address_type: str
    addresses: tuple[str, ...]
    """Of what is ready, in order."""
    port: int


def wanted(addresses: Iterable[str]) -> dict[str, Slice]:
    """By address type; none where there is no address."""
    found: dict[str, list[str]] = {}
    for address in sorted(set(addresses)):
        found.setdefault("IPv6" if ":" in address else "IPv4", []).append(address)
    return {kind: Slice(kind, tuple(those[:_MOST]), WAKE_PORT) for kind, those in found.items()}


def leads_to_proxies(holding: bool, ready: Sequence[str]) -> bool:
    """Whether callers of the Service should come to the proxies: nobody is ready, or who is ready is about to go."""
    return holding or not ready


def name(model: str, address_type: str) -> str:
    return names.child(model, f"wake-{address_type.lower()}")


def build(model: Model, one: Slice) -> dict[str, Any]:
    own = model.metadata.name
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name(own, one.address_type),
            "namespace": model.key.namespace,
            "labels": {
                LABEL_SERVICE_NAME: names.service(own),
                LABEL_SLICE_MANAGED_BY: MANAGED_BY,
                LABEL_MODEL: names.label(own),
                "app.kubernetes.io/managed-by": "flexinfer",
            },
            "ownerReferences": [
                {
                    "apiVersion": model.api_version,
                    "kind": model.kind,
                    "name": own,
                    "uid": model.metadata.uid,
                    "controller": True,
                }
            ],
        },
        "addressType": one.address_type,
        "ports": [{"name": PORT_NAME, "port": one.port, "protocol": "TCP"}],
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}} for address in one.addresses],
    }
