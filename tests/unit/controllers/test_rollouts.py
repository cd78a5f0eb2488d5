"""ControllerRevisions of a Model: which are written, which are forgotten, and what comes back out of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.manual_clock import ManualClock
from tests.support.models import model

from flexinfer.api.meta import ObjectKey
from flexinfer.api.v1alpha2.model import Model, RolloutStatus
from flexinfer.api.wellknown import ANNOTATION_TEMPLATE
from flexinfer.controllers.children import Owner
from flexinfer.controllers.clusterview import ClusterView
from flexinfer.controllers.rollouts import Rollouts
from flexinfer.errors import NotFound
from flexinfer.kube.memory import MemoryStore
from flexinfer.kube.store import CONTROLLER_REVISIONS, MODELS, Object
from flexinfer.lifecycle.rollout import Choice, Written, revision_of
from flexinfer.resources.model.deployment import Pods


def template(digest: str) -> Pods:
    """The pods of one rendering."""
    metadata = {"annotations": {ANNOTATION_TEMPLATE: digest}}
    return Pods(template={"metadata": metadata, "spec": {"containers": [{"name": "model"}]}}, place="{}")


class World:
    def __init__(self, clock: ManualClock, store: MemoryStore, uid: str) -> None:
        self.store = store
        self.uid = uid
        self.view = ClusterView(store)
        self.clock = clock
        self.rollouts = Rollouts(store, self.view)

    def model(self, serving: str = "", **spec: Any) -> Model:
        found = model(**spec)
        found.metadata.uid = self.uid
        found.metadata.generation = hash(str(spec)) & 0xFFFF
        found.status.rollout = RolloutStatus(serving=serving)
        return found

    async def render(self, number: int, digest: str = "", serving: str = "") -> Pods:
        """Brings the rendering of a spec up, and waits until the cache has seen what was written."""
        found = self.model(serving, image=f"x:{number}")
        written = Written(revision=revision_of(found), template=digest or f"t{number}")
        made = await self.pods(found, Choice(written=written), template(written.template))
        await self.settle()
        assert made is not None
        return made

    async def settle(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    async def pods(self, found: Model, choice: Choice, rendered: Pods | None) -> Pods | None:
        owner = Owner(found.api_version, found.kind, found.key, found.metadata.uid)
        return await self.rollouts.pods(found, choice, rendered, owner)

    async def revisions(self) -> list[tuple[int, str]]:
        """Number and image, in order."""
        found = (await self.store.list(CONTROLLER_REVISIONS)).items
        return sorted((one["revision"], one["data"]["spec"]["image"]) for one in found)


@pytest.fixture
async def world(clock: ManualClock) -> AsyncIterator[World]:
    store = MemoryStore(clock)
    body = {"metadata": {"name": "m", "namespace": "default"}, "spec": {"backend": "simulator", "source": "a/b"}}
    owner: Object = await store.create(MODELS, body)
    one = World(clock, store, owner["metadata"]["uid"])
    following = asyncio.create_task(one.view.revisions.run())
    await one.view.revisions.wait_synced()
    yield one
    following.cancel()


async def test_each_spec_is_recorded_once_and_the_last_ten_are_kept(world: World):
    for number in range(1, 13):
        await world.render(number)
        await world.render(number)
    assert await world.revisions() == [(number, f"x:{number}") for number in range(3, 13)]


async def test_the_one_that_serves_is_never_forgotten(world: World):
    await world.render(1)
    serving = revision_of(world.model(image="x:1"))
    for number in range(2, 14):
        await world.render(number, serving=serving)
    assert await world.revisions() == [(1, "x:1"), *((number, f"x:{number}") for number in range(4, 14))]


async def test_a_spec_that_comes_again_is_the_newest_one(world: World):
    for number in (1, 2, 1):
        await world.render(number)
    assert await world.revisions() == [(2, "x:2"), (3, "x:1")]


async def test_another_rendering_of_the_same_spec_takes_the_place_of_its_record(world: World):
    await world.render(1)
    await world.render(1, digest="t1-newer")
    assert await world.revisions() == [(1, "x:1")]
    [stored] = (await world.store.list(CONTROLLER_REVISIONS)).items
    assert stored["metadata"]["annotations"][ANNOTATION_TEMPLATE] == "t1-newer"


async def test_what_comes_back_is_what_was_recorded(world: World):
    await world.render(1)
    await world.render(2)
    old = revision_of(world.model(image="x:1"))
    choice = Choice(written=Written(revision=old, template="t1"), recorded=True, strategy="swap")
    found = await world.pods(world.model(image="x:2"), choice, None)
    assert found == Pods(
        template=template("t1").template, place="{}", rollout=Written(revision=old, template="t1"), strategy="swap"
    )


async def test_a_record_that_somebody_deleted_is_told_and_nothing_is_made_up(world: World):
    await world.render(1)
    old = revision_of(world.model(image="x:1"))
    await world.store.delete(CONTROLLER_REVISIONS, ObjectKey("default", f"m-{old}"))
    choice = Choice(written=Written(revision=old, template="t1"), recorded=True)
    with pytest.raises(NotFound):
        await world.pods(world.model(image="x:2"), choice, None)


async def test_a_name_that_somebody_else_has_costs_the_record_and_nothing_else(world: World):
    taken = revision_of(world.model(image="x:1"))
    other = {
        "metadata": {"name": f"m-{taken}", "namespace": "default"},
        "revision": 1,
        "data": {"spec": {"image": "o"}},
    }
    before = await world.store.create(CONTROLLER_REVISIONS, other)
    made = await world.render(1)
    assert made.template == template("t1").template
    assert await world.store.get(CONTROLLER_REVISIONS, ObjectKey("default", f"m-{taken}")) == before


async def test_a_record_that_somebody_deleted_is_written_again(world: World):
    await world.render(1)
    await world.render(1)
    await world.store.delete(CONTROLLER_REVISIONS, ObjectKey("default", f"m-{revision_of(world.model(image='x:1'))}"))
    await world.settle()
    await world.render(1)
    assert await world.revisions() == [(1, "x:1")]
