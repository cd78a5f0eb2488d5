"""Server-side apply: who owns what, after any sequence of writes."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.manual_clock import ManualClock

from flexinfer.api.meta import ObjectKey
from flexinfer.errors import Conflict
from flexinfer.kube import fieldsets
from flexinfer.kube.memory import MemoryStore
from flexinfer.kube.merge import merge_patch
from flexinfer.kube.shapes import ATOMIC, SET, Shape, keyed, kind
from flexinfer.kube.store import MODELS

SPEC = Shape(fields={"items": keyed("name"), "tags": SET, "whole": ATOMIC})
SHAPE = kind(spec=SPEC)
SCALARS = st.integers(0, 2)
FREE = st.dictionaries(st.sampled_from("xyz"), SCALARS, min_size=1, max_size=2)
ITEMS = st.lists(
    st.fixed_dictionaries({"name": st.sampled_from("ab")}, optional={"v": SCALARS, "w": SCALARS}),
    min_size=1,
    max_size=2,
    unique_by=lambda item: item["name"],
)
SPECS = st.fixed_dictionaries(
    {},
    optional={
        "n": SCALARS,
        "free": FREE,
        "items": ITEMS,
        "tags": st.lists(st.sampled_from("pq"), min_size=1, unique=True),
        "whole": FREE,
        "list": st.lists(SCALARS, min_size=1, max_size=2),
    },
)
MANAGERS = st.sampled_from(["one", "two"])
WRITES = st.lists(
    st.one_of(
        st.tuples(st.just("apply"), MANAGERS, SPECS, st.booleans()),
        st.tuples(st.just("patch"), st.just("editor"), SPECS, st.just(False)),
    ),
    min_size=1,
    max_size=8,
)
NAME = ObjectKey("default", "m")


def owned(obj):
    return {
        (entry["manager"], entry["operation"]): entry["fieldsV1"] for entry in obj["metadata"].get("managedFields", [])
    }


def check_apply(before, after, manager, spec):
    """What one successful apply promises."""
    config = {"spec": spec} if spec else {}
    wanted = fieldsets.field_set(config, SHAPE)
    mine = owned(after).get((manager, "Apply"), {})
    assert mine == wanted, "it owns exactly what it said"
    assert fieldsets.changed(after, fieldsets.merge(after, config, SHAPE), SHAPE) is None, "all it said holds"
    others_before = fieldsets.union(fields for who, fields in owned(before).items() if who != (manager, "Apply"))
    survived = fieldsets.existing(others_before, after, SHAPE)
    assert survived == fieldsets.existing(others_before, before, SHAPE), "nothing of others was removed"
    gave_up = fieldsets.subtract(owned(before).get((manager, "Apply"), {}), fieldsets.union([mine, others_before]))
    left = fieldsets.existing(gave_up, after, SHAPE)
    items = left.get("f:spec", {}).pop("f:items", {})
    assert all(item.keys() <= {".", "f:name"} for item in items.values()), "of an item that stays, its key"
    assert items.keys() <= others_before.get("f:spec", {}).get("f:items", {}).keys(), "it stays for somebody"
    assert left in ({}, {"f:spec": {}}), "what it gave up and nobody else has is gone"


def check_ownership(obj):
    everything = fieldsets.subtract(
        fieldsets.field_set(obj, SHAPE), {"f:apiVersion": {}, "f:kind": {}, "f:metadata": {}}
    )
    union = fieldsets.union(owned(obj).values())
    unowned = fieldsets.subtract(everything, union)
    for item in unowned.get("f:spec", {}).pop("f:items", {}).values():
        assert item.keys() <= {".", "f:name"}, "only the key of an item may stay without an owner"
    assert unowned in ({}, {"f:spec": {}}), "every other field has an owner"
    assert fieldsets.existing(union, obj, SHAPE) == union, "nobody owns what is not there"


async def run(writes):
    store = MemoryStore(ManualClock(), shapes={"Model": SHAPE})
    metadata = {"name": NAME.name, "namespace": NAME.namespace}
    obj = await store.apply(MODELS, {"metadata": metadata}, field_manager="one")
    for verb, manager, spec, force in writes:
        config = {"metadata": metadata, "spec": spec} if spec else {"metadata": metadata}
        if verb == "patch":
            patched = await store.patch(MODELS, NAME, {"spec": spec}, field_manager=manager)
            if spec:
                assert patched["spec"] == merge_patch(obj.get("spec", {}), spec)
            obj = patched
        else:
            try:
                after = await store.apply(MODELS, config, field_manager=manager, force=force)
            except Conflict:
                assert not force, "force settles every conflict"
                assert await store.get(MODELS, NAME) == obj, "a refused apply changes nothing"
                continue
            check_apply(obj, after, manager, spec)
            assert await store.apply(MODELS, config, field_manager=manager) == after, "again, it is a no-op"
            obj = after
        check_ownership(obj)


@settings(max_examples=150, deadline=None)
@given(WRITES)
def test_ownership_holds_after_any_writes(writes):
    asyncio.run(run(writes))
