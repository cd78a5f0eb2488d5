from __future__ import annotations

import random

import pytest

from flexinfer.api.meta import ObjectKey
from flexinfer.errors import Conflict, NotFound
from flexinfer.kube.apply import Applied, Child, converge, owned_by
from flexinfer.kube.memory import MemoryStore
from flexinfer.kube.store import CONFIG_MAPS, MODELS

OWNER_KEY = ObjectKey("default", "m")


@pytest.fixture
def store(clock):
    return MemoryStore(clock, rand=random.Random(1))


@pytest.fixture
async def owner(store):
    return await store.create(MODELS, {"metadata": {"name": "m", "namespace": "default"}, "spec": {}})


@pytest.fixture
def child(owner):
    def build(name, **data):
        reference = {
            "apiVersion": "ai.flexinfer/v1alpha2",
            "kind": "Model",
            "name": "m",
            "uid": owner["metadata"]["uid"],
        }
        meta = {"name": name, "namespace": "default", "ownerReferences": [reference]}
        return Child(CONFIG_MAPS, {"metadata": meta, "data": data})

    return build


@pytest.fixture
def run(store, owner):
    async def converged(desired, owned):
        return await converge(store, desired, owned, owner_uid=owner["metadata"]["uid"], field_manager="manager")

    return converged


async def data(store):
    return {obj["metadata"]["name"]: obj["data"] for obj in (await store.list(CONFIG_MAPS)).items}


async def test_creates_changes_and_prunes(store, child, run):
    first = await run([child("a", v="1"), child("b", v="1")], [])
    second = await run([child("b", v="2"), child("c", v="1")], first)
    assert await data(store) == {"b": {"v": "2"}, "c": {"v": "1"}}
    assert [stored.key.name for stored in second] == ["b", "c"]


async def test_nothing_is_written_when_nothing_changed(store, child, run):
    """F18."""
    desired = [child("a", v="1"), child("b", v="1")]
    first = await run(desired, [])
    before = (await store.list(CONFIG_MAPS)).resource_version
    assert await run(desired, first) == first
    assert (await store.list(CONFIG_MAPS)).resource_version == before


async def test_what_stands_as_it_was_applied_is_not_even_sent(store, child, owner):
    sent = []

    class Counting:
        def __getattr__(self, name):
            if name in {"apply", "delete"}:
                sent.append(name)
            return getattr(store, name)

    applied = Applied()
    uid = owner["metadata"]["uid"]

    async def run(desired, owned):
        sent.clear()
        stored = await converge(Counting(), desired, owned, owner_uid=uid, field_manager="manager", applied=applied)
        return stored, list(sent)

    first, calls = await run([child("a", v="1"), child("b", v="1")], [])
    assert calls == ["apply", "apply"]
    assert await run([child("a", v="1"), child("b", v="1")], first) == (first, [])
    touched = await store.patch(CONFIG_MAPS, ObjectKey("default", "a"), {"data": {"v": "drift"}})
    second, calls = await run([child("a", v="1"), child("b", v="2")], [Child(CONFIG_MAPS, touched), first[1]])
    assert (calls, await data(store)) == (["apply", "apply"], {"a": {"v": "1"}, "b": {"v": "2"}})
    third, calls = await run([child("a", v="1")], second)
    assert (third, calls) == ([second[0]], ["delete"])
    _, calls = await run([child("a", v="1"), child("b", v="2")], third)
    assert (calls, await data(store)) == (["apply"], {"a": {"v": "1"}, "b": {"v": "2"}})


async def test_drift_is_taken_back_and_fields_of_others_stay(store, child, run):
    await run([child("a", v="1")], [])
    await store.patch(CONFIG_MAPS, ObjectKey("default", "a"), {"data": {"v": "2", "x": "y"}}, field_manager="editor")
    await run([child("a", v="1")], [])
    assert await data(store) == {"a": {"v": "1", "x": "y"}}


async def test_a_stale_cache_never_deletes_a_namesake(store, child, run):
    """F10, F13."""
    stale = await run([child("a", v="1")], [])
    await store.delete(CONFIG_MAPS, ObjectKey("default", "a"))
    await store.create(CONFIG_MAPS, {"metadata": {"name": "a", "namespace": "default"}, "data": {"by": "somebody"}})
    await run([], stale)
    assert await data(store) == {"a": {"by": "somebody"}}


async def test_a_stale_cache_never_deletes_what_has_changed_hands(store, child, run):
    stale = await run([child("a", v="1")], [])
    await store.patch(CONFIG_MAPS, ObjectKey("default", "a"), {"metadata": {"ownerReferences": None}})
    await run([], stale)
    assert await data(store) == {"a": {"v": "1"}}


async def test_what_is_stale_but_still_ours_is_deleted(store, child, run):
    stale = await run([child("a", v="1")], [])
    await store.patch(CONFIG_MAPS, ObjectKey("default", "a"), {"data": {"v": "2"}})
    await run([], stale)
    assert await data(store) == {}


async def test_what_belongs_to_others_is_left_alone(store, run):
    other = await store.create(CONFIG_MAPS, {"metadata": {"name": "a", "namespace": "default"}, "data": {}})
    await run([], [Child(CONFIG_MAPS, other)])
    assert await data(store) == {"a": {}}


async def test_what_is_gone_or_going_is_left_alone(store, child, run):
    held = child("held")
    held.object["metadata"]["finalizers"] = ["a/b"]
    owned = await run([child("a"), held], [])
    await store.delete(CONFIG_MAPS, ObjectKey("default", "a"))
    await store.delete(CONFIG_MAPS, ObjectKey("default", "held"))
    going = Child(CONFIG_MAPS, await store.get(CONFIG_MAPS, ObjectKey("default", "held")))
    await run([], [owned[0], going])
    assert await data(store) == {"held": {}}


class LostReplies(MemoryStore):
    """F07: each write is done, but its answer is lost the first time."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.lost = set()

    async def apply(self, resource, obj, **how):
        stored = await super().apply(resource, obj, **how)
        if stored["metadata"]["name"] not in self.lost:
            self.lost.add(stored["metadata"]["name"])
            raise TimeoutError("the answer was lost")
        return stored


async def test_lost_answers_double_nothing(clock, child, owner):
    store = LostReplies(clock)
    await store.create(MODELS, {"metadata": {"name": "m", "namespace": "default"}, "spec": {}})
    uid = (await store.get(MODELS, OWNER_KEY))["metadata"]["uid"]
    desired = [child("a", v="1"), child("b", v="1")]
    for one in desired:
        one.object["metadata"]["ownerReferences"][0]["uid"] = uid
    for attempts_left in (2, 1, 0):
        try:
            await converge(store, desired, [], owner_uid=uid, field_manager="manager")
        except TimeoutError:
            assert attempts_left
    assert await data(store) == {"a": {"v": "1"}, "b": {"v": "1"}}
    assert {obj["metadata"]["resourceVersion"] for obj in (await store.list(CONFIG_MAPS)).items} == {
        str(int((await store.get(MODELS, OWNER_KEY))["metadata"]["resourceVersion"]) + offset) for offset in (1, 2)
    }


class Killed(Exception):
    pass


class KilledStore(MemoryStore):
    """F08: whoever uses it is killed when it is about to make one write more than `writes_left`."""

    writes_left = 1000

    def _write_or_die(self):
        if not self.writes_left:
            raise Killed
        self.writes_left -= 1

    async def apply(self, *args, **how):
        self._write_or_die()
        return await super().apply(*args, **how)

    async def delete(self, *args, **how):
        self._write_or_die()
        return await super().delete(*args, **how)


@pytest.mark.parametrize("writes", range(6))
async def test_killed_between_any_two_writes_the_next_run_reaches_the_same_state(clock, child, writes):
    """F08: five writes in a run, killed before each of them."""
    store = KilledStore(clock)
    uid = (await store.create(MODELS, {"metadata": {"name": "m", "namespace": "default"}, "spec": {}}))["metadata"][
        "uid"
    ]

    def ours(name, **data):
        one = child(name, **data)
        one.object["metadata"]["ownerReferences"][0]["uid"] = uid
        return one

    async def run(desired):
        owned = [Child(CONFIG_MAPS, obj) for obj in (await store.list(CONFIG_MAPS)).items]
        await converge(store, desired, owned, owner_uid=uid, field_manager="manager")

    await run([ours("a", v="1"), ours("b", v="1"), ours("c", v="1")])
    desired = [ours("a", v="2"), ours("d", v="1"), ours("e", v="1")]
    store.writes_left = writes
    try:
        await run(desired)
    except Killed:
        assert writes < 5
    store.writes_left = 1000
    await run(desired)
    assert await data(store) == {"a": {"v": "2"}, "d": {"v": "1"}, "e": {"v": "1"}}


class AlwaysChanging(MemoryStore):
    async def delete(self, *_args, **_preconditions):
        raise Conflict("changed again")


async def test_a_second_conflict_is_for_the_caller(clock, child):
    store = AlwaysChanging(clock)
    owner = await store.create(MODELS, {"metadata": {"name": "m", "namespace": "default"}, "spec": {}})
    one = child("a")
    one.object["metadata"]["ownerReferences"][0]["uid"] = owner["metadata"]["uid"]
    owned = await converge(store, [one], [], owner_uid=owner["metadata"]["uid"], field_manager="manager")
    with pytest.raises(Conflict):
        await converge(store, [], owned, owner_uid=owner["metadata"]["uid"], field_manager="manager")


async def test_an_object_that_vanishes_between_two_looks_is_gone(clock, child):
    class Vanishing(AlwaysChanging):
        async def get(self, *_args):
            raise NotFound("gone")

    store = Vanishing(clock)
    owner = await store.create(MODELS, {"metadata": {"name": "m", "namespace": "default"}, "spec": {}})
    one = child("a")
    one.object["metadata"]["ownerReferences"][0]["uid"] = owner["metadata"]["uid"]
    owned = await converge(store, [one], [], owner_uid=owner["metadata"]["uid"], field_manager="manager")
    assert await converge(store, [], owned, owner_uid=owner["metadata"]["uid"], field_manager="manager") == []


def test_owned_by_goes_by_uid(child, owner):
    assert owned_by(child("a").object, owner["metadata"]["uid"])
    assert not owned_by(child("a").object, "another")
    assert not owned_by({"metadata": {}}, "another")
