"""The objects that a cluster should hold for a Model, beside those of its bytes (`cache`). Pure.

build(model, replicas, engine, data, installation) -> Service, Deployment, and NetworkPolicy where there are some
"""

from __future__ import annotations

from typing import Any

from flexinfer.api.v1alpha2.model import Model
from flexinfer.resources.installation import Installation
from flexinfer.resources.model import deployment, networkpolicy, pod, service
from flexinfer.resources.model.cache import CachePlan
from flexinfer.resources.model.pod import Engine


def build(
    model: Model, replicas: int, engine: Engine, data: CachePlan, installation: Installation
) -> list[dict[str, Any]]:
    """`model.spec` has its defaults resolved. Owner and namespace are added by whoever applies them."""
    template = pod.template(model, engine, data, installation)
    return [
        service.build(model, engine.plan.port),
        deployment.build(model, template, engine.place, replicas),
        *networkpolicy.build(model, engine.plan.port, installation),
    ]
