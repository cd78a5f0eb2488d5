"""EndpointSlices of one machine: one slice per replica, because each listens on a port of its own."""

from __future__ import annotations

from typing import Any

from flexinfer.api.v1alpha2.model import Model
from flexinfer.api.wellknown import LABEL_SERVICE_NAME, LABEL_SLICE_MANAGED_BY
from flexinfer.resources import names


def name(model: str, replica: int) -> str:
    return names.child(model, f"local-{replica}")


def build(model: Model, replica: int, host: str, port: int, *, ready: bool) -> dict[str, Any]:
    """`host` is an IP literal."""
    owner = model.metadata.name
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name(owner, replica),
            "namespace": model.key.namespace,
            "labels": {
                LABEL_SERVICE_NAME: names.service(owner),
                LABEL_SLICE_MANAGED_BY: "flexinfer-local",
            },
            "ownerReferences": [
                {
                    "apiVersion": model.api_version,
                    "kind": model.kind,
                    "name": owner,
                    "uid": model.metadata.uid,
                    "controller": True,
                }
            ],
        },
        "addressType": "IPv6" if ":" in host else "IPv4",
        "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
        "endpoints": [{"addresses": [host], "conditions": {"ready": ready}, "nodeName": "local"}],
    }
