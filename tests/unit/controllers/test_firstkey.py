"""The first API key: made once, never over a Secret that is there, and usable by the proxies as it is mounted."""

from __future__ import annotations

import base64

import pytest
from tests.manual_clock import ManualClock

from flexinfer.api.meta import ObjectKey
from flexinfer.controllers.firstkey import LOOK_AGAIN_S, FirstKey
from flexinfer.errors import StoreError
from flexinfer.kube.controller import Result
from flexinfer.kube.memory import MemoryStore
from flexinfer.kube.store import SECRETS, Object, Resource
from flexinfer.proxy.keys import parse

WHERE = ObjectKey("flexinfer-system", "flexinfer-api-keys")


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore(clock=ManualClock())


def decoded(secret: Object) -> dict[str, str]:
    return {name: base64.b64decode(text).decode() for name, text in secret["data"].items()}


async def test_an_absent_secret_is_made_with_a_key_that_the_proxies_take(store: MemoryStore):
    result = await FirstKey(store, lambda count: bytes(range(count))).reconcile(WHERE)
    made = decoded(await store.get(SECRETS, WHERE))
    assert result == Result(requeue_after_s=LOOK_AGAIN_S)
    assert made["key"] == "fx_000102030405060708090a0b0c0d0e0f1011121386b2cc3c"
    assert made["key"] not in made["keys.txt"]
    assert parse(made["keys.txt"]) == {parse_digest(made["key"]): "first"}


def parse_digest(key: str) -> bytes:
    return next(iter(parse(key)))


async def test_a_secret_that_is_there_stays_as_it_is(store: MemoryStore):
    own = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": WHERE.name, "namespace": WHERE.namespace}}
    before = await store.create(SECRETS, {**own, "data": {"keys.txt": "bWU6MTIz"}})
    await FirstKey(store).reconcile(WHERE)
    assert await store.get(SECRETS, WHERE) == before


async def test_of_two_managers_one_makes_the_key(store: MemoryStore):
    class Late(MemoryStore):
        """Somebody else creates the Secret between the look and the write."""

        async def create(self, resource: Resource, obj: Object, *, field_manager: str = "flexinfer") -> Object:
            await super().create(resource, {**obj, "data": {"key": "b3RoZXI="}})
            return await super().create(resource, obj, field_manager=field_manager)

    late = Late(clock=ManualClock())
    await FirstKey(late).reconcile(WHERE)
    assert decoded(await late.get(SECRETS, WHERE)) == {"key": "other"}


async def test_a_refusal_is_raised_for_the_loop_to_try_again():
    class Forbidden(StoreError):
        status = 403

    class Refusing(MemoryStore):
        async def create(self, resource: Resource, obj: Object, *, field_manager: str = "flexinfer") -> Object:
            raise Forbidden("secrets is forbidden")

    with pytest.raises(Forbidden):
        await FirstKey(Refusing(clock=ManualClock())).reconcile(WHERE)
