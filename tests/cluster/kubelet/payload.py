"""The files of ConfigMap, Secret, downwardAPI and projected volumes: paths, bytes and modes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from tests.cluster.kubelet.downward import ConfigError, Facts, field_value, resource_value
from tests.cluster.kubelet.objects import Contents, Objects, Ref

KINDS = ("configMap", "secret", "downwardAPI", "projected")


class File(NamedTuple):
    data: bytes
    mode: int


class TokenWanted(NamedTuple):
    """One projected token: for whom and for how long."""

    audience: str
    lasts_s: int


Files = dict[str, File]
Tokens = Mapping[TokenWanted, str]


def tokens_wanted(pod: Mapping[str, Any]) -> frozenset[TokenWanted]:
    """Every token that the pod's volumes ask for."""
    return frozenset(
        _token(source["serviceAccountToken"])
        for volume in pod["spec"].get("volumes") or ()
        for source in (volume.get("projected") or {}).get("sources") or ()
        if "serviceAccountToken" in source
    )


def files(volume: Mapping[str, Any], pod: Mapping[str, Any], facts: Facts, objects: Objects, tokens: Tokens) -> Files:
    """Raises ConfigError for what is missing and not optional."""
    kind = next(kind for kind in KINDS if kind in volume)
    given = volume[kind]
    mode = int(given.get("defaultMode", 0o644))
    if kind != "projected":
        return _of_source({kind: given}, mode, pod, facts, objects, tokens)
    found: Files = {}
    for source in given.get("sources") or ():
        found |= _of_source(source, mode, pod, facts, objects, tokens)
    return found


def _of_source(
    source: Mapping[str, Any], mode: int, pod: Mapping[str, Any], facts: Facts, objects: Objects, tokens: Tokens
) -> Files:
    if "serviceAccountToken" in source:
        wanted = source["serviceAccountToken"]
        return {wanted["path"]: File(tokens[_token(wanted)].encode(), mode)}
    if "downwardAPI" in source:
        return {
            item["path"]: File(_downward(item, pod, facts).encode(), int(item.get("mode", mode)))
            for item in source["downwardAPI"].get("items") or ()
        }
    if "configMap" in source:
        given, ref = source["configMap"], Ref("configmap", source["configMap"]["name"])
    elif "secret" in source:
        given = source["secret"]
        ref = Ref("secret", given.get("secretName") or given["name"])
    else:
        raise ConfigError(f"a projected volume of {', '.join(source)}: not played")
    found = objects.get(ref)
    if found is None and not given.get("optional"):
        raise ConfigError(f'{ref.kind} "{ref.name}" not found')
    return _chosen(found or {}, given, mode)


def _chosen(found: Contents, given: Mapping[str, Any], mode: int) -> Files:
    items = given.get("items")
    if not items:
        return {key: File(data, mode) for key, data in found.items()}
    chosen: Files = {}
    for item in items:
        if item["key"] in found:
            chosen[item["path"]] = File(found[item["key"]], int(item.get("mode", mode)))
        elif not given.get("optional"):
            raise ConfigError(f"references non-existent key: {item['key']}")
    return chosen


def _downward(item: Mapping[str, Any], pod: Mapping[str, Any], facts: Facts) -> str:
    if "fieldRef" in item:
        return field_value(pod, item["fieldRef"]["fieldPath"], facts)
    return resource_value(pod, item["resourceFieldRef"], None, facts)


def _token(wanted: Mapping[str, Any]) -> TokenWanted:
    return TokenWanted(wanted.get("audience", ""), int(wanted.get("expirationSeconds", 3600)))
