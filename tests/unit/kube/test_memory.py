"""What the memory store does beyond the ObjectStore contract."""

from __future__ import annotations

import random
from contextlib import aclosing

import pytest

from flexinfer.api.meta import ObjectKey
from flexinfer.errors import Conflict, Gone, Invalid, InvalidField
from flexinfer.kube.memory import MemoryStore
from flexinfer.kube.shapes import Shape, keyed, kind
from flexinfer.kube.store import CONFIG_MAPS, ENDPOINT_SLICES, MODELS, Resource, Selection

NODES = Resource("", "v1", "nodes", "Node", namespaced=False)
DEPLOYMENTS = Resource("apps", "v1", "deployments", "Deployment")


def obj(name="one", namespace="default", **fields):
    return {"metadata": {"name": name, "namespace": namespace}, **fields}


async def types(store, since, count, namespace=None):
    found = []
    async with aclosing(store.watch(CONFIG_MAPS, since, Selection(namespace))) as watch:
        async for event in watch:
            found.append((event.type, event.object["metadata"].get("name")))
            if len(found) == count:
                break
    return found


@pytest.fixture
def store(clock):
    return MemoryStore(clock, history=8, rand=random.Random(1))


async def test_a_created_object_is_exactly_this(store):
    created = await store.create(MODELS, obj(spec={"source": "file:///a"}), field_manager="me")
    uid = created["metadata"]["uid"]
    assert created == {
        "apiVersion": "ai.flexinfer/v1alpha2",
        "kind": "Model",
        "metadata": {
            "name": "one",
            "namespace": "default",
            "uid": uid,
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "generation": 1,
            "resourceVersion": "1767225600001",
            "managedFields": [
                {
                    "manager": "me",
                    "operation": "Update",
                    "apiVersion": "ai.flexinfer/v1alpha2",
                    "time": "2026-01-01T00:00:00Z",
                    "fieldsType": "FieldsV1",
                    "fieldsV1": {"f:spec": {"f:source": {}}},
                }
            ],
        },
        "spec": {"source": "file:///a"},
    }


@pytest.mark.parametrize(
    ("resource", "given", "message"),
    [
        pytest.param(CONFIG_MAPS, {"metadata": {"name": "a"}}, "expected a namespace", id="no namespace"),
        pytest.param(NODES, obj(), "cluster-scoped", id="a namespace where there is none"),
        pytest.param(CONFIG_MAPS, obj(kind="Secret"), "expected 'ConfigMap'", id="another kind"),
        pytest.param(CONFIG_MAPS, obj(apiVersion="v2"), "expected 'v1'", id="another version"),
        pytest.param(CONFIG_MAPS, {"metadata": "text"}, "metadata", id="metadata that is no object"),
        pytest.param(CONFIG_MAPS, obj(name="a" * 254), "at most 253", id="a name that is too long"),
        pytest.param(
            MODELS,
            {"metadata": {"name": "a", "namespace": "default", "finalizers": ["x", "x"]}},
            "same key",
            id="a finalizer twice",
        ),
    ],
)
async def test_create_says_what_is_wrong(store, resource, given, message):
    with pytest.raises(Invalid, match=message):
        await store.create(resource, given)


async def test_admission_names_every_error_and_nothing_is_stored(clock):
    def admit(_resource, given):
        if "bad" in given.get("spec", {}):
            return [InvalidField("spec.bad", 1, "nothing"), InvalidField("spec.worse", 2, "less")]
        return []

    store = MemoryStore(clock, admit=admit)
    with pytest.raises(Invalid, match=r'Model "one" is invalid: spec\.bad: 1: expected nothing; spec\.worse: 2'):
        await store.create(MODELS, obj(spec={"bad": 1}))
    await store.create(MODELS, obj(spec={}))
    for write in (
        store.patch(MODELS, ObjectKey("default", "one"), {"spec": {"bad": 1}}),
        store.apply(MODELS, obj(spec={"bad": 1}), field_manager="me"),
    ):
        with pytest.raises(Invalid):
            await write
    assert (await store.get(MODELS, ObjectKey("default", "one")))["spec"] == {}


async def test_admission_may_fill_in_defaults(clock):
    def admit(_resource, given):
        given["spec"].setdefault("replicas", 1)
        return []

    store = MemoryStore(clock, admit=admit)
    created = await store.create(MODELS, obj(spec={}))
    assert created["spec"] == {"replicas": 1}
    assert await store.patch(MODELS, ObjectKey("default", "one"), {"spec": {"replicas": None}}) == created


async def test_nobody_owns_what_admission_takes_out(clock):
    def admit(_resource, given):
        given["spec"].pop("unknown", None)
        return []

    store = MemoryStore(clock, admit=admit)
    given = obj(spec={"source": "a", "unknown": 1})
    created = await store.apply(MODELS, given, field_manager="me")
    assert created["metadata"]["managedFields"][0]["fieldsV1"] == {"f:spec": {"f:source": {}}}
    assert await store.apply(MODELS, given, field_manager="me") == created


async def test_a_later_process_starts_with_higher_versions(clock):
    first = await MemoryStore(clock).create(CONFIG_MAPS, obj())
    clock.advance(1)
    restarted = MemoryStore(clock)
    with pytest.raises(Gone):
        await types(restarted, first["metadata"]["resourceVersion"], 1)


async def test_a_version_from_the_future_is_gone(store):
    with pytest.raises(Gone):
        await types(store, "9999999999999", 1)


async def test_a_version_that_is_no_number_is_invalid(store):
    with pytest.raises(Invalid):
        await types(store, "abc", 1)


@pytest.mark.parametrize("since", [pytest.param("", id="no version"), pytest.param("0", id="version 0")])
async def test_watch_from_nothing_begins_with_what_there_is(store, since):
    for name in ("a", "b"):
        await store.create(CONFIG_MAPS, obj(name))
    await store.create(CONFIG_MAPS, obj("c", "other"))
    assert await types(store, since, 2, "default") == [("ADDED", "a"), ("ADDED", "b")]


async def test_a_bookmark_comes_when_much_has_passed_by_elsewhere(store):
    start = (await store.list(CONFIG_MAPS)).resource_version
    for number in range(3):
        await store.create(CONFIG_MAPS, obj(f"n{number}", "other"))
    await store.create(CONFIG_MAPS, obj("mine"))
    async with aclosing(store.watch(CONFIG_MAPS, start, Selection("default"))) as watch:
        bookmark, event = await anext(watch), await anext(watch)
    assert bookmark == (
        "BOOKMARK",
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"resourceVersion": str(int(start) + 2)}},
    )
    assert (event.type, event.object["metadata"]["name"]) == ("ADDED", "mine")


async def test_a_watcher_that_does_not_keep_up_is_gone_and_the_store_goes_on(store):
    start = (await store.list(CONFIG_MAPS)).resource_version
    await store.create(CONFIG_MAPS, obj("first"))
    async with aclosing(store.watch(CONFIG_MAPS, start)) as watch:
        await anext(watch)
        for number in range(20):
            await store.create(CONFIG_MAPS, obj(f"n{number}"))
        with pytest.raises(Gone):
            await anext(watch)
    assert len((await store.list(CONFIG_MAPS)).items) == 21


async def test_watch_events_are_copies(store):
    await store.create(CONFIG_MAPS, obj(data={"a": "1"}))
    for _ in range(2):
        async with aclosing(store.watch(CONFIG_MAPS, "0")) as watch:
            event = await anext(watch)
        assert event.object["data"] == {"a": "1"}
        event.object["data"]["a"] = "changed"


async def test_what_a_caller_handed_in_can_change_afterwards(store):
    given = obj(data={"a": "1"})
    await store.create(CONFIG_MAPS, given)
    given["data"]["a"] = "changed"
    assert (await store.get(CONFIG_MAPS, ObjectKey("default", "one")))["data"] == {"a": "1"}


async def test_a_patch_cannot_rename(store):
    await store.create(CONFIG_MAPS, obj())
    with pytest.raises(Invalid, match="cannot change"):
        await store.patch(CONFIG_MAPS, ObjectKey("default", "one"), {"metadata": {"name": "two"}})


async def test_generation_of_kinds_without_status_follows_the_whole_object(store):
    created = await store.create(ENDPOINT_SLICES, obj(endpoints=[]))
    changed = await store.patch(ENDPOINT_SLICES, ObjectKey("default", "one"), {"endpoints": [{"addresses": ["::1"]}]})
    assert (created["metadata"]["generation"], changed["metadata"]["generation"]) == (1, 2)
    assert "generation" not in (await store.create(CONFIG_MAPS, obj()))["metadata"]


async def test_deletion_counts_as_a_generation(store):
    await store.create(MODELS, {"metadata": {"name": "m", "namespace": "default", "finalizers": ["a/b"]}, "spec": {}})
    await store.delete(MODELS, ObjectKey("default", "m"))
    assert (await store.get(MODELS, ObjectKey("default", "m")))["metadata"]["generation"] == 2


async def test_cluster_scoped_kinds_have_no_namespace(store):
    created = await store.create(NODES, {"metadata": {"name": "n1"}})
    assert await store.get(NODES, ObjectKey("", "n1")) == created
    assert (await store.list(NODES)).items == [created]


async def test_a_child_with_a_finalizer_waits_for_it_after_its_owner_went(store):
    owner = await store.create(MODELS, obj("m", spec={}))
    reference = {
        "apiVersion": "ai.flexinfer/v1alpha2",
        "kind": "Model",
        "name": "m",
        "uid": owner["metadata"]["uid"],
    }
    child = obj("child")
    child["metadata"] |= {"ownerReferences": [reference], "finalizers": ["a/b"]}
    await store.create(CONFIG_MAPS, child)
    await store.delete(MODELS, ObjectKey("default", "m"))
    dying = await store.get(CONFIG_MAPS, ObjectKey("default", "child"))
    assert dying["metadata"]["deletionTimestamp"] == "2026-01-01T00:00:00Z"
    await store.patch(CONFIG_MAPS, ObjectKey("default", "child"), {"metadata": {"finalizers": []}})
    assert (await store.list(CONFIG_MAPS)).items == []


async def test_apply_merges_containers_env_and_ports_by_their_keys(store):
    def deployment(**container):
        template = {"spec": {"containers": [{"name": "main", **container}]}}
        return obj("d", spec={"template": template})

    await store.apply(
        DEPLOYMENTS,
        deployment(image="i:1", env=[{"name": "A", "value": "1"}], ports=[{"containerPort": 80}]),
        field_manager="one",
    )
    stored = await store.apply(
        DEPLOYMENTS,
        deployment(env=[{"name": "B", "value": "2"}], ports=[{"containerPort": 80, "protocol": "UDP"}]),
        field_manager="two",
    )
    assert stored["spec"]["template"]["spec"]["containers"] == [
        {
            "name": "main",
            "image": "i:1",
            "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
            "ports": [{"containerPort": 80}, {"containerPort": 80, "protocol": "UDP"}],
        }
    ]
    stored = await store.apply(DEPLOYMENTS, deployment(image="i:1"), field_manager="one")
    assert stored["spec"]["template"]["spec"]["containers"] == [
        {
            "name": "main",
            "image": "i:1",
            "env": [{"name": "B", "value": "2"}],
            "ports": [{"containerPort": 80, "protocol": "UDP"}],
        }
    ]
    with pytest.raises(Conflict, match=r'two \(Apply\) owns \.spec\..*env\[name="B"\]\.value'):
        await store.apply(DEPLOYMENTS, deployment(env=[{"name": "B", "value": "3"}]), field_manager="one")


async def test_apply_of_an_item_twice_is_invalid(store):
    containers = [{"name": "main"}, {"name": "main"}]
    with pytest.raises(Invalid, match="containers"):
        await store.apply(
            DEPLOYMENTS, obj("d", spec={"template": {"spec": {"containers": containers}}}), field_manager="one"
        )


async def test_own_kinds_are_merged_by_their_shape(clock):
    shape = kind(status=Shape(fields={"conditions": keyed("type")}))
    store = MemoryStore(clock, shapes={"Model": shape})
    await store.create(MODELS, obj("m", spec={}))
    for manager, type_ in (("one", "Ready"), ("two", "Cached")):
        conditions = {"conditions": [{"type": type_, "status": "True"}]}
        stored = await store.apply(MODELS, obj("m", status=conditions), field_manager=manager, subresource="status")
    assert [condition["type"] for condition in stored["status"]["conditions"]] == ["Ready", "Cached"]


async def test_apply_refuses_managed_fields_of_the_caller(store):
    given = obj(data={"a": "1"})
    given["metadata"]["managedFields"] = [{"manager": "me"}]
    with pytest.raises(Invalid, match="managedFields"):
        await store.apply(CONFIG_MAPS, given, field_manager="me")


async def test_null_in_an_applied_object_says_nothing(store):
    stored = await store.apply(CONFIG_MAPS, obj(data={"a": "1", "b": None}), field_manager="me")
    assert stored["data"] == {"a": "1"}
