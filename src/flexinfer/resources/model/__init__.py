"""The objects that a cluster should hold for a Model, beside those of its bytes (`cache`). Pure.

pods(model, engine, data, installation) -> Pods
build(model, replicas, pods, port, installation) -> Service, Deployment, and NetworkPolicy where there are some
"""

from __future__ import annotations

from typing import Any

from flexinfer.api.v1alpha2.model import Model
from flexinfer.resources.installation import Installation
from flexinfer.resources.model import deployment, networkpolicy, pod, service
from flexinfer.resources.model.cache import CachePlan
from flexinfer.resources.model.deployment import Pods
from flexinfer.resources.model.pod import Engine


def pods(model: Model, engine: Engine, data: CachePlan, installation: Installation) -> Pods:
    """What its pods are made from. `model.spec` has its defaults resolved."""
    return Pods(template=pod.template(model, engine, data, installation), place=deployment.noted(engine.place))


def build(model: Model, replicas: int, made: Pods, port: int, installation: Installation) -> list[dict[str, Any]]:
    """`model.spec` has its defaults resolved; `port` is the engine's. Whoever applies them adds owner and namespace."""
    return [
        service.build(model, port),
        deployment.build(model, made, replicas),
        *networkpolicy.build(model, port, installation),
    ]
