"""Who may reach the serving pods of a Model, by what the installation says."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.models import manifest

from flexinfer.api import codec
from flexinfer.resources.installation import Installation
from flexinfer.resources.model import networkpolicy

PROXIES = {
    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "inference"}},
    "podSelector": {"matchLabels": {"app.kubernetes.io/name": "flexinfer", "app.kubernetes.io/component": "proxy"}},
}


@pytest.mark.parametrize(
    ("access", "expected"),
    [
        pytest.param("proxies", [PROXIES], id="the proxies alone"),
        pytest.param("namespace", [PROXIES, {"podSelector": {}}], id="pods of the Model's namespace too"),
        pytest.param("cluster", [PROXIES, {"namespaceSelector": {}}], id="every pod"),
    ],
)
def test_who_may_reach_serving_pods(access: str, expected: list[dict[str, Any]]):
    model = codec.from_object(manifest("chat"))
    (policy,) = networkpolicy.build(model, 8000, Installation(namespace="inference", model_access=access))
    assert policy["spec"] == {
        "podSelector": {"matchLabels": {"flexinfer.ai/model": "chat"}},
        "policyTypes": ["Ingress"],
        "ingress": [{"from": expected, "ports": [{"protocol": "TCP", "port": 8000}]}],
    }


def test_an_installation_may_have_none():
    assert networkpolicy.build(codec.from_object(manifest("chat")), 8000, Installation()) == []
