"""The scale subresource: how many replicas an object wants and has, as autoscalers see it."""

from __future__ import annotations

from typing import Any, Final

from flexinfer.errors import Invalid
from flexinfer.kube.store import Object

SCALED_KINDS: Final = frozenset({"Deployment", "Model", "ModelDeployment", "ReplicaSet", "StatefulSet"})


def of(obj: Object) -> Object:
    """The Scale of a stored object."""
    meta, status = obj["metadata"], obj.get("status") or {}
    kept = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    scale: Object = {
        "apiVersion": "autoscaling/v1",
        "kind": "Scale",
        "metadata": {name: meta[name] for name in kept if name in meta},
        "spec": {},
        "status": {"replicas": status.get("replicas", 0)},
    }
    if (wanted := obj.get("spec", {}).get("replicas")) is not None:
        scale["spec"]["replicas"] = wanted
    if selector := _selector(obj):
        scale["status"]["selector"] = selector
    return scale


def _selector(obj: Object) -> str:
    chosen: Any = obj.get("spec", {}).get("selector")
    if isinstance(chosen, dict):
        labels = chosen.get("matchLabels") or {}
        return ",".join(f"{name}={value}" for name, value in sorted(labels.items()))
    found = (obj.get("status") or {}).get("selector")
    return found if isinstance(found, str) else ""


def scaled(obj: Object, scale: Object) -> Object:
    """`obj` with what `scale` wants, and with its preconditions."""
    wanted = (scale.get("spec") or {}).get("replicas", 0)
    if not isinstance(wanted, int) or isinstance(wanted, bool) or wanted < 0:
        raise Invalid(f"spec.replicas: {wanted!r}: expected a number that is not negative")
    given = scale.get("metadata") or {}
    preconditions = {name: given.get(name) for name in ("resourceVersion", "uid")}
    return {
        **obj,
        "metadata": {**obj["metadata"], **preconditions},
        "spec": {**obj.get("spec", {}), "replicas": wanted},
    }
