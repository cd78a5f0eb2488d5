"""ConfigMaps and Secrets that a pod needs: which, and what is in them."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

from tests.cluster.kubelet.downward import ConfigError


class Ref(NamedTuple):
    kind: Literal["configmap", "secret"]
    name: str


Contents = Mapping[str, bytes]
Objects = Mapping[Ref, Contents]
"""What was found; a reference that is not in it does not exist."""


def contents(ref: Ref, obj: Mapping[str, Any]) -> Contents:
    """The keys of a ConfigMap or Secret as the API has it."""
    data = obj.get("data") or {}
    if ref.kind == "secret":
        return {key: base64.b64decode(value) for key, value in data.items()}
    binary = {key: base64.b64decode(value) for key, value in (obj.get("binaryData") or {}).items()}
    return {key: str(value).encode() for key, value in data.items()} | binary


def one_key(objects: Objects, ref: Ref, key: str, *, optional: bool) -> bytes | None:
    """Raises ConfigError with the kubelet's own words, unless `optional`."""
    found = objects.get(ref)
    if found is None:
        if optional:
            return None
        raise ConfigError(f'{ref.kind} "{ref.name}" not found')
    if key not in found:
        if optional:
            return None
        kind = "ConfigMap" if ref.kind == "configmap" else "Secret"
        raise ConfigError(f"couldn't find key {key} in {kind} {ref.name}")
    return found[key]


def referenced(pod: Mapping[str, Any]) -> frozenset[Ref]:
    """Every ConfigMap and Secret that variables and volumes of the pod name."""
    return frozenset([*_of_variables(pod["spec"]), *_of_volumes(pod["spec"])])


def _of_variables(spec: Mapping[str, Any]) -> Iterator[Ref]:
    for container in [*(spec.get("initContainers") or ()), *spec["containers"]]:
        for source in container.get("envFrom") or ():
            if "configMapRef" in source:
                yield Ref("configmap", source["configMapRef"]["name"])
            if "secretRef" in source:
                yield Ref("secret", source["secretRef"]["name"])
        for variable in container.get("env") or ():
            given = variable.get("valueFrom") or {}
            if "configMapKeyRef" in given:
                yield Ref("configmap", given["configMapKeyRef"]["name"])
            if "secretKeyRef" in given:
                yield Ref("secret", given["secretKeyRef"]["name"])


def _of_volumes(spec: Mapping[str, Any]) -> Iterator[Ref]:
    for volume in spec.get("volumes") or ():
        if "configMap" in volume:
            yield Ref("configmap", volume["configMap"]["name"])
        if "secret" in volume:
            yield Ref("secret", volume["secret"]["secretName"])
        for source in (volume.get("projected") or {}).get("sources") or ():
            if "configMap" in source:
                yield Ref("configmap", source["configMap"]["name"])
            if "secret" in source:
                yield Ref("secret", source["secret"]["name"])
