"""F05 to F10 and F18 on the real API server: the sample controller ends in the same state whatever happens."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple

import aiohttp
import pytest
from tests.support.background import ended
from tests.support.cluster.clients import client
from tests.support.cluster.cluster import Cluster
from tests.support.cluster.identity import Identity
from tests.support.gadgets import (
    FINALIZER,
    GADGETS,
    RULES,
    GadgetManager,
    gadget,
    install,
    state,
    until_gone,
    until_ready,
)
from tests.support.interposed_store import DroppedEvent, InterposedWrites, LateEvents, Write

from flexinfer.api.meta import ObjectKey
from flexinfer.errors import Conflict, NotFound, StoreError
from flexinfer.kube.apply import owned_by
from flexinfer.kube.client import HttpStore
from flexinfer.kube.store import CONFIG_MAPS, JOBS, Object, Resource, Selection

FLOW = Resource("flowcontrol.apiserver.k8s.io", "v1", "flowschemas", "FlowSchema", namespaced=False)
LEVELS = Resource(
    "flowcontrol.apiserver.k8s.io", "v1", "prioritylevelconfigurations", "PriorityLevelConfiguration", namespaced=False
)


class Place(NamedTuple):
    cluster: Cluster
    namespace: str
    outside: str
    who: Identity
    store: HttpStore
    """As the controller's own account."""

    @property
    def key(self) -> ObjectKey:
        return ObjectKey(self.namespace, "g")

    async def create(self, **spec: Any) -> Object:
        made = gadget(self.namespace, "g", **{"parts": 2, "text": "a", "outside": self.outside, **spec})
        return await self.cluster.admin.create(GADGETS, made)

    async def change(self, **spec: Any) -> None:
        await self.cluster.admin.patch(GADGETS, self.key, {"spec": spec}, field_manager="user")

    async def ready(self) -> Object:
        return await until_ready(self.cluster.admin, self.key)

    async def left(self) -> Object:
        """What there is in both namespaces, by names that are the same in every place."""
        found = await state(self.cluster.admin, self.namespace) | await state(self.cluster.admin, self.outside)
        text = json.dumps(found).replace(self.namespace, "NAMESPACE").replace(self.outside, "OUTSIDE")
        alike: Object = json.loads(text)
        return alike

    async def children(self, owner_uid: str | None = None) -> list[Object]:
        found = [
            obj
            for resource in (CONFIG_MAPS, JOBS)
            for obj in (await self.cluster.admin.list(resource, Selection(self.namespace))).items
            if obj["metadata"].get("ownerReferences")
        ]
        return [obj for obj in found if owner_uid is None or owned_by(obj, owner_uid)]

    def writes(self, **wanted: str | int) -> list[str]:
        return [
            f"{entry.verb} {entry.resource}"
            for entry in self.cluster.audit(user=self.who.user, **wanted)
            if entry.is_write
        ]


@asynccontextmanager
async def place(cluster: Cluster) -> AsyncIterator[Place]:
    await install(cluster.admin)
    async with cluster.namespace() as namespace, cluster.namespace() as outside:
        for there in (outside, namespace):
            subject = await cluster.identity("gadgets", namespace=there, rules=RULES)
        await also_outside(cluster, namespace, outside)
        async with client(subject.kubeconfig) as store:
            yield Place(cluster, namespace, outside, subject, store)


async def also_outside(cluster: Cluster, namespace: str, outside: str) -> None:
    """The account of `namespace` may do in `outside` what it may do at home."""
    binding = {
        "metadata": {"name": "gadgets-from-elsewhere"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "gadgets"},
        "subjects": [{"kind": "ServiceAccount", "name": "gadgets", "namespace": namespace}],
    }
    await cluster.rest.create(f"/apis/rbac.authorization.k8s.io/v1/namespaces/{outside}/rolebindings", binding)


Supervise = Callable[[Place], Awaitable[None]]


async def lifecycle(cluster: Cluster, supervise: Supervise) -> list[Object]:
    """What stands after a Gadget was made, after it was changed, and after it was deleted, under one controller."""
    async with place(cluster) as there:
        controller = asyncio.create_task(supervise(there))
        try:
            uid = (await there.create())["metadata"]["uid"]
            await there.ready()
            states = [await settled(there, 3)]
            await there.change(parts=1, text="b")
            await there.ready()
            states.append(await settled(there, 2))
            await cluster.admin.delete(GADGETS, there.key)
            await until_gone(cluster.admin, there.key)
            # Whatever is left has an owner that is gone: the garbage collector's.
            assert all(owned_by(obj, uid) for obj in await there.children())
            outside = await state(cluster.admin, there.outside)
            return [*states, outside]
        finally:
            await ended(controller)


async def settled(there: Place, children: int) -> Object:
    """Once it has that many children: what is pruned comes after the status in some orders of faults."""
    async with asyncio.timeout(40):
        while len(await there.children()) != children:
            await asyncio.sleep(0.05)
    return await there.left()


async def undisturbed(there: Place) -> None:
    await GadgetManager(there.store, there.namespace).run()


async def side_by_side(trials: list[Callable[[], Awaitable[Any]]], at_a_time: int = 4) -> list[Any]:
    places = asyncio.Semaphore(at_a_time)

    async def one(trial: Callable[[], Awaitable[Any]]) -> Any:
        async with places:
            return await trial()

    return await asyncio.gather(*(one(trial) for trial in trials))


async def test_f08_killed_after_any_of_its_writes_it_ends_in_the_same_state(cluster: Cluster):
    counted: list[str] = []

    async def counting(there: Place) -> None:
        store = InterposedWrites(there.store)
        store.written = counted
        await GadgetManager(store, there.namespace).run()  # type: ignore[arg-type]

    expected = await lifecycle(cluster, counting)
    assert [len(state) for state in expected] == [5, 4, 0]
    # A status of the job that comes in between has it applied once more.
    writes = {**Counter(counted), "apply jobs": 1}
    assert writes == {"patch gadgets": 4, "apply configmaps": 4, "apply jobs": 1, "delete configmaps": 2}

    def killed_after(number: int) -> Callable[[], Awaitable[list[Object]]]:
        async def supervise(there: Place) -> None:
            died = asyncio.Event()

            async def around(write: Write) -> Any:
                answer = await write.send()
                if write.number == number:
                    died.set()
                    await asyncio.Event().wait()
                return answer

            first = GadgetManager(InterposedWrites(there.store, around), there.namespace)  # type: ignore[arg-type]
            async with first:
                await died.wait()
            await undisturbed(there)

        return lambda: lifecycle(cluster, supervise)

    runs = await side_by_side([killed_after(number) for number in range(1, len(counted) + 1)])
    assert [number for number, states in enumerate(runs, 1) if states != expected] == []


async def test_f09_each_event_missed_once_it_ends_in_the_same_state(cluster: Cluster):
    seen: list[int] = []

    async def counting(there: Place) -> None:
        reads = DroppedEvent(there.store, 0)
        try:
            await GadgetManager(there.store, there.namespace, reads=reads).run()  # type: ignore[arg-type]
        finally:
            seen.append(reads.seen)

    expected = await lifecycle(cluster, counting)

    def without(number: int) -> Callable[[], Awaitable[list[Object]]]:
        async def supervise(there: Place) -> None:
            reads = DroppedEvent(there.store, number)
            await GadgetManager(there.store, there.namespace, reads=reads).run()  # type: ignore[arg-type]

        return lambda: lifecycle(cluster, supervise)

    assert seen[0] >= 10
    runs = await side_by_side([without(number) for number in range(1, seen[0] + 1)])
    assert [number for number, states in enumerate(runs, 1) if states != expected] == []


async def test_f10_with_caches_that_lag_it_ends_in_the_same_state(cluster: Cluster):
    expected = await lifecycle(cluster, undisturbed)

    def lagging(lag_s: float) -> Callable[[], Awaitable[list[Object]]]:
        async def supervise(there: Place) -> None:
            reads = LateEvents(there.store, lag_s)
            await GadgetManager(there.store, there.namespace, reads=reads).run()  # type: ignore[arg-type]

        return lambda: lifecycle(cluster, supervise)

    runs = await side_by_side([lagging(lag_s) for lag_s in (0.02, 0.1, 0.3)])
    assert runs == [expected] * 3


async def test_f10_f13_a_namesake_that_the_cache_does_not_know_of_is_left_alone(cluster: Cluster):
    """The cache still tells of a Gadget that was deleted, with its children; one with its name is there."""
    async with place(cluster) as there:
        reads = LateEvents(there.store)
        async with GadgetManager(there.store, there.namespace, reads=reads) as manager:  # type: ignore[arg-type]
            old = (await there.create())["metadata"]["uid"]
            await there.ready()
            reads.flowing.clear()
            # Somebody takes the finalizer away, as people do, and starts over.
            await cluster.admin.patch(GADGETS, there.key, {"metadata": {"finalizers": []}})
            await cluster.admin.delete(GADGETS, there.key)
            await until_gone(cluster.admin, there.key)
            for child in await there.children(old):
                resource = JOBS if child["kind"] == "Job" else CONFIG_MAPS
                # The garbage collector may have been faster.
                with suppress(NotFound):
                    await cluster.admin.delete(resource, ObjectKey(there.namespace, child["metadata"]["name"]))
            new = (await there.create(text="new"))["metadata"]["uid"]
            before = len(there.writes())
            manager.controller.enqueue(there.key)
            await asyncio.sleep(1)
            assert (await there.children(old), there.writes()[before:]) == ([], [])
            reads.flowing.set()
            await there.ready()
            made = await there.children()
            assert [child["metadata"]["ownerReferences"][0]["uid"] for child in made] == [new] * 3
            record = await cluster.admin.get(CONFIG_MAPS, ObjectKey(there.outside, f"{there.namespace}.g"))
            assert record["metadata"]["labels"] == {"sample.test/owner-uid": new}


async def test_f07_a_write_whose_answer_is_lost_is_there_once(cluster: Cluster):
    """Of each kind of write the first answer is lost after the write was done."""
    expected = await lifecycle(cluster, undisturbed)
    lost: Counter[str] = Counter()

    async def supervise(there: Place) -> None:
        async def around(write: Write) -> Any:
            answer = await write.send()
            kind = f"{write.verb} {write.resource.plural}"
            if not lost[kind]:
                lost[kind] += 1
                raise TimeoutError("the answer was lost")
            return answer

        store = InterposedWrites(there.store, around)
        await GadgetManager(store, there.namespace).run()  # type: ignore[arg-type]

    assert await lifecycle(cluster, supervise) == expected
    assert {"apply configmaps", "apply jobs", "delete configmaps", "patch gadgets"} == set(lost)


@pytest.mark.parametrize("verb", ["create", "apply", "delete"])
async def test_f07_a_connection_that_breaks_between_request_and_answer(cluster: Cluster, verb: str):
    """On the wire: the request arrives, the answer does not; the same call again meets what the first one did."""
    async with place(cluster) as there:
        relay = await cluster.relay()
        key = ObjectKey(there.namespace, "c")
        body = {"metadata": {"name": "c", "namespace": there.namespace}, "data": {"v": "1"}}
        if verb == "delete":
            await cluster.admin.create(CONFIG_MAPS, body)
        async with client(there.who.kubeconfig, server=relay.url) as store:
            await store.list(JOBS, Selection(there.namespace))

            async def call() -> object:
                match verb:
                    case "create":
                        return await store.create(CONFIG_MAPS, body)
                    case "apply":
                        return await store.apply(CONFIG_MAPS, body, field_manager="m")
                    case _:
                        return await store.delete(CONFIG_MAPS, key)

            done = len(there.writes(resource="configmaps"))
            relay.slow(0.4)
            asked = asyncio.create_task(call())
            async with asyncio.timeout(30):
                while len(there.writes(resource="configmaps")) == done:
                    await asyncio.sleep(0.02)
            await relay.drop()
            # aiohttp itself asks once more where that does no harm: a deletion may already meet what it did.
            with pytest.raises((OSError, NotFound), match="configmaps"):
                await asked
            await relay.release()
            if verb == "apply":
                again = await store.apply(CONFIG_MAPS, body, field_manager="m")
                assert again["metadata"]["uid"] == (await cluster.admin.get(CONFIG_MAPS, key))["metadata"]["uid"]
            else:
                with pytest.raises(StoreError, match="already exists" if verb == "create" else "not found"):
                    await call()


async def test_f05_conflicts_on_every_second_write_and_a_second_writer(cluster: Cluster):
    """Fields of others survive, and a status never overwrites a spec."""
    async with place(cluster) as there:

        async def around(write: Write) -> Any:
            if write.number % 2:
                # The version that the write stands on is no longer the newest.
                await cluster.admin.patch(
                    GADGETS, there.key, {"metadata": {"annotations": {"user": str(write.number)}}}, field_manager="user"
                )
                if write.verb in {"apply", "delete"}:
                    raise Conflict("the object has been modified")
            return await write.send()

        async def meddle() -> None:
            number = 0
            while True:
                number += 1
                for name in ("g-part-0", "g-part-1"):
                    try:
                        await cluster.admin.patch(
                            CONFIG_MAPS,
                            ObjectKey(there.namespace, name),
                            {"data": {"theirs": "kept"}, "metadata": {"annotations": {"n": str(number)}}},
                            field_manager="user",
                        )
                    except StoreError:
                        continue
                await asyncio.sleep(0.05)

        store = InterposedWrites(there.store, around)
        async with GadgetManager(store, there.namespace) as manager:  # type: ignore[arg-type]
            meddler = asyncio.create_task(meddle())
            try:
                await there.create()
                await there.ready()
                await there.change(text="b")
                one = await there.ready()
            finally:
                await ended(meddler)
            async with asyncio.timeout(40):
                while [child.get("data", {}).get("text") for child in await there.children()] != ["b", "b", None]:
                    await asyncio.sleep(0.05)
            parts = [child["data"] for child in (await there.children())[:2]]
            assert parts == [{"text": "b", "theirs": "kept"}] * 2
            assert one["spec"] == {"parts": 2, "text": "b", "outside": there.outside}
            assert one["metadata"]["annotations"].keys() == {"user"}
            assert one["metadata"]["finalizers"] == [FINALIZER]
            assert {type(error) for error in manager.errors} == {Conflict}


@asynccontextmanager
async def throttled(there: Place) -> AsyncIterator[None]:
    """The API server's own priority and fairness has no seat for the controller's account."""
    name = f"none-{there.namespace}"
    level = {
        "metadata": {"name": name},
        "spec": {
            "type": "Limited",
            "limited": {
                "nominalConcurrencyShares": 0,
                "lendablePercent": 0,
                "borrowingLimitPercent": 0,
                "limitResponse": {"type": "Reject"},
            },
        },
    }
    account = {"kind": "ServiceAccount", "serviceAccount": {"name": "gadgets", "namespace": there.namespace}}
    everything = {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": True}
    schema = {
        "metadata": {"name": name},
        "spec": {
            "priorityLevelConfiguration": {"name": name},
            "matchingPrecedence": 10,
            "rules": [{"subjects": [account], "resourceRules": [everything]}],
        },
    }
    admin = there.cluster.admin
    await admin.create(LEVELS, level)
    await admin.create(FLOW, schema)
    # One request is let in even without a seat; this one stays.
    sitting = asyncio.create_task(never_ending_request(there))
    try:
        yield
    finally:
        await ended(sitting)
        await admin.delete(FLOW, ObjectKey("", name))
        await admin.delete(LEVELS, ObjectKey("", name))


async def never_ending_request(there: Place) -> None:
    """A body that does not end: while the API server waits for it, the account's one request is under way."""

    async def body() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    tls = ssl.create_default_context(cafile=str(there.cluster.ca_file))
    headers = {"Authorization": f"Bearer {there.who.token}", "Content-Type": "application/json"}
    url = f"{there.cluster.url}/api/v1/namespaces/{there.namespace}/configmaps"
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls)) as session:
        while True:
            # Refused until the API server has taken in the new rules and another request has ended.
            async with session.post(url, data=body(), headers=headers):
                await asyncio.sleep(0.2)


async def test_f06_throttled_by_the_api_server_it_waits_as_told(cluster: Cluster):
    async with place(cluster) as there, GadgetManager(there.store, there.namespace) as manager:
        await there.create()
        await there.ready()
        async with throttled(there):
            async with asyncio.timeout(30):
                while not there.cluster.audit(user=there.who.user, code=429):
                    await there.change(text=str(time.monotonic()))
                    await asyncio.sleep(0.1)
            began, refused = time.monotonic(), len(cluster.audit(user=there.who.user, code=429))
            await there.change(text="last")
            await asyncio.sleep(4)
            rate = (len(cluster.audit(user=there.who.user, code=429)) - refused) / (time.monotonic() - began)
            # One key, one worker, a second between two tries as the answers say.
            assert rate <= 1.5
            assert manager.controller.depth <= 1
        await there.ready()
        assert {child["data"]["text"] for child in await there.children() if "data" in child} == {"last"}


@pytest.mark.parametrize(
    "seconds",
    [pytest.param(8, id="a moment"), pytest.param(600, id="ten minutes", marks=pytest.mark.soak)],
)
async def test_f18_no_call_is_made_at_rest_but_watches_that_begin_again(cluster: Cluster, seconds: float):
    async with place(cluster) as there, GadgetManager(there.store, there.namespace, events=True) as manager:
        for number in range(20):
            one = gadget(there.namespace, f"g{number}", parts=2, outside=there.outside)
            await cluster.admin.create(GADGETS, one)
        for number in range(20):
            await until_ready(cluster.admin, ObjectKey(there.namespace, f"g{number}"))
        await quiet(manager)
        before = len(cluster.audit(user=there.who.user))
        reconciles = manager.reconciler.reconciles
        await asyncio.sleep(seconds)
        assert {entry.verb for entry in cluster.audit(user=there.who.user)[before:]} <= {"watch"}
        assert manager.reconciler.reconciles == reconciles


async def quiet(manager: GadgetManager) -> None:
    """Until it has taken in its own writes."""
    async with asyncio.timeout(40):
        count = -1
        while count != manager.reconciler.reconciles:
            count = manager.reconciler.reconciles
            await asyncio.sleep(1)


async def test_children_go_with_their_owner_and_a_name_can_be_used_again(cluster: Cluster):
    """The real garbage collector needs up to half a minute to learn of a new kind."""
    async with place(cluster) as there, GadgetManager(there.store, there.namespace):
        uid = (await there.create())["metadata"]["uid"]
        await there.ready()
        await cluster.admin.delete(GADGETS, there.key)
        await until_gone(cluster.admin, there.key)
        async with asyncio.timeout(60):
            while await there.children(uid):
                await asyncio.sleep(0.2)
        await there.create()
        await there.ready()
        assert len(await there.children()) == 3
