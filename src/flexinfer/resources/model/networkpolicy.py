"""The NetworkPolicy of a Model: who may reach its serving pods, as the installation says by `modelAccess`.

The proxies always may. What a policy does not name it refuses, so a namespace that refuses everything by a policy of
its own still serves its Models.
"""

from __future__ import annotations

from typing import Any

from flexinfer.api.v1alpha2.model import Model
from flexinfer.resources import names
from flexinfer.resources.installation import Installation
from flexinfer.resources.model import pod

PROXY_LABELS = {"app.kubernetes.io/name": "flexinfer", "app.kubernetes.io/component": "proxy"}
"""Of the proxies' pods, as the chart makes them."""


def build(model: Model, port: int, installation: Installation) -> list[dict[str, Any]]:
    """None where the installation makes no policies; `port` is that of the engine."""
    if not installation.model_access:
        return []
    proxies = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": installation.namespace}},
        "podSelector": {"matchLabels": PROXY_LABELS},
    }
    others: dict[str, list[dict[str, Any]]] = {
        "proxies": [],
        "namespace": [{"podSelector": {}}],
        "cluster": [{"namespaceSelector": {}}],
    }
    rule = {
        "from": [proxies, *others[installation.model_access]],
        "ports": [{"protocol": "TCP", "port": port}],
    }
    return [
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": names.workload(model.metadata.name), "labels": pod.labels(model)},
            "spec": {
                "podSelector": {"matchLabels": pod.selector(model)},
                "policyTypes": ["Ingress"],
                "ingress": [rule],
            },
        }
    ]
