"""REST paths of the Kubernetes API, and the media types of its patches."""

from __future__ import annotations

import re
from typing import Final

from flexinfer.api.meta import ObjectKey
from flexinfer.errors import Invalid
from flexinfer.kube.store import Resource

MERGE_PATCH: Final = "application/merge-patch+json"
JSON_PATCH: Final = "application/json-patch+json"
APPLY_PATCH: Final = "application/apply-patch+yaml"

_SEGMENT: Final = re.compile(r"[A-Za-z0-9][-A-Za-z0-9._:]{0,252}")


def group(resource: Resource) -> str:
    """`/api/v1` for the core group, `/apis/GROUP/VERSION` for every other."""
    return f"/apis/{resource.api_version}" if resource.group else f"/api/{resource.version}"


def collection(resource: Resource, namespace: str | None = None) -> str:
    """The objects of a namespace; of all namespaces, or of a cluster-scoped kind, without one."""
    scope = f"/namespaces/{_segment(namespace)}" if namespace else ""
    return f"{group(resource)}{scope}/{resource.plural}"


def item(resource: Resource, key: ObjectKey, subresource: str | None = None) -> str:
    """Raises Invalid for a namespace too many or missing, and for names that no path can hold."""
    if resource.namespaced != bool(key.namespace):
        wanted = "a namespace" if resource.namespaced else "no namespace"
        raise Invalid(f"{resource.kind} {key}: expected {wanted}")
    path = f"{collection(resource, key.namespace)}/{_segment(key.name)}"
    return f"{path}/{_segment(subresource)}" if subresource else path


def _segment(name: str) -> str:
    if not _SEGMENT.fullmatch(name):
        raise Invalid(f"{name!r}: expected a name of letters, digits, '-', '.', ':' and '_'")
    return name
