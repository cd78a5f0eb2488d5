"""What a pod is told of itself: fieldRef and resourceFieldRef, for variables and for files."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.cluster.kubelet import amounts


class ConfigError(Exception):
    """A container cannot be made as its manifest asks: CreateContainerConfigError, with this message."""


@dataclass(frozen=True)
class Facts:
    """What is known of a pod besides its manifest."""

    pod_ip: str
    host_ip: str
    allocatable: Mapping[str, str] = field(default_factory=dict)


_MAP_ENTRY = re.compile(r"^metadata\.(labels|annotations)\['([^']+)'\]$")


def field_value(pod: Mapping[str, Any], path: str, facts: Facts) -> str:
    """The value of a fieldRef. Raises ConfigError for a path that there is not."""
    meta, spec = pod["metadata"], pod["spec"]
    if entry := _MAP_ENTRY.match(path):
        return str((meta.get(entry[1]) or {}).get(entry[2], ""))
    plain = {
        "metadata.name": meta["name"],
        "metadata.namespace": meta.get("namespace", ""),
        "metadata.uid": meta.get("uid", ""),
        "spec.nodeName": spec.get("nodeName", ""),
        "spec.serviceAccountName": spec.get("serviceAccountName", ""),
        "status.hostIP": facts.host_ip,
        "status.hostIPs": facts.host_ip,
        "status.podIP": facts.pod_ip,
        "status.podIPs": facts.pod_ip,
    }
    if path in plain:
        return str(plain[path])
    if path in {"metadata.labels", "metadata.annotations"}:
        entries = meta.get(path.removeprefix("metadata.")) or {}
        return "\n".join(f"{key}={json.dumps(entries[key], ensure_ascii=False)}" for key in sorted(entries))
    raise ConfigError(f"fieldPath {path}: there is no such field of a pod")


def resource_value(pod: Mapping[str, Any], ref: Mapping[str, Any], own: Mapping[str, Any] | None, facts: Facts) -> str:
    """The value of a resourceFieldRef: of the container it names, else of `own`."""
    spec = pod["spec"]
    name = ref.get("containerName")
    all_of_them = [*(spec.get("initContainers") or ()), *spec["containers"]]
    container = own if not name else next((one for one in all_of_them if one["name"] == name), None)
    if container is None:
        raise ConfigError(f"resourceFieldRef: there is no container {name!r}")
    return amounts.told(container, ref["resource"], str(ref.get("divisor", "0")), facts.allocatable)
