"""The Deployment of a Model: how many pods, and how a new template takes the place of the old one."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from flexinfer.api.v1alpha2.model import Model
from flexinfer.api.wellknown import ANNOTATION_PLACE
from flexinfer.placement.cluster import Place
from flexinfer.resources import names
from flexinfer.resources.model import pod, service

REVISIONS = 2
"""ReplicaSets that are kept; which specs there were is told by ControllerRevisions."""


def build(model: Model, template: dict[str, Any], place: Place, replicas: int) -> dict[str, Any]:
    """`model.spec` has its defaults resolved; `template` is that of `pod.template`."""
    # A GPU is seldom free for a second pod: with one, the old pod has to go first.
    surge = {"maxSurge": 0, "maxUnavailable": 1} if place.count else {"maxSurge": 1, "maxUnavailable": 0}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": names.workload(model.metadata.name),
            "labels": pod.labels(model),
            "annotations": {**service.described(model), ANNOTATION_PLACE: _written(place)},
        },
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": pod.selector(model)},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": surge},
            "revisionHistoryLimit": REVISIONS,
            "template": template,
        },
    }


def standing(annotations: dict[str, str]) -> Place | None:
    """The choice that the pods of a Deployment were made for; None where it does not say one."""
    try:
        return msgspec.json.decode(annotations.get(ANNOTATION_PLACE, ""), type=Place)
    except msgspec.MsgspecError:
        return None


def _written(place: Place) -> str:
    kept = {"vendor": place.vendor, "count": place.count, "arch": place.arch, "vram_mib": place.vram_mib}
    return json.dumps(kept | ({"message": place.message} if place.message else {}))
