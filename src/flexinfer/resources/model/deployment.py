"""The Deployment of a Model: how many pods, and how a new template takes the place of the old one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from flexinfer.api.v1alpha2.model import Model
from flexinfer.api.wellknown import ANNOTATION_PLACE, ANNOTATION_ROLLOUT
from flexinfer.lifecycle.rollout import Strategy, Written
from flexinfer.placement.cluster import Place
from flexinfer.resources import names
from flexinfer.resources.model import pod, service

REVISIONS = 2
"""ReplicaSets that are kept; which specs there were is told by ControllerRevisions."""


class Pods(msgspec.Struct, frozen=True, kw_only=True):
    """What the pods of a Deployment are made from, and what it says of that."""

    template: dict[str, Any]
    place: str
    """The choice of vendor and devices, as `noted` writes it."""
    rollout: Written | None = None
    strategy: Strategy = "surge"


def build(model: Model, pods: Pods, replicas: int) -> dict[str, Any]:
    """`model.spec` has its defaults resolved."""
    # A new pod comes beside the old one, until it shows that there is no room for both.
    surge = {"maxSurge": 1, "maxUnavailable": 0} if pods.strategy == "surge" else {"maxSurge": 0, "maxUnavailable": 1}
    annotations = {**service.described(model), ANNOTATION_PLACE: pods.place}
    if pods.rollout is not None:
        annotations[ANNOTATION_ROLLOUT] = msgspec.json.encode(pods.rollout).decode()
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": names.workload(model.metadata.name),
            "labels": pod.labels(model),
            "annotations": annotations,
        },
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": pod.selector(model)},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": surge},
            "revisionHistoryLimit": REVISIONS,
            "template": pods.template,
        },
    }


def rollout_of(annotations: Mapping[str, str]) -> Written | None:
    """What a Deployment says of its template; None where it does not."""
    try:
        return msgspec.json.decode(annotations.get(ANNOTATION_ROLLOUT, ""), type=Written)
    except msgspec.MsgspecError:
        return None


def standing(annotations: dict[str, str]) -> Place | None:
    """The choice that the pods of a Deployment were made for; None where it does not say one."""
    try:
        return msgspec.json.decode(annotations.get(ANNOTATION_PLACE, ""), type=Place)
    except msgspec.MsgspecError:
        return None


def noted(place: Place) -> str:
    kept = {"vendor": place.vendor, "count": place.count, "arch": place.arch, "vram_mib": place.vram_mib}
    return json.dumps(kept | ({"message": place.message} if place.message else {}))
