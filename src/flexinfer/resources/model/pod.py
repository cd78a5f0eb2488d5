"""The pod template of a Model: one container named `model`, made of a LaunchPlan, a Place and a CachePlan.

What may change while replicas run does not show in it: a template that changes replaces every pod. So spread
and anti-affinity are wishes that stand for one replica too, and nodes are told apart by rules about labels,
never by name.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from flexinfer import backends
from flexinfer.api import wellknown
from flexinfer.api.quantity import Quantity
from flexinfer.api.v1alpha2.model import Model
from flexinfer.backends import compat
from flexinfer.backends.base import LaunchPlan, Vendor
from flexinfer.lifecycle.decide import load_limit_s
from flexinfer.placement.cluster import USABLE, Place
from flexinfer.placement.clusternodes import NVIDIA_MAJOR, NVIDIA_MEMORY, RESOURCES
from flexinfer.resources import names
from flexinfer.resources.installation import Installation
from flexinfer.resources.model import security
from flexinfer.resources.model.cache import CachePlan

Object = dict[str, Any]

CONTAINER = "model"
STATE = "/var/lib/flexinfer/engine"
"""HOME of the engine, an empty folder of the pod."""
DRAIN_S = 3
"""From the end of a pod's endpoint to SIGTERM: as long as a proxy may take to see it."""
GRACE_MARGIN_S = 5
LOST_NODE_S = 30
STARTUP_BUDGETS = 12
"""The manager ends a load that makes no progress; the kubelet only one that nobody watches."""
_RUNTIME_CLASS = "nvidia"
# The device plugin decides what a container sees; a number of ours would be of another order.
_VISIBLE = frozenset({"CUDA_DEVICE_ORDER", "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"})


class Engine(msgspec.Struct, frozen=True, kw_only=True):
    """What is to run, and on what."""

    plan: LaunchPlan
    place: Place
    image: str
    own_image: bool = False
    """Whether it is FlexInfer's image, whose entry point is the command line `flexinfer`."""
    runtime_classes: frozenset[str] = frozenset()
    """Those that the cluster has."""


def template(model: Model, engine: Engine, data: CachePlan, installation: Installation) -> Object:
    """`model.spec` has its defaults resolved."""
    labelled, annotated = labels(model), _annotations(model)
    spec = _spec(model, engine, data, installation)
    content = json.dumps([labelled, annotated, spec], sort_keys=True)
    annotated[wellknown.ANNOTATION_TEMPLATE] = hashlib.sha256(content.encode()).hexdigest()[:12]
    return {"metadata": {"labels": labelled, "annotations": annotated}, "spec": spec}


def digest(template: Object) -> str:
    """What pods that were made from it carry."""
    return str(template["metadata"]["annotations"][wellknown.ANNOTATION_TEMPLATE])


def labels(model: Model) -> dict[str, str]:
    name = names.label(model.metadata.name)
    found = {
        "app.kubernetes.io/name": "model",
        "app.kubernetes.io/instance": name,
        "app.kubernetes.io/managed-by": "flexinfer",
        wellknown.LABEL_MODEL: name,
        wellknown.LABEL_BACKEND: wellknown.backend_name(model.spec.backend),
    }
    if model.spec.gpu is not None and model.spec.gpu.shared:
        found[wellknown.LABEL_GPU_GROUP] = model.spec.gpu.shared
    return found


def selector(model: Model) -> dict[str, str]:
    """Of the Deployment and the Service: it can never change."""
    return {wellknown.LABEL_MODEL: names.label(model.metadata.name)}


def placement(model: Model, place: Place) -> Object:
    """Where its pods may run, in the words of a pod's spec."""
    found = {
        "nodeSelector": dict(model.spec.node_selector),
        "affinity": {"nodeAffinity": _node_affinity(model, place)} if _node_terms(model, place) else {},
        "tolerations": _tolerations(model, place),
    }
    return {name: value for name, value in found.items() if value}


def _annotations(model: Model) -> dict[str, str]:
    found = {
        wellknown.ANNOTATION_MODEL: model.metadata.name,
        wellknown.LABEL_BACKEND: wellknown.backend_name(model.spec.backend),
    }
    if model.spec.gpu is not None and model.spec.gpu.vram_estimate_mb:
        found[wellknown.ANNOTATION_VRAM_ESTIMATE] = str(model.spec.gpu.vram_estimate_mb)
    return found


def _spec(model: Model, engine: Engine, data: CachePlan, installation: Installation) -> Object:
    plan, place = engine.plan, engine.place
    user = plan.user or (security.USER if engine.own_image else 0)
    spec: Object = {
        "containers": [_container(model, engine, data, installation)],
        "volumes": [*data.volumes, *_volumes(engine, data, installation)],
        "securityContext": security.pod(user, groups=security.AMD_GROUPS if place.vendor == "amd" else ()),
        "serviceAccountName": "default",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": math.ceil(_drain_s(plan) + plan.stop_grace_s) + GRACE_MARGIN_S,
        "affinity": _affinity(model, place),
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": selector(model)},
            }
        ],
    }
    tolerations = [*_tolerations(model, place), *_lost_node(model)]
    optional: Object = {
        "initContainers": list(data.init_containers),
        "nodeSelector": dict(model.spec.node_selector),
        "tolerations": tolerations,
        "runtimeClassName": _RUNTIME_CLASS
        if place.vendor == "nvidia" and _RUNTIME_CLASS in engine.runtime_classes
        else "",
        "schedulerName": installation.scheduler_name,
        "imagePullSecrets": [{"name": name} for name in installation.pull_secrets],
    }
    return spec | {name: value for name, value in optional.items() if value}


def _container(model: Model, engine: Engine, data: CachePlan, installation: Installation) -> Object:
    plan = engine.plan
    user = plan.user or (security.USER if engine.own_image else 0)
    found: Object = {
        "name": CONTAINER,
        "image": engine.image,
        "args": [*(plan.fallback if engine.own_image else ()), *plan.args],
        "env": [{"name": name, "value": value} for name, value in sorted(_env(engine, data, installation).items())],
        "ports": [{"name": "http", "containerPort": plan.port, "protocol": "TCP"}],
        "volumeMounts": [*data.mounts, *_mounts(engine, data, installation)],
        "securityContext": security.container(user, read_only=engine.own_image),
        # What an engine that ends by itself says last is why it did.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", str(_drain_s(plan))]}}},
        **_probes(model, plan),
    }
    if not engine.own_image and plan.container_command:
        found["command"] = list(plan.container_command)
    if engine.own_image and installation.pull_policy:
        found["imagePullPolicy"] = installation.pull_policy
    resources = _resources(model, engine.place, data.memory_bytes)
    if resources:
        found["resources"] = resources
    return found


def _drain_s(plan: LaunchPlan) -> int:
    return max(DRAIN_S, math.ceil(plan.pre_stop_s))


def _probes(model: Model, plan: LaunchPlan) -> Object:
    """A load has the whole of its budget; an engine that was ready is given two minutes before it is restarted."""
    asked = {"httpGet": {"path": plan.health_path, "port": "http"}}
    return {
        "startupProbe": {
            **asked,
            "periodSeconds": 1,
            "timeoutSeconds": 5,
            "failureThreshold": math.ceil(STARTUP_BUDGETS * load_limit_s(model.spec)),
        },
        "readinessProbe": {**asked, "periodSeconds": 2, "timeoutSeconds": 5, "failureThreshold": 3},
        "livenessProbe": {**asked, "periodSeconds": 10, "timeoutSeconds": 10, "failureThreshold": 12},
    }


def _env(engine: Engine, data: CachePlan, installation: Installation) -> dict[str, str]:
    plan, place = engine.plan, engine.place
    env = {"HOME": STATE, "HF_HOME": f"{_hub_folder(data, installation)}/.cache/huggingface"}
    env |= {name: value for name, value in plan.env.items() if not place.count or name not in _VISIBLE}
    if not place.count:
        # Where NVIDIA's runtime is the default one, its images see every GPU unless they are told not to.
        env["NVIDIA_VISIBLE_DEVICES"] = "void"
    return env


def _hub_folder(data: CachePlan, installation: Installation) -> str:
    """Below the cache where the engine may write there."""
    writable = any(one["mountPath"] == installation.cache_path and not one.get("readOnly") for one in data.mounts)
    return installation.cache_path if writable else STATE


def _volumes(engine: Engine, data: CachePlan, installation: Installation) -> list[Object]:
    found: list[Object] = [{"name": name, "emptyDir": {}} for name, _ in _writable(engine, data)]
    if limit := _shm(engine, installation):
        found.append({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": limit}})
    return found


def _mounts(engine: Engine, data: CachePlan, installation: Installation) -> list[Object]:
    found = [{"name": name, "mountPath": path} for name, path in _writable(engine, data)]
    return [*found, {"name": "shm", "mountPath": "/dev/shm"}] if _shm(engine, installation) else found  # noqa: S108


def _shm(engine: Engine, installation: Installation) -> str:
    """Size of /dev/shm; empty: the few megabytes of the container runtime."""
    if engine.place.count:
        return str(installation.shm_limit)
    return f"{engine.plan.shm_mib}Mi" if engine.plan.shm_mib else ""


def _writable(engine: Engine, data: CachePlan) -> Iterator[tuple[str, str]]:
    """Folders that the engine may write to, each a volume of its own unless the cache has one there."""
    taken = {one["mountPath"] for one in data.mounts}
    paths = dict.fromkeys((STATE, "/tmp", *engine.plan.writable_paths))  # noqa: S108
    for number, path in enumerate(path for path in paths if path not in taken):
        yield f"scratch-{number}", path


def _resources(model: Model, place: Place, staged_bytes: int) -> Object:
    limits = _amounts(model.spec.resources.limits, staged_bytes)
    requests = _amounts(model.spec.resources.requests, staged_bytes)
    if place.count and place.vendor in RESOURCES:
        limits[RESOURCES[place.vendor]] = str(place.count)
    return {name: found for name, found in (("limits", limits), ("requests", requests)) if found}


def _amounts(asked: Mapping[str, Quantity], staged_bytes: int) -> dict[str, str]:
    """What the user wrote is for the engine: files in memory are counted too, and come on top."""
    found = {name: str(value) for name, value in asked.items()}
    if staged_bytes and "memory" in asked:
        found["memory"] = str(asked["memory"].bytes + staged_bytes)
    return found


def _tolerations(model: Model, place: Place) -> list[Object]:
    found = [msgspec.to_builtins(one) for one in model.spec.tolerations]
    dedicated = {"key": "dedicated", "operator": "Equal", "value": "gpu", "effect": "NoSchedule"}
    return [dedicated, *found] if place.count and dedicated not in found else found


def _lost_node(model: Model) -> Iterator[Object]:
    """A node that is not heard of is left after half a minute; Kubernetes alone would wait for five."""
    said = {one.key for one in model.spec.tolerations}
    for key in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"):
        if key not in said:
            yield {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": LOST_NODE_S}


def _affinity(model: Model, place: Place) -> Object:
    apart = {
        "weight": 100,
        "podAffinityTerm": {
            "topologyKey": "kubernetes.io/hostname",
            "labelSelector": {"matchLabels": selector(model)},
        },
    }
    affinity: Object = {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [apart]}}
    if _node_terms(model, place):
        affinity["nodeAffinity"] = _node_affinity(model, place)
    return affinity


def _node_affinity(model: Model, place: Place) -> Object:
    return {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": _node_terms(model, place)}}


def _node_terms(model: Model, place: Place) -> list[Object]:
    """Which nodes can run it, as far as labels that are always there tell it; what has no label is not refused."""
    if place.vendor != "nvidia" or not place.count:
        return []
    old = (
        [{"key": NVIDIA_MAJOR, "operator": "NotIn", "values": majors}] if (majors := _refused(model, "nvidia")) else []
    )
    need = model.spec.gpu.vram_estimate_mb if model.spec.gpu is not None else None
    if not need:
        return [{"matchExpressions": old}] if old else []
    least = math.ceil(-(-need // place.count) / USABLE)
    large = {"key": NVIDIA_MEMORY, "operator": "Gt", "values": [str(least - 1)]}
    unknown = {"key": NVIDIA_MEMORY, "operator": "DoesNotExist"}
    return [{"matchExpressions": [*old, large]}, {"matchExpressions": [*old, unknown]}]


def _refused(model: Model, vendor: Vendor) -> list[str]:
    """Compute capabilities (their first number) of which the compatibility table refuses every card."""
    backend = backends.get(model.spec.backend).name
    prefixes = sorted(prefix for prefix in compat.MATRIX if prefix.startswith("sm_") and vendor == "nvidia")
    return [
        prefix.removeprefix("sm_")
        for prefix in prefixes
        if len(prefix) == len("sm_5") and compat.refusal(backend, f"{prefix}0", model) is not None
    ]
