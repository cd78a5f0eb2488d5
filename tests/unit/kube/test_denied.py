"""Which rights a process lacks: as the API server refuses them, until they are back."""

from __future__ import annotations

import pytest
from tests.manual_clock import ManualClock

from flexinfer.api.meta import ObjectKey
from flexinfer.errors import NotFound, StoreError
from flexinfer.kube.denied import FORGET_AFTER_S, Denials, Missing
from flexinfer.kube.memory import MemoryStore
from flexinfer.kube.store import EVERYTHING, SECRETS, SERVICES, Object, ObjectList, Resource, Selection

KEY = ObjectKey("ns", "s")
ACCOUNT = "system:serviceaccount:sys:manager"


def refusal(verb: str, resource: str) -> StoreError:
    said = f'{resource} is forbidden: User "{ACCOUNT}" cannot {verb} resource "{resource}" in API group "" in the ns'
    return forbidden(said)


def forbidden(said: str) -> StoreError:
    error = StoreError(said)
    error.status = 403
    return error


class Refusing(MemoryStore):
    """Raises `refuses` where it has one."""

    refuses: StoreError | None = None

    async def get(self, resource: Resource, key: ObjectKey, *, subresource: str | None = None) -> Object:
        if self.refuses:
            raise self.refuses
        return await super().get(resource, key, subresource=subresource)

    async def list(self, resource: Resource, selection: Selection = EVERYTHING) -> ObjectList:
        if self.refuses:
            raise self.refuses
        return await super().list(resource, selection)


class World:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.store = Refusing(clock=self.clock)
        self.denials = Denials(self.store, self.clock)

    async def get(self, refuses: StoreError | None = None) -> None:
        self.store.refuses = refuses
        with pytest.raises(StoreError):
            await self.denials.get(SECRETS, KEY)


@pytest.fixture
def world() -> World:
    return World()


async def test_a_refusal_names_verb_resource_and_account(world: World):
    error = refusal("get", "secrets")
    await world.get(error)
    assert world.denials.missing() == [Missing("get", "secrets", ACCOUNT, str(error), 0.0)]


async def test_another_answer_than_a_refusal_shows_that_the_right_is_back(world: World):
    await world.get(refusal("get", "secrets"))
    await world.get()
    assert world.denials.missing() == []


async def test_a_call_of_another_kind_says_nothing(world: World):
    await world.get(refusal("get", "secrets"))
    world.store.refuses = None
    await world.denials.list(SECRETS)
    await world.denials.list(SERVICES)
    assert [one.verb for one in world.denials.missing()] == ["get"]


async def test_what_nobody_tries_any_more_is_forgotten(world: World):
    await world.get(refusal("get", "secrets"))
    world.clock.advance(FORGET_AFTER_S)
    assert len(world.denials.missing()) == 1
    world.clock.advance(0.1)
    assert world.denials.missing() == []


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(forbidden('pods "x" is forbidden: exceeded quota: gpus'), id="a quota"),
        pytest.param(forbidden('pods "x" is forbidden: violates PodSecurity "restricted:latest"'), id="Pod Security"),
        pytest.param(NotFound('secrets "s" not found'), id="what is not there"),
    ],
)
async def test_other_errors_are_no_missing_right(world: World, error: StoreError):
    await world.get(error)
    assert world.denials.missing() == []


async def test_a_watch_that_tells_something_is_allowed(world: World):
    class Closed(MemoryStore):
        def watch_list(self, resource, selection=EVERYTHING):
            async def events():
                raise refusal("watch", "secrets")
                yield

            return events()

    denials = Denials(Closed(clock=world.clock), world.clock)
    with pytest.raises(StoreError):
        await anext(denials.watch_list(SECRETS))
    assert [one.verb for one in denials.missing()] == ["watch"]
