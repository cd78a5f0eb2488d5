"""Granted beside used: which calls need which right, and what rendered roles give an account."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.cluster import rights
from tests.support.cluster.audit import Entry
from tests.support.cluster.rights import Right

MANAGER = {"kind": "ServiceAccount", "name": "manager", "namespace": "sys"}


def call(verb: str, resource: str, *, group: str = "", namespace: str = "a", name: str = "", code: int = 200) -> Entry:
    plain, _, subresource = resource.partition("/")
    return Entry(
        at="", stage="ResponseComplete", user="manager", verb=verb, group=group, resource=plain,
        subresource=subresource, namespace=namespace, name=name, code=code, uri="", agent="",
    )  # fmt: skip


def right(verb: str, resource: str, *, group: str = "", namespace: str = "", name: str = "") -> Right:
    return Right(verb, group, resource, namespace, name)


@pytest.mark.parametrize(
    ("granted", "used", "covered"),
    [
        pytest.param(right("list", "pods"), call("list", "pods"), True, id="in any namespace"),
        pytest.param(right("list", "pods", namespace="b"), call("list", "pods"), False, id="in another namespace"),
        pytest.param(right("list", "pods"), call("list", "pods", group="x"), False, id="of another group"),
        pytest.param(right("list", "pods"), call("list", "pods", code=403), False, id="forbidden"),
        pytest.param(right("get", "secrets"), call("get", "secrets", code=404), True, id="not found"),
        pytest.param(right("patch", "models"), call("patch", "models/status"), False, id="of a subresource"),
        pytest.param(right("patch", "models/status"), call("patch", "models/status"), True, id="of that subresource"),
        pytest.param(right("get", "leases", name="m"), call("get", "leases", name="n"), False, id="of another name"),
        pytest.param(right("create", "jobs"), call("patch", "jobs", code=201), True, id="an apply that creates"),
        pytest.param(right("create", "jobs"), call("patch", "jobs"), False, id="an apply of what is there"),
        pytest.param(right("list", "jobs"), call("watch", "jobs"), True, id="a list where a watch lists"),
        pytest.param(right("watch", "jobs"), call("list", "jobs"), False, id="no watch where there is a list"),
    ],
)
def test_which_call_needs_a_right(granted: Right, used: Entry, covered: bool):
    assert rights.unused([granted], [used]) == ([] if covered else [granted])


def test_what_roles_and_bindings_give():
    objects: list[dict[str, Any]] = [
        {
            "kind": "ClusterRole",
            "metadata": {"name": "nodes"},
            "rules": [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["list", "watch"]}],
        },
        {
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "x"},
            "roleRef": {"kind": "ClusterRole", "name": "nodes"},
            "subjects": [MANAGER],
        },
        {
            "kind": "Role",
            "metadata": {"name": "keys", "namespace": "sys"},
            "rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"], "resourceNames": ["k"]}],
        },
        {
            "kind": "RoleBinding",
            "metadata": {"name": "y", "namespace": "sys"},
            "roleRef": {"kind": "Role", "name": "keys"},
            "subjects": [MANAGER],
        },
        {
            "kind": "RoleBinding",
            "metadata": {"name": "z", "namespace": "sys"},
            "roleRef": {"kind": "Role", "name": "keys"},
            "subjects": [{**MANAGER, "name": "proxy"}],
        },
    ]
    assert rights.granted(objects, "manager", "sys") == {
        right("list", "nodes"),
        right("watch", "nodes"),
        right("get", "secrets", namespace="sys", name="k"),
    }


def test_what_was_forbidden_is_told_once():
    calls = [call("patch", "models/status", code=403)] * 2 + [call("list", "nodes", namespace="", code=403)]
    assert rights.refused(calls) == ["list nodes in all", "patch models/status in a"]
