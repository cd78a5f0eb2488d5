"""The environment of a container: envFrom, then env in order, each value expanded with those before it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.cluster.kubelet.downward import ConfigError, Facts, field_value, resource_value
from tests.cluster.kubelet.expand import expand
from tests.cluster.kubelet.objects import Objects, Ref, one_key


def environment(
    container: Mapping[str, Any], pod: Mapping[str, Any], facts: Facts, objects: Objects, before: Mapping[str, str]
) -> dict[str, str]:
    """`before` is what the image and the cluster set; the manifest wins. Raises ConfigError."""
    result = dict(before)
    for source in container.get("envFrom") or ():
        result |= _all_keys(source, objects)
    for variable in container.get("env") or ():
        given = variable.get("valueFrom")
        value = _value(given, container, pod, facts, objects) if given else expand(variable.get("value", ""), result)
        if value is not None:
            result[variable["name"]] = value
    return result


def _all_keys(source: Mapping[str, Any], objects: Objects) -> dict[str, str]:
    prefix = source.get("prefix", "")
    for kind, field in (("configmap", "configMapRef"), ("secret", "secretRef")):
        if field not in source:
            continue
        wanted = source[field]
        found = objects.get(Ref(kind, wanted["name"]))  # type: ignore[arg-type]
        if found is None:
            if wanted.get("optional"):
                return {}
            raise ConfigError(f'{kind} "{wanted["name"]}" not found')
        return {prefix + key: value.decode(errors="replace") for key, value in found.items()}
    return {}


def _value(
    given: Mapping[str, Any], container: Mapping[str, Any], pod: Mapping[str, Any], facts: Facts, objects: Objects
) -> str | None:
    if "fieldRef" in given:
        return field_value(pod, given["fieldRef"]["fieldPath"], facts)
    if "resourceFieldRef" in given:
        return resource_value(pod, given["resourceFieldRef"], container, facts)
    if "configMapKeyRef" in given:
        ref, wanted = Ref("configmap", given["configMapKeyRef"]["name"]), given["configMapKeyRef"]
    else:
        ref, wanted = Ref("secret", given["secretKeyRef"]["name"]), given["secretKeyRef"]
    found = one_key(objects, ref, wanted["key"], optional=bool(wanted.get("optional")))
    return None if found is None else found.decode(errors="replace")
