"""Granted = used: the rights that roles give an account, beside the calls that the audit log has of it.

A right is one verb on one resource (with its subresource) in one place, perhaps of one name. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from tests.support.cluster.audit import Entry

EVERYWHERE = ""
_FORBIDDEN = frozenset({401, 403})
_CREATED = 201


class Right(NamedTuple):
    verb: str
    group: str
    resource: str
    """With its subresource: `models/status`."""
    namespace: str
    """EVERYWHERE for a right of the whole cluster."""
    name: str
    """Empty: any."""

    def __str__(self) -> str:
        where = f" in {self.namespace}" if self.namespace else ""
        named = f" {self.name}" if self.name else ""
        return f"{self.verb} {self.resource}{f'.{self.group}' if self.group else ''}{named}{where}"


def granted(objects: Iterable[Mapping[str, Any]], account: str, namespace: str) -> set[Right]:
    """What the rendered roles and bindings give the ServiceAccount."""
    found = list(objects)
    roles = {(one["kind"], one["metadata"].get("namespace", ""), one["metadata"]["name"]): one for one in found}
    rights: set[Right] = set()
    for binding in found:
        if binding["kind"] not in {"RoleBinding", "ClusterRoleBinding"}:
            continue
        mine = {"kind": "ServiceAccount", "name": account, "namespace": namespace}
        if mine not in binding["subjects"]:
            continue
        where = binding["metadata"].get("namespace", EVERYWHERE)
        reference = binding["roleRef"]
        role = roles[(reference["kind"], where if reference["kind"] == "Role" else "", reference["name"])]
        rights |= {right for rule in role["rules"] for right in _of(rule, where)}
    return rights


def _of(rule: Mapping[str, Any], where: str) -> Iterator[Right]:
    for group in rule["apiGroups"]:
        for resource in rule["resources"]:
            for verb in rule["verbs"]:
                for name in rule.get("resourceNames", ("",)):
                    yield Right(verb, group, resource, where, name)


def covers(right: Right, call: Entry) -> bool:
    """Whether the call is one that needs the right."""
    resource = f"{call.resource}/{call.subresource}" if call.subresource else call.resource
    return (
        (right.group, right.resource) == (call.group, resource)
        and right.verb in _verbs(call)
        and right.namespace in {EVERYWHERE, call.namespace}
        and right.name in {"", call.name}
    )


def _verbs(call: Entry) -> frozenset[str]:
    """An apply of what is not there yet is a patch in the log, and needs the right to create as well.

    A watch that begins with what there is needs a list before it where the server has no such watches.
    """
    if call.verb == "patch" and call.code == _CREATED:
        return frozenset({"patch", "create"})
    return frozenset({"watch", "list"}) if call.verb == "watch" else frozenset({call.verb})


def unused(rights: Iterable[Right], calls: Iterable[Entry]) -> list[Right]:
    """Rights that no call has made use of, in order; an answer of 404 or 409 is as good as any."""
    allowed = [call for call in calls if call.code not in _FORBIDDEN]
    return sorted(right for right in rights if not any(covers(right, call) for call in allowed))


def refused(calls: Iterable[Entry]) -> list[str]:
    """Calls that were forbidden: rights that are missing."""
    found = {
        f"{call.verb} {call.resource}{f'/{call.subresource}' if call.subresource else ''} in {call.namespace or 'all'}"
        for call in calls
        if call.code in _FORBIDDEN
    }
    return sorted(found)
