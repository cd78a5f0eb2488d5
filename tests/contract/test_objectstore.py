"""What every ObjectStore promises. Nothing here depends on which one it is, nor on a clock."""

from __future__ import annotations

import asyncio
import re
from contextlib import aclosing
from typing import Any

import pytest
from tests.support.objectstores import Subject
from tests.support.waiting import until

from flexinfer.api.meta import ObjectKey
from flexinfer.errors import AlreadyExists, Conflict, Gone, Invalid, NotFound
from flexinfer.kube.store import CONFIG_MAPS, ENDPOINT_SLICES, MODELS, Object, Resource, Selection, WatchEvent

MANAGER = "suite"
OTHER_UID = "00000000-0000-4000-8000-000000000000"


def config_map(subject: Subject, name: str, data: dict[str, str] | None = None, **meta: Any) -> Object:
    return {"metadata": {"name": name, "namespace": subject.namespace, **meta}, "data": data or {"a": "1"}}


def model(subject: Subject, name: str, spec: Object | None = None, **meta: Any) -> Object:
    return {
        "metadata": {"name": name, "namespace": subject.namespace, **meta},
        "spec": spec or {"backend": "llamacpp", "source": "file:///models/a.gguf"},
    }


def key(obj: Object) -> ObjectKey:
    return ObjectKey(obj["metadata"]["namespace"], obj["metadata"]["name"])


def version(obj: Object) -> str:
    found = obj["metadata"]["resourceVersion"]
    assert isinstance(found, str)
    return found


def owner(obj: Object, kind: str = "Model", api_version: str = "ai.flexinfer/v1alpha2") -> Object:
    return {"apiVersion": api_version, "kind": kind, "name": key(obj).name, "uid": obj["metadata"]["uid"]}


async def until_gone(subject: Subject, obj: Object) -> None:
    # A garbage collector looks for new kinds twice a minute.
    await until(lambda: _gone(subject, obj), 80, every_s=0.02)


async def exists(subject: Subject, resource: Resource, object_key: ObjectKey) -> bool:
    try:
        await subject.store.get(resource, object_key)
    except NotFound:
        return False
    return True


async def events(subject: Subject, resource: Resource, since: str, count: int, **selected: Any) -> list[WatchEvent]:
    """The next `count` events of the namespace, bookmarks aside."""
    found: list[WatchEvent] = []
    async with (
        asyncio.timeout(30),
        aclosing(subject.store.watch(resource, since, Selection(subject.namespace, **selected))) as watch,
    ):
        async for event in watch:
            if event.type != "BOOKMARK":
                found.append(event)
            if len(found) == count:
                break
    return found


async def summary(subject: Subject, resource: Resource, since: str, count: int) -> list[tuple[str, str]]:
    return [(event.type, event.object["metadata"]["name"]) for event in await events(subject, resource, since, count)]


# Create, get, list


async def test_created_object_carries_what_the_server_gives_it(subject):
    created = await subject.store.create(CONFIG_MAPS, config_map(subject, "one", {"a": "1"}, labels={"x": "y"}))
    meta = created["metadata"]
    assert (created["apiVersion"], created["kind"], created["data"]) == ("v1", "ConfigMap", {"a": "1"})
    assert meta["labels"] == {"x": "y"}
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", meta["uid"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", meta["creationTimestamp"])
    assert re.fullmatch(r"[1-9][0-9]*", meta["resourceVersion"])
    assert await subject.store.get(CONFIG_MAPS, key(created)) == created


async def test_create_refuses_a_name_that_is_taken(subject):
    await subject.store.create(CONFIG_MAPS, config_map(subject, "one"))
    with pytest.raises(AlreadyExists):
        await subject.store.create(CONFIG_MAPS, config_map(subject, "one"))


@pytest.mark.parametrize(
    "meta",
    [
        pytest.param({"name": "Not_DNS"}, id="a name that is not DNS-1123"),
        pytest.param({"name": ""}, id="no name"),
        pytest.param({"name": "one", "resourceVersion": "5"}, id="a resourceVersion"),
        pytest.param({"name": "one", "labels": {"a": 5}}, id="a label that is not text"),
        pytest.param({"name": "one", "ownerReferences": [{"name": "x"}]}, id="an owner without a uid"),
    ],
)
async def test_create_refuses_bad_metadata(subject, meta):
    with pytest.raises(Invalid):
        await subject.store.create(CONFIG_MAPS, {"metadata": {"namespace": subject.namespace, **meta}})


async def test_generate_name_adds_a_random_end(subject):
    obj = {"metadata": {"generateName": "gen-", "namespace": subject.namespace}}
    names = {(await subject.store.create(CONFIG_MAPS, obj))["metadata"]["name"] for _ in range(3)}
    assert len(names) == 3
    assert all(re.fullmatch(r"gen-[a-z0-9]{5}", name) for name in names)


async def test_create_drops_status_where_it_is_a_subresource(subject):
    created = await subject.store.create(MODELS, {**model(subject, "m"), "status": {"phase": "Ready"}})
    assert "phase" not in created.get("status", {})


async def test_get_of_a_missing_object_is_not_found(subject):
    with pytest.raises(NotFound):
        await subject.store.get(MODELS, ObjectKey(subject.namespace, "missing"))


async def test_objects_handed_out_are_copies(subject):
    created = await subject.store.create(CONFIG_MAPS, config_map(subject, "one", {"a": "1"}))
    created["data"]["a"] = "changed by the caller"
    listed = (await subject.store.list(CONFIG_MAPS, Selection(subject.namespace))).items
    [found] = [obj for obj in listed if key(obj).name == "one"]
    found["data"]["a"] = "changed by the caller"
    assert (await subject.store.get(CONFIG_MAPS, key(created)))["data"] == {"a": "1"}


async def test_list_selects_by_namespace_and_labels(subject):
    for name, labels in (("a", {"app": "x", "tier": "1"}), ("b", {"app": "x"}), ("c", {"app": "y"})):
        await subject.store.create(CONFIG_MAPS, config_map(subject, name, labels=labels))

    async def names(**selection: Any) -> list[str]:
        found = await subject.store.list(CONFIG_MAPS, Selection(**selection))
        assert all((obj["apiVersion"], obj["kind"]) == ("v1", "ConfigMap") for obj in found.items)
        return sorted(key(obj).name for obj in found.items)

    assert await names(namespace=subject.namespace, labels={"app": "x"}) == ["a", "b"]
    assert await names(namespace=subject.namespace, labels={"app": "x", "tier": "1"}) == ["a"]
    assert await names(labels={"app": "y"}) == ["c"]
    assert await names(namespace="elsewhere") == []


# Versions, preconditions


async def test_versions_grow_over_all_kinds(subject):
    first = await subject.store.create(CONFIG_MAPS, config_map(subject, "one"))
    second = await subject.store.create(MODELS, model(subject, "m"))
    third = await subject.store.patch(CONFIG_MAPS, key(first), {"data": {"b": "2"}})
    listed = await subject.store.list(MODELS)
    assert int(version(first)) < int(version(second)) < int(version(third)) <= int(listed.resource_version)


async def test_replace_with_a_stale_version_is_a_conflict(subject):
    first = await subject.store.create(MODELS, model(subject, "m"))
    await subject.store.patch(MODELS, key(first), {"spec": {"replicas": 2}})
    first["spec"]["replicas"] = 3
    with pytest.raises(Conflict):
        await subject.store.replace(MODELS, first)
    assert (await subject.store.get(MODELS, key(first)))["spec"]["replicas"] == 2


async def test_a_custom_resource_is_not_replaced_without_a_version(subject):
    await subject.store.create(MODELS, model(subject, "m"))
    with pytest.raises(Invalid):
        await subject.store.replace(MODELS, model(subject, "m"))


async def test_a_built_in_kind_is_replaced_without_a_version(subject):
    await subject.store.create(CONFIG_MAPS, config_map(subject, "one", {"a": "1", "b": "1"}, labels={"x": "y"}))
    replaced = await subject.store.replace(CONFIG_MAPS, config_map(subject, "one", {"a": "2"}))
    assert replaced["data"] == {"a": "2"}
    assert "labels" not in replaced["metadata"]


async def test_replace_of_a_missing_object_is_not_found(subject):
    with pytest.raises(NotFound):
        await subject.store.replace(CONFIG_MAPS, config_map(subject, "missing"))


async def test_replace_with_another_uid_is_a_conflict(subject):
    created = await subject.store.create(CONFIG_MAPS, config_map(subject, "one"))
    created["metadata"]["uid"] = OTHER_UID
    with pytest.raises(Conflict):
        await subject.store.replace(CONFIG_MAPS, created)


async def test_patch_with_a_stale_version_is_a_conflict(subject):
    created = await subject.store.create(CONFIG_MAPS, config_map(subject, "one"))
    changed = await subject.store.patch(
        CONFIG_MAPS, key(created), {"metadata": {"resourceVersion": version(created)}, "data": {"a": "2"}}
    )
    with pytest.raises(Conflict):
        await subject.store.patch(
            CONFIG_MAPS, key(created), {"metadata": {"resourceVersion": version(created)}, "data": {"a": "3"}}
        )
    assert await subject.store.get(CONFIG_MAPS, key(created)) == changed


async def test_merge_patch_merges_maps_and_null_removes(subject):
    created = await subject.store.create(CONFIG_MAPS, config_map(subject, "one", {"a": "1", "b": "2"}))
    patched = await subject.store.patch(CONFIG_MAPS, key(created), {"data": {"a": None, "c": "3"}})
    assert patched["data"] == {"b": "2", "c": "3"}


async def test_patch_of_a_missing_object_is_not_found(subject):
    with pytest.raises(NotFound):
        await subject.store.patch(CONFIG_MAPS, ObjectKey(subject.namespace, "missing"), {"data": {}})


async def test_server_fields_survive_a_write_that_leaves_them_out(subject):
    created = await subject.store.create(MODELS, model(subject, "m"))
    bare = {**model(subject, "m", {**created["spec"], "replicas": 3}), "status": {}}
    bare["metadata"]["resourceVersion"] = version(created)
    replaced = await subject.store.replace(MODELS, bare)
    for name in ("uid", "creationTimestamp"):
        assert replaced["metadata"][name] == created["metadata"][name]


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(lambda s, obj: s.store.replace(CONFIG_MAPS, obj, field_manager=MANAGER), id="replace"),
        pytest.param(
            lambda s, obj: s.store.patch(CONFIG_MAPS, key(obj), {"data": {"a": "1"}}, field_manager=MANAGER), id="patch"
        ),
    ],
)
async def test_a_write_that_changes_nothing_makes_no_version(subject, write):
    created = await subject.store.create(CONFIG_MAPS, config_map(subject, "one", {"a": "1"}), field_manager=MANAGER)
    assert await write(subject, created) == created
    assert await subject.store.get(CONFIG_MAPS, key(created)) == created


async def test_patch_with_another_uid_is_a_conflict(subject):
    created = await subject.store.create(CONFIG_MAPS, config_map(subject, "one"))
    with pytest.raises(Conflict):
        await subject.store.patch(CONFIG_MAPS, key(created), {"metadata": {"uid": OTHER_UID}, "data": {"a": "2"}})


async def test_a_list_of_operations_is_a_json_patch(subject):
    created = await subject.store.create(
        CONFIG_MAPS, config_map(subject, "one", {"a": "1", "b": "2"}, annotations={"x/y": "z"})
    )
    patched = await subject.store.patch(
        CONFIG_MAPS,
        key(created),
        [
            {"op": "test", "path": "/data/a", "value": "1"},
            {"op": "replace", "path": "/data/a", "value": "2"},
            {"op": "move", "from": "/data/b", "path": "/data/d"},
            {"op": "remove", "path": "/metadata/annotations/x~1y"},
            {"op": "add", "path": "/metadata/labels", "value": {"x": "y"}},
        ],
    )
    assert (patched["data"], patched["metadata"]["labels"]) == ({"a": "2", "d": "2"}, {"x": "y"})
    assert not patched["metadata"].get("annotations")


@pytest.mark.parametrize(
    "operations",
    [
        pytest.param([{"op": "test", "path": "/data/a", "value": "9"}], id="a test that fails"),
        pytest.param([{"op": "remove", "path": "/data/none"}], id="something to remove that is not there"),
        pytest.param([{"op": "add", "path": "/none/a", "value": "1"}], id="a place that is not there"),
    ],
)
async def test_a_json_patch_is_done_whole_or_not_at_all(subject, operations):
    created = await subject.store.create(CONFIG_MAPS, config_map(subject, "one", {"a": "1"}))
    first = {"op": "replace", "path": "/data/a", "value": "2"}
    with pytest.raises(Invalid):
        await subject.store.patch(CONFIG_MAPS, key(created), [*operations, first])
    assert await subject.store.get(CONFIG_MAPS, key(created)) == created


# Generation, status


async def test_generation_counts_changes_of_the_spec_only(subject):
    created = await subject.store.create(MODELS, model(subject, "m"))
    name = key(created)
    labelled = await subject.store.patch(MODELS, name, {"metadata": {"labels": {"a": "b"}}})
    reported = await subject.store.patch(MODELS, name, {"status": {"phase": "Idle"}}, subresource="status")
    scaled = await subject.store.patch(MODELS, name, {"spec": {"replicas": 2}})
    assert [obj["metadata"]["generation"] for obj in (created, labelled, reported, scaled)] == [1, 1, 1, 2]


async def test_a_main_write_leaves_the_status_alone(subject):
    created = await subject.store.create(MODELS, model(subject, "m"))
    await subject.store.patch(MODELS, key(created), {"status": {"phase": "Idle"}}, subresource="status")
    patched = await subject.store.patch(MODELS, key(created), {"spec": {"replicas": 2}, "status": {"phase": "Ready"}})
    assert (patched["spec"]["replicas"], patched["status"]["phase"]) == (2, "Idle")
    del patched["status"]
    replaced = await subject.store.replace(MODELS, patched)
    assert replaced["status"]["phase"] == "Idle"


async def test_a_status_write_leaves_everything_else_alone(subject):
    created = await subject.store.create(MODELS, model(subject, "m"))
    wanted = {**created, "spec": {**created["spec"], "replicas": 7}, "status": {"phase": "Idle"}}
    wanted["metadata"] = {**created["metadata"], "labels": {"a": "b"}}
    replaced = await subject.store.replace(MODELS, wanted, subresource="status")
    assert replaced["status"]["phase"] == "Idle"
    assert replaced["spec"] == created["spec"]
    assert "labels" not in replaced["metadata"]


async def test_a_status_write_with_a_stale_version_is_a_conflict(subject):
    created = await subject.store.create(MODELS, model(subject, "m"))
    await subject.store.patch(MODELS, key(created), {"spec": {"replicas": 2}})
    with pytest.raises(Conflict):
        await subject.store.replace(MODELS, {**created, "status": {"phase": "Idle"}}, subresource="status")


async def test_an_unknown_subresource_is_not_found(subject):
    created = await subject.store.create(CONFIG_MAPS, config_map(subject, "one"))
    with pytest.raises(NotFound):
        await subject.store.patch(CONFIG_MAPS, key(created), {"status": {}}, subresource="status")


# Scale, other subresources


async def test_the_scale_of_an_object_is_read_and_written_by_itself(subject):
    created = await subject.store.create(MODELS, model(subject, "m"))
    await subject.store.patch(
        MODELS, key(created), {"status": {"replicas": 1, "selector": "model=m"}}, subresource="status"
    )
    patched = await subject.store.patch(MODELS, key(created), {"spec": {"replicas": 3}}, subresource="scale")
    scale = await subject.store.get(MODELS, key(created), subresource="scale")
    stored = await subject.store.get(MODELS, key(created))
    assert scale == patched
    assert scale == {
        "apiVersion": "autoscaling/v1",
        "kind": "Scale",
        "metadata": {
            name: stored["metadata"][name]
            for name in ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
        },
        "spec": {"replicas": 3},
        "status": {"replicas": 1, "selector": "model=m"},
    }
    scale["spec"]["replicas"] = 2
    replaced = await subject.store.replace(MODELS, scale, subresource="scale")
    assert replaced["spec"] == {"replicas": 2}
    stored = await subject.store.get(MODELS, key(created))
    assert (stored["spec"], stored["metadata"]["generation"]) == ({**created["spec"], "replicas": 2}, 3)
    with pytest.raises(Conflict):
        await subject.store.replace(MODELS, scale, subresource="scale")


async def test_a_kind_without_a_scale_has_none(subject):
    created = await subject.store.create(CONFIG_MAPS, config_map(subject, "one"))
    with pytest.raises(NotFound):
        await subject.store.get(CONFIG_MAPS, key(created), subresource="scale")


async def test_a_call_on_an_object_that_is_not_there_is_not_found(subject):
    with pytest.raises(NotFound):
        await subject.store.post(CONFIG_MAPS, ObjectKey(subject.namespace, "missing"), "eviction", {})


# Deletion


async def test_delete_takes_the_object_away(subject):
    created = await subject.store.create(CONFIG_MAPS, config_map(subject, "one"))
    await subject.store.delete(CONFIG_MAPS, key(created))
    with pytest.raises(NotFound):
        await subject.store.get(CONFIG_MAPS, key(created))
    with pytest.raises(NotFound):
        await subject.store.delete(CONFIG_MAPS, key(created))


async def test_delete_with_another_uid_or_version_is_a_conflict(subject):
    created = await subject.store.create(CONFIG_MAPS, config_map(subject, "one"))
    changed = await subject.store.patch(CONFIG_MAPS, key(created), {"data": {"a": "2"}})
    with pytest.raises(Conflict):
        await subject.store.delete(CONFIG_MAPS, key(created), uid=OTHER_UID)
    with pytest.raises(Conflict):
        await subject.store.delete(CONFIG_MAPS, key(created), resource_version=version(created))
    await subject.store.delete(
        CONFIG_MAPS, key(created), uid=created["metadata"]["uid"], resource_version=version(changed)
    )
    assert not await exists(subject, CONFIG_MAPS, key(created))


async def test_a_recreated_object_is_another_one(subject):
    first = await subject.store.create(CONFIG_MAPS, config_map(subject, "one"))
    await subject.store.delete(CONFIG_MAPS, key(first))
    second = await subject.store.create(CONFIG_MAPS, config_map(subject, "one"))
    assert first["metadata"]["uid"] != second["metadata"]["uid"]
    with pytest.raises(Conflict):
        await subject.store.delete(CONFIG_MAPS, key(first), uid=first["metadata"]["uid"])
    assert await subject.store.get(CONFIG_MAPS, key(first)) == second


async def test_finalizers_hold_the_object_back_until_the_last_is_gone(subject):
    created = await subject.store.create(MODELS, model(subject, "m", finalizers=["flexinfer.ai/a", "flexinfer.ai/b"]))
    await subject.store.delete(MODELS, key(created))
    dying = await subject.store.get(MODELS, key(created))
    assert dying["metadata"]["deletionTimestamp"]
    await subject.store.delete(MODELS, key(created))
    assert await subject.store.get(MODELS, key(created)) == dying
    with pytest.raises(Invalid):
        await subject.store.patch(
            MODELS, key(created), {"metadata": {"finalizers": [*created["metadata"]["finalizers"], "flexinfer.ai/c"]}}
        )
    await subject.store.patch(MODELS, key(created), {"metadata": {"finalizers": ["flexinfer.ai/b"]}})
    assert await exists(subject, MODELS, key(created))
    await subject.store.patch(MODELS, key(created), {"metadata": {"finalizers": None}})
    assert not await exists(subject, MODELS, key(created))


async def test_children_go_with_their_owner(subject):
    parent = await subject.store.create(MODELS, model(subject, "m"))
    child = await subject.store.create(CONFIG_MAPS, config_map(subject, "child", ownerReferences=[owner(parent)]))
    grandchild = await subject.store.create(
        CONFIG_MAPS, config_map(subject, "grandchild", ownerReferences=[owner(child, "ConfigMap", "v1")])
    )
    await subject.store.delete(MODELS, key(parent))
    for obj in (child, grandchild):
        await until_gone(subject, obj)


async def _gone(subject: Subject, obj: Object) -> bool:
    return not await exists(subject, CONFIG_MAPS, key(obj))


async def test_a_child_of_two_owners_stays_until_both_are_gone(subject):
    parents = [await subject.store.create(MODELS, model(subject, name)) for name in ("m1", "m2")]
    child = await subject.store.create(
        CONFIG_MAPS, config_map(subject, "child", ownerReferences=[owner(parent) for parent in parents])
    )
    witness = await subject.store.create(
        CONFIG_MAPS, config_map(subject, "witness", ownerReferences=[owner(parents[0])])
    )
    await subject.store.delete(MODELS, key(parents[0]))
    await until_gone(subject, witness)
    assert await exists(subject, CONFIG_MAPS, key(child))
    await subject.store.delete(MODELS, key(parents[1]))
    await until_gone(subject, child)


async def test_children_die_with_the_uid_of_their_owner_not_with_its_name(subject):
    first = await subject.store.create(MODELS, model(subject, "m"))
    old_child = await subject.store.create(CONFIG_MAPS, config_map(subject, "old", ownerReferences=[owner(first)]))
    await subject.store.delete(MODELS, key(first))
    second = await subject.store.create(MODELS, model(subject, "m"))
    new_child = await subject.store.create(CONFIG_MAPS, config_map(subject, "new", ownerReferences=[owner(second)]))
    late_child = await subject.store.create(CONFIG_MAPS, config_map(subject, "late", ownerReferences=[owner(first)]))
    await until_gone(subject, old_child)
    await until_gone(subject, late_child)
    assert await exists(subject, CONFIG_MAPS, key(new_child))


# Watch


async def test_watch_tells_everything_after_a_version_in_order(subject):
    start = (await subject.store.list(CONFIG_MAPS)).resource_version
    one = await subject.store.create(CONFIG_MAPS, config_map(subject, "one"))
    await subject.store.create(CONFIG_MAPS, config_map(subject, "two"))
    changed = await subject.store.patch(CONFIG_MAPS, key(one), {"data": {"a": "2"}})
    await subject.store.delete(CONFIG_MAPS, key(one))
    seen = await events(subject, CONFIG_MAPS, start, 4)
    assert [(event.type, key(event.object).name) for event in seen] == [
        ("ADDED", "one"),
        ("ADDED", "two"),
        ("MODIFIED", "one"),
        ("DELETED", "one"),
    ]
    assert seen[0].object == one
    assert seen[2].object == changed
    versions = [int(version(event.object)) for event in seen]
    assert versions == sorted(set(versions))


async def test_watch_goes_on_after_any_event_it_gave(subject):
    start = (await subject.store.list(CONFIG_MAPS)).resource_version
    for name in ("one", "two", "three"):
        await subject.store.create(CONFIG_MAPS, config_map(subject, name))
    seen = await events(subject, CONFIG_MAPS, start, 3)
    assert await summary(subject, CONFIG_MAPS, version(seen[0].object), 2) == [("ADDED", "two"), ("ADDED", "three")]


async def test_watch_waits_for_what_is_to_come(subject):
    start = (await subject.store.list(CONFIG_MAPS)).resource_version
    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(summary(subject, CONFIG_MAPS, start, 2))
        for name in ("one", "two"):
            await asyncio.sleep(0)
            await subject.store.create(CONFIG_MAPS, config_map(subject, name))
    assert watching.result() == [("ADDED", "one"), ("ADDED", "two")]


async def test_watch_sees_only_its_kind_and_namespace(subject):
    await subject.forgotten_version()
    start = (await subject.store.list(MODELS)).resource_version
    await subject.store.create(CONFIG_MAPS, config_map(subject, "mine"))
    await subject.store.create(MODELS, model(subject, "mine"))
    assert await summary(subject, MODELS, start, 1) == [("ADDED", "mine")]


async def test_watch_tells_of_finalizing_before_deletion(subject):
    start = (await subject.store.list(MODELS)).resource_version
    created = await subject.store.create(MODELS, model(subject, "m", finalizers=["flexinfer.ai/a"]))
    await subject.store.delete(MODELS, key(created))
    await subject.store.patch(MODELS, key(created), {"metadata": {"finalizers": None}})
    seen = await events(subject, MODELS, start, 3)
    assert [event.type for event in seen] == ["ADDED", "MODIFIED", "DELETED"]
    assert ["deletionTimestamp" in event.object["metadata"] for event in seen] == [False, True, True]


async def test_watch_from_a_forgotten_version_is_gone(subject):
    forgotten = await subject.forgotten_version()
    with pytest.raises(Gone):
        await events(subject, MODELS, forgotten, 1)


async def test_a_list_is_a_version_to_watch_from_even_after_gone(subject):
    await subject.forgotten_version()
    start = (await subject.store.list(MODELS)).resource_version
    await subject.store.create(MODELS, model(subject, "one"))
    assert await summary(subject, MODELS, start, 1) == [("ADDED", "one")]


async def test_a_watch_can_be_closed_while_nothing_happens(subject):
    start = (await subject.store.list(CONFIG_MAPS)).resource_version
    watching = asyncio.create_task(events(subject, CONFIG_MAPS, start, 1))
    await asyncio.sleep(0.05)
    watching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watching
    assert await subject.store.list(CONFIG_MAPS)


async def test_a_watch_of_a_selection_sees_objects_enter_and_leave_it(subject):
    start = (await subject.store.list(CONFIG_MAPS)).resource_version
    name = key(await subject.store.create(CONFIG_MAPS, config_map(subject, "one", labels={"app": "x"})))
    await subject.store.create(CONFIG_MAPS, config_map(subject, "other", labels={"app": "y"}))
    for change in (
        {"data": {"a": "2"}},
        {"metadata": {"labels": {"app": "y"}}},
        {"data": {"a": "3"}},
        {"metadata": {"labels": {"app": "x"}}},
    ):
        last = await subject.store.patch(CONFIG_MAPS, name, change)
    seen = await events(subject, CONFIG_MAPS, start, 4, labels={"app": "x"})
    assert [(event.type, event.object["data"], event.object["metadata"]["labels"]) for event in seen] == [
        ("ADDED", {"a": "1"}, {"app": "x"}),
        ("MODIFIED", {"a": "2"}, {"app": "x"}),
        ("DELETED", {"a": "2"}, {"app": "x"}),
        ("ADDED", {"a": "3"}, {"app": "x"}),
    ]
    assert version(seen[-1].object) == version(last)
    assert int(version(seen[1].object)) < int(version(seen[2].object)) < int(version(seen[3].object))


async def test_objects_are_selected_by_their_name(subject):
    for name in ("one", "two"):
        await subject.store.create(CONFIG_MAPS, config_map(subject, name))
    fields = {"metadata.name": "two"}
    found = await subject.store.list(CONFIG_MAPS, Selection(subject.namespace, fields=fields))
    assert [key(obj).name for obj in found.items] == ["two"]
    for name in ("one", "two"):
        await subject.store.patch(CONFIG_MAPS, ObjectKey(subject.namespace, name), {"data": {"a": "2"}})
    seen = await events(subject, CONFIG_MAPS, found.resource_version, 1, fields=fields)
    assert [(event.type, key(event.object).name) for event in seen] == [("MODIFIED", "two")]


async def test_a_field_that_cannot_be_selected_by_is_invalid(subject):
    with pytest.raises(Invalid):
        await subject.store.list(CONFIG_MAPS, Selection(subject.namespace, fields={"data.a": "1"}))


# Lists that go on as a watch


async def listed(subject: Subject, selection: Selection, more: int = 0) -> tuple[dict[str, Object], list[WatchEvent]]:
    """Every object up to the end of the list, by name; that end, and `more` events after it."""
    found: dict[str, Object] = {}
    tail: list[WatchEvent] = []
    async with asyncio.timeout(30), aclosing(subject.store.watch_list(CONFIG_MAPS, selection)) as watch:
        async for event in watch:
            if (tail and event.type != "BOOKMARK") or event.is_initial_end:
                tail.append(event)
            elif not tail:
                assert event.type == "ADDED"
                found[key(event.object).name] = event.object
            if len(tail) > more:
                break
    return found, tail


async def test_a_watched_list_begins_with_every_object(subject):
    labels = {"app": "x"}
    created = [
        await subject.store.create(CONFIG_MAPS, config_map(subject, name, labels=labels)) for name in ("one", "two")
    ]
    await subject.store.create(CONFIG_MAPS, config_map(subject, "other"))
    found, [end] = await listed(subject, Selection(subject.namespace, labels=labels))
    assert found == {"one": created[0], "two": created[1]}
    assert int(version(end.object)) >= int(version(created[1]))
    changed = await subject.store.patch(CONFIG_MAPS, key(created[0]), {"data": {"a": "2"}})
    [event] = await events(subject, CONFIG_MAPS, version(end.object), 1, labels=labels)
    assert event == WatchEvent("MODIFIED", changed)


async def test_a_watched_list_goes_on_with_what_happens(subject):
    created = await subject.store.create(CONFIG_MAPS, config_map(subject, "one"))

    async def change() -> None:
        await asyncio.sleep(0.2)
        await subject.store.patch(CONFIG_MAPS, key(created), {"data": {"a": "2"}})
        await subject.store.delete(CONFIG_MAPS, key(created))

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(change())
        found, tail = await listed(subject, Selection(subject.namespace), more=2)
    assert found["one"] == created
    assert [(event.type, event.object["data"]) for event in tail[1:]] == [
        ("MODIFIED", {"a": "2"}),
        ("DELETED", {"a": "2"}),
    ]


async def test_a_watched_list_of_nothing_ends_at_once(subject):
    found, [end] = await listed(subject, Selection(subject.namespace, labels={"no": "object"}))
    assert found == {}
    assert re.fullmatch(r"[1-9][0-9]*", version(end.object))


# Server-side apply


async def apply(subject: Subject, obj: Object, manager: str = MANAGER, **how: Any) -> Object:
    stored: Object = await subject.store.apply(CONFIG_MAPS, obj, field_manager=manager, **how)
    return stored


def managers(obj: Object) -> dict[tuple[str, str], Any]:
    return {
        (entry["manager"], entry["operation"]): entry["fieldsV1"] for entry in obj["metadata"].get("managedFields", [])
    }


async def test_apply_creates_what_is_missing_and_notes_who_owns_it(subject):
    stored = await apply(subject, config_map(subject, "one", {"a": "1"}, labels={"x": "y"}))
    assert stored["data"] == {"a": "1"}
    assert managers(stored) == {(MANAGER, "Apply"): {"f:data": {"f:a": {}}, "f:metadata": {"f:labels": {"f:x": {}}}}}
    [entry] = stored["metadata"]["managedFields"]
    assert {name: entry[name] for name in ("apiVersion", "fieldsType")} == {
        "apiVersion": "v1",
        "fieldsType": "FieldsV1",
    }
    assert entry["time"]


async def test_apply_of_the_same_again_writes_nothing(subject):
    stored = await apply(subject, config_map(subject, "one", {"a": "1"}))
    assert await apply(subject, config_map(subject, "one", {"a": "1"})) == stored


async def test_apply_removes_what_it_gives_up_and_leaves_what_others_set(subject):
    await apply(subject, config_map(subject, "one", {"a": "1", "b": "1"}, labels={"mine": "1"}))
    await apply(subject, config_map(subject, "one", {"c": "1"}), manager="other")
    stored = await apply(subject, config_map(subject, "one", {"a": "1"}))
    assert stored["data"] == {"a": "1", "c": "1"}
    assert "labels" not in stored["metadata"]


async def test_apply_keeps_a_field_that_another_manager_also_set(subject):
    await apply(subject, config_map(subject, "one", {"a": "1", "b": "1"}))
    await apply(subject, config_map(subject, "one", {"b": "1"}), manager="other")
    stored = await apply(subject, config_map(subject, "one", {"a": "1"}))
    assert stored["data"] == {"a": "1", "b": "1"}
    stored = await apply(subject, config_map(subject, "one", {"a": "1"}), manager="other")
    assert stored["data"] == {"a": "1"}


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(lambda s, obj: apply(s, obj, manager="other"), id="that another apply set"),
        pytest.param(lambda s, obj: s.store.create(CONFIG_MAPS, obj, field_manager="other"), id="that a create set"),
        pytest.param(
            lambda s, obj: s.store.create(CONFIG_MAPS, obj, field_manager=MANAGER),
            id="that the same manager set without apply",
        ),
    ],
)
async def test_apply_conflicts_over_a_field(subject, first):
    await first(subject, config_map(subject, "one", {"a": "1"}))
    with pytest.raises(Conflict, match=r"data\.a"):
        await apply(subject, config_map(subject, "one", {"a": "2"}))
    assert (await subject.store.get(CONFIG_MAPS, ObjectKey(subject.namespace, "one")))["data"] == {"a": "1"}
    forced = await apply(subject, config_map(subject, "one", {"a": "2"}), force=True)
    assert forced["data"] == {"a": "2"}
    assert managers(forced)[MANAGER, "Apply"] == {"f:data": {"f:a": {}}}
    assert not [entry for who, entry in managers(forced).items() if who[1] == "Apply" and who[0] != MANAGER]


async def test_an_update_takes_the_fields_it_changes(subject):
    stored = await apply(subject, config_map(subject, "one", {"a": "1", "b": "1"}))
    changed = await subject.store.patch(CONFIG_MAPS, key(stored), {"data": {"a": "2"}}, field_manager="editor")
    assert managers(changed) == {
        (MANAGER, "Apply"): {"f:data": {"f:b": {}}},
        ("editor", "Update"): {"f:data": {"f:a": {}}},
    }
    with pytest.raises(Conflict):
        await apply(subject, config_map(subject, "one", {"a": "1", "b": "1"}))


async def test_apply_with_a_stale_version_is_a_conflict(subject):
    stored = await apply(subject, config_map(subject, "one", {"a": "1"}))
    await subject.store.patch(CONFIG_MAPS, key(stored), {"data": {"b": "1"}})
    with pytest.raises(Conflict):
        await apply(subject, config_map(subject, "one", {"a": "2"}, resourceVersion=version(stored)))


async def test_apply_with_the_uid_of_an_object_that_is_gone_is_a_conflict(subject):
    with pytest.raises(Conflict):
        await apply(subject, config_map(subject, "one", {"a": "1"}, uid=OTHER_UID))


async def test_apply_of_the_status_owns_the_status_only(subject):
    created = await subject.store.create(MODELS, model(subject, "m"), field_manager="user")
    status = {**model(subject, "m", {"replicas": 9}), "status": {"phase": "Idle"}}
    stored = await subject.store.apply(MODELS, status, field_manager=MANAGER, subresource="status")
    assert stored["status"]["phase"] == "Idle"
    assert stored["spec"] == created["spec"]
    [entry] = [entry for entry in stored["metadata"]["managedFields"] if entry["manager"] == MANAGER]
    assert (entry["subresource"], entry["fieldsV1"]) == ("status", {"f:status": {"f:phase": {}}})
    stored = await subject.store.apply(
        MODELS, {**status, "status": {"tier": "cold"}}, field_manager=MANAGER, subresource="status"
    )
    assert (stored["status"]["tier"], "phase" in stored["status"]) == ("cold", False)


async def test_apply_of_the_status_of_a_missing_object_is_not_found(subject):
    status = {**model(subject, "m"), "status": {"phase": "Idle"}}
    with pytest.raises(NotFound):
        await subject.store.apply(MODELS, status, field_manager=MANAGER, subresource="status")


async def test_apply_merges_owner_references_by_uid_and_finalizers_as_a_set(subject):
    parents = [await subject.store.create(MODELS, model(subject, name)) for name in ("m1", "m2")]
    for parent, manager in zip(parents, ("one", "two"), strict=True):
        meta = {"ownerReferences": [owner(parent)], "finalizers": [f"flexinfer.ai/{manager}"]}
        stored = await apply(subject, config_map(subject, "child", {manager: "1"}, **meta), manager=manager)
    assert [ref["uid"] for ref in stored["metadata"]["ownerReferences"]] == [p["metadata"]["uid"] for p in parents]
    assert sorted(stored["metadata"]["finalizers"]) == ["flexinfer.ai/one", "flexinfer.ai/two"]
    stored = await apply(subject, config_map(subject, "child", {"one": "1"}), manager="one")
    assert [ref["uid"] for ref in stored["metadata"]["ownerReferences"]] == [parents[1]["metadata"]["uid"]]
    assert stored["metadata"]["finalizers"] == ["flexinfer.ai/two"]


def endpoint_slice(subject: Subject, *addresses: str) -> Object:
    return {
        "metadata": {"name": "slice", "namespace": subject.namespace},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address]} for address in addresses],
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    }


async def test_apply_replaces_an_atomic_list_whole(subject):
    await subject.store.apply(ENDPOINT_SLICES, endpoint_slice(subject, "192.0.2.1"), field_manager=MANAGER)
    stored = await subject.store.apply(
        ENDPOINT_SLICES, endpoint_slice(subject, "192.0.2.2", "192.0.2.3"), field_manager=MANAGER
    )
    assert [endpoint["addresses"] for endpoint in stored["endpoints"]] == [["192.0.2.2"], ["192.0.2.3"]]
    assert managers(stored)[MANAGER, "Apply"] == {"f:addressType": {}, "f:endpoints": {}, "f:ports": {}}
    with pytest.raises(Conflict, match="endpoints"):
        await subject.store.apply(ENDPOINT_SLICES, endpoint_slice(subject, "192.0.2.9"), field_manager="other")


# Many writers


async def test_writers_that_retry_on_conflict_lose_no_update(subject):
    created = await subject.store.create(CONFIG_MAPS, config_map(subject, "counter", {"n": "0"}))

    async def count() -> None:
        for _ in range(3):
            while True:
                obj = await subject.store.get(CONFIG_MAPS, key(created))
                obj["data"]["n"] = str(int(obj["data"]["n"]) + 1)
                try:
                    await subject.store.replace(CONFIG_MAPS, obj)
                    break
                except Conflict:
                    continue

    async with asyncio.TaskGroup() as tasks:
        for _ in range(5):
            tasks.create_task(count())
    assert (await subject.store.get(CONFIG_MAPS, key(created)))["data"] == {"n": "15"}
