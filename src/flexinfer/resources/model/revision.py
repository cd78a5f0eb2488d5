"""The ControllerRevision of a Model: a spec as it was written, and the pod template that was made of it."""

from __future__ import annotations

from typing import Any

from flexinfer.api import codec
from flexinfer.api.v1alpha2.model import Model
from flexinfer.api.wellknown import ANNOTATION_MODEL, ANNOTATION_TEMPLATE, LABEL_MODEL, LABEL_REVISION
from flexinfer.resources import names
from flexinfer.resources.model import pod
from flexinfer.resources.model.deployment import Pods


def name(model: str, revision: str) -> str:
    return names.child(model, revision)


def build(model: Model, revision: str, number: int, pods: Pods) -> dict[str, Any]:
    """`model` as it is stored, without resolved defaults. `data` of one that is there can never change."""
    return {
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": {
            "name": name(model.metadata.name, revision),
            "labels": {
                "app.kubernetes.io/managed-by": "flexinfer",
                LABEL_MODEL: names.label(model.metadata.name),
                LABEL_REVISION: revision,
            },
            "annotations": {ANNOTATION_MODEL: model.metadata.name, ANNOTATION_TEMPLATE: pod.digest(pods.template)},
        },
        "revision": number,
        "data": {
            "spec": codec.to_object(model)["spec"],
            "template": pods.template,
            "place": pods.place,
        },
    }


def recorded(data: dict[str, Any]) -> Pods | None:
    """What pods were made from, out of the `data` of a ControllerRevision; None where that is not there."""
    template, place = data.get("template"), data.get("place")
    if not isinstance(template, dict) or not isinstance(place, str):
        return None
    return Pods(template=template, place=place)
