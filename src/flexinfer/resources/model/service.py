"""The Service of a Model, and the annotations by which LiteLLM finds the model."""

from __future__ import annotations

import json
from typing import Any

from flexinfer.api import wellknown
from flexinfer.api.v1alpha2.model import Model
from flexinfer.resources import names
from flexinfer.resources.installation import Installation
from flexinfer.resources.model import pod

PORT_NAME = "http"


def build(model: Model, port: int) -> dict[str, Any]:
    """`port` is that of the engine."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": names.service(model.metadata.name),
            "labels": pod.labels(model),
            "annotations": described(model),
        },
        "spec": {
            "type": "ClusterIP",
            "selector": pod.selector(model),
            "ports": [{"name": PORT_NAME, "port": port, "targetPort": PORT_NAME, "protocol": "TCP"}],
        },
    }


def url(model: Model, port: int, installation: Installation) -> str:
    """What `status.endpoint` says."""
    host = f"{names.service(model.metadata.name)}.{model.key.namespace}.svc.{installation.cluster_domain}"
    return f"http://{host}:{port}"


def described(model: Model) -> dict[str, str]:
    """Of the Service and the Deployment alike. `model.spec` has its defaults resolved."""
    spec = model.spec
    found = {wellknown.ANNOTATION_MODEL: model.metadata.name}
    if spec.service_labels:
        found[wellknown.ANNOTATION_SERVICE_LABELS] = ",".join(spec.service_labels)
    if spec.litellm is None or not spec.litellm.enabled:
        return found
    able = spec.capabilities
    capabilities = {
        "tool_calling": bool(able.tool_calling),
        "vision": bool(able.vision),
        "image_generation": bool(able.image_generation),
    }
    found[wellknown.ANNOTATION_LITELLM_NAME] = spec.litellm.served_model_name or model.metadata.name
    found[wellknown.ANNOTATION_LITELLM_CAPABILITIES] = json.dumps(capabilities, sort_keys=True)
    aliases = sorted({*spec.service_labels, *spec.litellm.aliases})
    if aliases:
        found[wellknown.ANNOTATION_LITELLM_ALIASES] = ",".join(aliases)
    if spec.litellm.copilot_alias:
        found[wellknown.ANNOTATION_LITELLM_COPILOT] = spec.litellm.copilot_alias
    return found
