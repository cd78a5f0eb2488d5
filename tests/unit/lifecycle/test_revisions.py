"""The history of a spec as people read it, and the way back."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.models import manifest, model

from flexinfer.lifecycle import revisions
from flexinfer.lifecycle.revisions import Entry
from flexinfer.lifecycle.rollout import revision_of

SPECS = ({"image": "x:1"}, {"image": "x:2"}, {"image": "x:3", "config": {"slots": 2}})
HASHES = [revision_of(model(**spec)) for spec in SPECS]
PLAIN = {"backend": "simulator", "source": "file:///models/m.gguf"}


def stored(spec: dict[str, Any], serving: str = "", **meta: Any) -> dict[str, Any]:
    obj = manifest(**spec)
    obj["metadata"] |= {"uid": "u", "resourceVersion": "7", **meta}
    return obj | ({"status": {"rollout": {"serving": serving}}} if serving else {})


def revision(number: int, which: int, owner: str = "u") -> dict[str, Any]:
    return {
        "metadata": {
            "name": f"m-{HASHES[which]}",
            "labels": {"flexinfer.ai/revision": HASHES[which]},
            "creationTimestamp": f"2026-01-01T00:00:0{number}Z",
            "ownerReferences": [{"uid": owner, "controller": True}],
        },
        "revision": number,
        "data": {"spec": {**PLAIN, **SPECS[which]}},
    }


ALL = [revision(3, 2), revision(1, 0), revision(2, 1), revision(9, 0, owner="another")]


def test_history_is_in_order_with_what_each_changed_and_what_each_is():
    found = revisions.history(stored(SPECS[2], serving=HASHES[1]), ALL)
    assert [(one.number, one.revision, one.marks, one.changed) for one in found] == [
        (1, HASHES[0], (), ()),
        (2, HASHES[1], ("serves",), ("image",)),
        (3, HASHES[2], ("spec",), ("config", "image")),
    ]


@pytest.mark.parametrize(
    ("spec", "serving", "number"),
    [
        pytest.param(2, 2, 2, id="the newest before the spec's"),
        pytest.param(2, 0, 1, id="the one that serves, where that is another one"),
        pytest.param(0, 0, 3, id="the newest other one, where the spec is an old one again"),
    ],
)
def test_undo_goes_back_to(spec, serving, number):
    found = revisions.before(revisions.history(stored(SPECS[spec], serving=HASHES[serving]), ALL))
    assert found is not None
    assert found.number == number


def test_there_may_be_nothing_before():
    assert revisions.before(revisions.history(stored(SPECS[0]), [revision(1, 0)])) is None


def test_the_spec_is_written_back_whole_but_for_its_replicas():
    old = Entry(number=1, revision="a", created_at="", spec={**PLAIN, "replicas": 1, "image": "x:1"})
    assert revisions.written_back(stored({**SPECS[1], "replicas": 4, "config": {"slots": 2}}), old) == [
        {"op": "test", "path": "/metadata/resourceVersion", "value": "7"},
        {"op": "replace", "path": "/spec", "value": {**PLAIN, "image": "x:1", "replicas": 4}},
    ]


@pytest.mark.parametrize(
    ("meta", "keeper"),
    [
        pytest.param({"managedFields": [{"manager": "kubectl-client-side-apply"}]}, "", id="a person"),
        pytest.param({"managedFields": [{"manager": "kubectl"}, {"manager": "argocd-controller"}]}, "Argo CD",
                     id="Argo CD"),
        pytest.param({"managedFields": [{"manager": "kustomize-controller"}]}, "Flux", id="Flux"),
        pytest.param({"managedFields": [{"manager": "helm"}]}, "Helm", id="Helm"),
        pytest.param({"labels": {"app.kubernetes.io/managed-by": "Helm"}}, "Helm", id="Helm by its label"),
        pytest.param({"ownerReferences": [{"kind": "ModelDeployment", "name": "old", "controller": True}]},
                     "ModelDeployment old", id="the object that made it"),
    ],
)  # fmt: skip
def test_who_will_win(meta, keeper):
    assert revisions.repository(stored({}, **meta)) == keeper
