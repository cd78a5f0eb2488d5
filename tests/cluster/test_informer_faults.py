"""F01, F03, F04, F17: caches while the API server is away, slow, silent, forgetful or full; a pod deleted meanwhile."""

from __future__ import annotations

import asyncio
import json
import random
import resource as limits
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.support.background import ended
from tests.support.cluster.clients import client
from tests.support.cluster.cluster import Cluster
from tests.support.cluster.controlplane import Part, Settings, streams_lists
from tests.support.gadgets import GADGETS, RULES, GadgetManager, gadget, install, until_ready
from tests.support.interposed_store import DroppedEvent
from tests.support.waiting import until

from flexinfer.api.meta import ObjectKey
from flexinfer.errors import Gone, StoreError
from flexinfer.kube.client import HttpStore
from flexinfer.kube.informer import Informer
from flexinfer.kube.store import CONFIG_MAPS, JOBS, PODS, Object, ObjectStore, Selection

POD = {"containers": [{"name": "c", "image": "example.test/c:1"}]}


@pytest.fixture(scope="module")
def own_settings() -> Settings:
    return Settings(parts=("etcd", "apiserver", "controller-manager"))


@asynccontextmanager
async def caching(store: ObjectStore, namespace: str, resource: Any = CONFIG_MAPS) -> AsyncIterator[Informer[Object]]:
    informer: Informer[Object] = Informer(store, resource, lambda obj: obj, Selection(namespace), rand=random.Random(1))
    task = asyncio.create_task(informer.run())
    try:
        async with asyncio.timeout(30):
            await informer.wait_synced()
        yield informer
    finally:
        await ended(task)


def names(informer: Informer[Object]) -> set[str]:
    return {key.name for key, _ in informer.items() if key.name != "kube-root-ca.crt"}


async def until_known(informer: Informer[Object], expected: set[str], limit_s: float = 40.0) -> float:
    began = time.monotonic()
    async with asyncio.timeout(limit_s):
        while names(informer) != expected:
            await asyncio.sleep(0.02)
    return time.monotonic() - began


async def put(cluster: Cluster, namespace: str, *names: str) -> None:
    for name in names:
        await cluster.admin.create(CONFIG_MAPS, {"metadata": {"name": name, "namespace": namespace}})


@asynccontextmanager
async def reader(cluster: Cluster, namespace: str, **options: Any) -> AsyncIterator[HttpStore]:
    who = await cluster.identity("reader", namespace=namespace, rules=[*RULES, PODS_RULE])
    async with client(who.kubeconfig, **options) as store:
        yield store


PODS_RULE = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}


async def outage(cluster: Cluster, part: Part, how: str, seconds: float) -> None:
    if how == "paused":
        await cluster.pause(part)
        await asyncio.sleep(seconds)
        await cluster.resume(part)
    else:
        await cluster.stop(part, kill=True)
        await asyncio.sleep(seconds)
        await cluster.start(part)


OUTAGES = [
    pytest.param("apiserver", "killed", 3.0, id="the API server is killed"),
    pytest.param("apiserver", "paused", 3.0, id="the API server hangs"),
    pytest.param("etcd", "paused", 3.0, id="etcd hangs"),
    pytest.param("apiserver", "killed", 60.0, id="the API server is away for a minute", marks=pytest.mark.soak),
    pytest.param("etcd", "killed", 60.0, id="etcd is away for a minute", marks=pytest.mark.soak),
]


@pytest.mark.parametrize(("part", "how", "seconds"), OUTAGES)
async def test_f01_an_outage_costs_no_child_and_is_over_within_30_s(
    own_cluster: Cluster, part: Part, how: str, seconds: float
):
    await install(own_cluster.admin)
    await recovered(own_cluster)
    async with own_cluster.namespace() as namespace:
        who = await own_cluster.identity("m", namespace=namespace, rules=RULES)
        async with (
            client(who.kubeconfig, timeout_s=2.0, watch_timeout_s=10.0) as store,
            GadgetManager(store, namespace) as manager,
        ):
            key = ObjectKey(namespace, "g")
            await own_cluster.admin.create(GADGETS, gadget(namespace, "g", parts=3))
            before = await until_ready(own_cluster.admin, key)
            children = {obj["metadata"]["uid"] for obj in await own_children(own_cluster, namespace)}
            trouble = asyncio.create_task(outage(own_cluster, part, how, seconds))
            await asyncio.sleep(seconds / 2)
            # It works on from its cache, and what it wants to write fails.
            manager.controller.enqueue(key)
            cached = manager.gadgets.get(key)
            assert cached is not None
            assert cached["metadata"]["uid"] == before["metadata"]["uid"]
            await trouble
            back_at = time.monotonic()
            await change(own_cluster, key, parts=4)
            await until_ready(own_cluster.admin, key)
            assert time.monotonic() - back_at < 30
            after = {obj["metadata"]["uid"] for obj in await own_children(own_cluster, namespace)}
            assert (children <= after, len(after)) == (True, 5)


async def recovered(cluster: Cluster) -> None:
    """After a minute without the API server its own controller manager needs about as long to come back."""
    async with asyncio.timeout(180):
        while True:
            with suppress(AssertionError):
                async with cluster.namespace():
                    return


async def change(cluster: Cluster, key: ObjectKey, **spec: Any) -> None:
    """As somebody who tries until the API takes it."""
    async with asyncio.timeout(40):
        while True:
            with suppress(OSError, StoreError):
                await cluster.admin.patch(GADGETS, key, {"spec": spec}, field_manager="user")
                return
            await asyncio.sleep(0.2)


async def own_children(cluster: Cluster, namespace: str) -> list[Object]:
    found = [await cluster.admin.list(resource, Selection(namespace)) for resource in (CONFIG_MAPS, JOBS)]
    return [obj for part in found for obj in part.items if obj["metadata"].get("ownerReferences")]


async def test_f03_a_version_that_was_compacted_is_gone_and_the_next_list_finds_the_deletion(own_cluster: Cluster):
    """Gone comes inside the stream or as the answer's status, and means the same."""
    async with own_cluster.namespace() as namespace, reader(own_cluster, namespace, watch_timeout_s=5.0) as store:
        await put(own_cluster, namespace, "a", "b")
        relay = await own_cluster.relay()
        who = await own_cluster.identity("reader", namespace=namespace, rules=RULES)
        async with (
            client(who.kubeconfig, server=relay.url, watch_timeout_s=5.0) as through,
            caching(through, namespace) as informer,
        ):
            await until_known(informer, {"a", "b"})
            heard: list[tuple[str, bool]] = []
            informer.add_handler(lambda key, old, new: heard.append((key.name, new is None)))
            heard.clear()
            version = (await store.list(CONFIG_MAPS, Selection(namespace))).resource_version
            await relay.cut()
            await own_cluster.admin.delete(CONFIG_MAPS, ObjectKey(namespace, "a"))
            await put(own_cluster, namespace, "c")
            await own_cluster.compact()
            # Its memory of recent events would hide the compaction.
            await own_cluster.stop("apiserver", kill=True)
            await own_cluster.start("apiserver")
            with pytest.raises(Gone):
                await anext(store.watch(CONFIG_MAPS, version, Selection(namespace)))
            await relay.release()
            await until_known(informer, {"b", "c"})
            assert sorted(heard) == [("a", True), ("c", False)]


async def test_f03_gone_in_the_stream_is_told_from_a_status_by_nobody(own_cluster: Cluster):
    """What the API server itself sends in a watch that is too old, byte for byte."""
    async with own_cluster.namespace() as namespace:
        path = f"/api/v1/namespaces/{namespace}/configmaps?watch=1&resourceVersion=1&timeoutSeconds=5"
        await put(own_cluster, namespace, "a")
        await own_cluster.compact()
        answer = await asyncio.to_thread(own_cluster.plane.get, path)
        line = json.loads((answer or b"").split(b"\n")[0])
        assert (line["type"], line["object"]["code"], line["object"]["reason"]) == ("ERROR", 410, "Expired")
        async with reader(own_cluster, namespace) as store:
            with pytest.raises(Gone, match="too old resource version"):
                await anext(store.watch(CONFIG_MAPS, "1", Selection(namespace)))


@pytest.mark.parametrize("gone", [pytest.param(False, id="resumed"), pytest.param(True, id="resumed with 410")])
async def test_fr_002_a_pod_deleted_while_the_watch_is_frozen_leaves_the_cache(own_cluster: Cluster, gone: bool):
    """F04: no FIN comes; the client's own deadline ends the silence, and nothing older than twice that is served."""
    async with own_cluster.namespace() as namespace:
        for name in ("p1", "p2"):
            pod = {"metadata": {"name": name, "namespace": namespace}, "spec": POD}
            await own_cluster.admin.create(PODS, pod)
        who = await own_cluster.identity("reader", namespace=namespace, rules=[PODS_RULE])
        relay = await own_cluster.relay()
        store = client(who.kubeconfig, server=relay.url, timeout_s=2.0, watch_timeout_s=2.0)
        store._watch_grace_s = 1.0
        async with store:
            reads = DroppedEvent(store, 1 if gone else 0)
            async with caching(reads, namespace, PODS) as informer:  # type: ignore[arg-type]
                assert names(informer) == {"p1", "p2"}
                relay.hold()
                accepted = relay.accepted
                async with asyncio.timeout(30):
                    await own_cluster.admin.delete(PODS, ObjectKey(namespace, "p1"))
                    while relay.accepted == accepted:
                        await asyncio.sleep(0.05)
                silent_s = informer.silent_s()
                assert silent_s is not None
                assert silent_s < 2 * 2.0
                await relay.release()
                assert await until_known(informer, {"p2"}) < 15


async def test_f04_at_rest_bookmarks_and_ends_of_watches_keep_the_cache_heard_of(own_cluster: Cluster):
    async with own_cluster.namespace() as namespace, reader(own_cluster, namespace, watch_timeout_s=2.0) as store:
        await put(own_cluster, namespace, "a")
        async with caching(store, namespace) as informer:
            oldest = 0.0
            for _ in range(60):
                oldest = max(oldest, informer.silent_s() or 0.0)
                await asyncio.sleep(0.1)
            assert oldest < 2 * 2.0
            await put(own_cluster, namespace, "b")
            assert await until_known(informer, {"a", "b"}) < 5


async def test_an_api_server_that_is_slow_delays_the_cache_and_breaks_nothing(own_cluster: Cluster):
    async with own_cluster.namespace() as namespace:
        who = await own_cluster.identity("reader", namespace=namespace, rules=RULES)
        relay = await own_cluster.relay()
        async with client(who.kubeconfig, server=relay.url) as store:
            relay.slow(0.5)
            async with caching(store, namespace) as informer:
                await put(own_cluster, namespace, "a")
                await until_known(informer, {"a"})


async def test_an_object_that_cannot_be_read_is_named_and_hides_no_other(own_cluster: Cluster):
    def decode(obj: Object) -> str:
        return str(obj["data"]["value"])

    async with own_cluster.namespace() as namespace, reader(own_cluster, namespace) as store:
        await put(own_cluster, namespace, "broken")
        good = {"metadata": {"name": "good", "namespace": namespace}, "data": {"value": "1"}}
        await own_cluster.admin.create(CONFIG_MAPS, good)
        informer = Informer(store, CONFIG_MAPS, decode, Selection(namespace, fields={"metadata.name": "broken"}))
        whole = Informer(store, CONFIG_MAPS, decode, Selection(namespace))
        with capture_logs() as logged:
            tasks = [asyncio.create_task(one.run()) for one in (informer, whole)]
            async with asyncio.timeout(30):
                await informer.wait_synced()
                await whole.wait_synced()
            for task in tasks:
                await ended(task)
        assert (informer.items(), whole.items()) == ([], [(ObjectKey(namespace, "good"), "1")])
        named = [entry["object"] for entry in logged if entry["event"] == "cannot read object"]
        assert named.count(f"{namespace}/broken") == 2


@pytest.mark.parametrize("count", [pytest.param(1500), pytest.param(10_000, marks=pytest.mark.soak)])
async def test_f17_thousands_of_objects_relisted_at_once(own_cluster: Cluster, count: int):
    """Steady memory; one stream a list, and where lists are no streams their pages and one watch."""
    await install(own_cluster.admin)
    async with own_cluster.namespace() as namespace:
        await many(own_cluster, namespace, count)
        who = await own_cluster.identity("reader", namespace=namespace, rules=RULES)
        relay = await own_cluster.relay()

        def calls() -> tuple[int, int]:
            """Lists, and watches that have begun."""
            found = own_cluster.audit(user=who.user, resource="gadgets")
            begun = [one for one in found if (one.verb, one.stage) == ("watch", "ResponseStarted")]
            return len([one for one in found if one.verb == "list"]), len(begun)

        # A server that has no streams is asked for one once.
        pages, begun = (0, 1) if streams_lists() else (-(-count // 500), 2)
        async with (
            client(who.kubeconfig, server=relay.url) as store,
            caching(store, namespace, GADGETS) as informer,
        ):
            assert len(informer.items()) == count
            await until_heard(own_cluster, informer, ObjectKey(namespace, "g0"), 0)
            assert calls() == (pages, begun)
            kib = limits.getrusage(limits.RUSAGE_SELF).ru_maxrss
            for number in range(1, 4):
                informer._version = None
                await relay.drop()
                async with asyncio.timeout(60):
                    while informer._version is None:
                        await asyncio.sleep(0.05)
                assert len(informer.items()) == count
                # The watch that the next round breaks is open, and no list was asked for twice.
                await until_heard(own_cluster, informer, ObjectKey(namespace, "g0"), number)
                assert calls() == (pages + number * pages, begun + number)
            grown_kib = limits.getrusage(limits.RUSAGE_SELF).ru_maxrss - kib
            # Each list replaces objects one by one: at most a list's worth of garbage between two collections.
            assert grown_kib / count < 8


async def until_heard(cluster: Cluster, informer: Informer[Object], key: ObjectKey, parts: int) -> None:
    """A change has come by the watch; after a list of its own, an informer opens it a moment later."""
    await change(cluster, key, parts=parts)
    await until(lambda: (informer.get(key) or {}).get("spec", {}).get("parts") == parts, 40)


async def many(cluster: Cluster, namespace: str, count: int) -> None:
    """Gadgets of about 1 KiB."""
    waiting = asyncio.Semaphore(24)

    async def one(number: int) -> None:
        async with waiting:
            await cluster.admin.create(GADGETS, gadget(namespace, f"g{number}", text="x" * 500))

    await asyncio.gather(*(one(number) for number in range(count)))
