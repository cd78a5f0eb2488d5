"""The EndpointSlice by which proxies find a server that runs outside the cluster (`backend: external`).

It is for the proxies alone: they judge the address, verify its certificate and say its name. The label of headless
Services keeps kube-proxy from using it, so the Service of such a Model leads to the proxies for good.
"""

from __future__ import annotations

from typing import Any

from flexinfer.api.v1alpha2.model import Model
from flexinfer.api.wellknown import LABEL_HEADLESS, LABEL_MODEL, LABEL_SERVICE_NAME, LABEL_SLICE_MANAGED_BY
from flexinfer.resources import names

MANAGED_BY = "flexinfer-external"


def name(model: str) -> str:
    return names.child(model, "external")


def build(model: Model, host: str, port: int) -> dict[str, Any]:
    """`host` is an IP literal. Owner and namespace are added by whoever applies it."""
    own = model.metadata.name
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name(own),
            "labels": {
                LABEL_SERVICE_NAME: names.service(own),
                LABEL_SLICE_MANAGED_BY: MANAGED_BY,
                LABEL_HEADLESS: "",
                LABEL_MODEL: names.label(own),
                "app.kubernetes.io/managed-by": "flexinfer",
            },
        },
        "addressType": "IPv6" if ":" in host else "IPv4",
        "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
        "endpoints": [{"addresses": [host], "conditions": {"ready": True}}],
    }
