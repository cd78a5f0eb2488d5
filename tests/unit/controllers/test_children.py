"""When a child that stands in the cache is what was applied, and whose it is."""

from __future__ import annotations

from typing import Any

import pytest
from tests.manual_clock import ManualClock

from flexinfer.api.meta import ObjectKey
from flexinfer.controllers.children import LeftOver, NameTaken, Owner, Settled, check_free, child
from flexinfer.kube.apply import Child
from flexinfer.kube.memory import MemoryStore
from flexinfer.kube.store import DEPLOYMENTS, SERVICES

OWNER = Owner("ai.flexinfer/v1alpha2", "Model", ObjectKey("default", "m"), "uid-m")
WANTED = child(DEPLOYMENTS, {"metadata": {"name": "m"}, "spec": {"replicas": 1}}, OWNER)


def stored(generation: int = 3, version: str = "9", uid: str = "u", **meta: Any) -> dict[str, Any]:
    body = {"name": "m", "namespace": "default", "uid": uid, "generation": generation, "resourceVersion": version}
    return {"metadata": {**body, "labels": {"a": "1"}, "annotations": {}, "ownerReferences": [], **meta}}


@pytest.mark.parametrize(
    ("seen", "stands"),
    [
        pytest.param(stored(), True, id="as it was left"),
        pytest.param(stored(version="99"), True, id="its status has changed"),
        pytest.param(
            stored(annotations={"deployment.kubernetes.io/revision": "2"}),
            True,
            id="its controller has noted something",
        ),
        pytest.param(stored(generation=2), True, id="the cache lags behind our own write"),
        pytest.param(stored(generation=4), False, id="somebody changed its spec"),
        pytest.param(stored(labels={"a": "2"}), False, id="somebody changed a label"),
        pytest.param(stored(ownerReferences=[{"uid": "x"}]), False, id="somebody else owns it too"),
        pytest.param(stored(uid="other"), False, id="it is another one of that name"),
        pytest.param(None, False, id="it is gone"),
    ],
)
def test_stands(seen, stands):
    settled = Settled()
    settled.note(WANTED, stored())
    assert settled.stands(WANTED, seen and Child(DEPLOYMENTS, seen)) is stands


def test_what_was_never_applied_does_not_stand():
    assert not Settled().stands(WANTED, Child(DEPLOYMENTS, stored()))


def test_of_objects_without_a_generation_every_new_version_is_looked_at():
    settled = Settled()
    wanted = child(SERVICES, {"metadata": {"name": "m"}}, OWNER)
    settled.note(wanted, stored(generation=0))
    assert settled.stands(wanted, Child(SERVICES, stored(generation=0)))
    assert settled.stands(wanted, Child(SERVICES, stored(generation=0, version="8")))
    assert not settled.stands(wanted, Child(SERVICES, stored(generation=0, version="10")))


@pytest.mark.parametrize(
    ("owners", "error", "message"),
    [
        pytest.param([OWNER.reference], None, "", id="its own"),
        pytest.param([], NameTaken, "was not made by FlexInfer", id="nobody's"),
        pytest.param(
            [{"apiVersion": "v1", "kind": "Other", "name": "o", "uid": "x", "controller": True}],
            NameTaken,
            "Deployment m belongs to Other o: rename the Model, or delete that Deployment",
            id="another controller's",
        ),
        pytest.param(
            [{**OWNER.reference, "uid": "uid-of-an-earlier-one"}],
            LeftOver,
            "of an earlier Model",
            id="an earlier Model's",
        ),
    ],
)
async def test_whose_it_is(owners, error, message):
    there = [Child(DEPLOYMENTS, stored(ownerReferences=owners))]
    store = MemoryStore(ManualClock())
    if error is None:
        await check_free(store, [WANTED], there, OWNER)
        return
    with pytest.raises(error, match=message):
        await check_free(store, [WANTED], there, OWNER)


async def test_what_the_cache_does_not_know_is_looked_for_in_the_store():
    store = MemoryStore(ManualClock())
    await store.create(DEPLOYMENTS, {"metadata": {"name": "m", "namespace": "default"}, "spec": {}})
    with pytest.raises(NameTaken):
        await check_free(store, [WANTED], [], OWNER)


async def test_a_name_that_nothing_has_is_free():
    await check_free(MemoryStore(ManualClock()), [WANTED], [], OWNER)
