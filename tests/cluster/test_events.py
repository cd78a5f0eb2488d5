"""Events on the real API server: accepted as they are written, counted, and shown by kubectl."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.manual_clock import ManualClock
from tests.support import gadgets
from tests.support.background import ended
from tests.support.cluster.clients import client
from tests.support.cluster.cluster import Cluster
from tests.support.cluster.identity import Identity
from tests.support.manual_timers import ManualTimers

from flexinfer.api.meta import ObjectKey
from flexinfer.kube.events import EventRecorder
from flexinfer.kube.store import EVENTS, Object, Selection


@asynccontextmanager
async def recording(
    cluster: Cluster, timers: ManualTimers, clock: ManualClock
) -> AsyncIterator[tuple[str, Identity, EventRecorder, Object]]:
    """A namespace, who writes in it, the recorder on a manual clock, and an object to tell of."""
    async with cluster.namespace() as namespace:
        who = await cluster.identity("m", namespace=namespace, rules=gadgets.RULES)
        about = await cluster.admin.get(gadgets.CONFIG_MAPS, await root_ca(cluster, namespace))
        async with client(who.kubeconfig) as store:
            recorder = EventRecorder(
                store, "sample.test/m", "m-0", clock=clock, call_later=timers.call_later, rand=random.Random(1)
            )
            task = asyncio.create_task(recorder.run())
            try:
                yield namespace, who, recorder, about
            finally:
                await ended(task)


async def root_ca(cluster: Cluster, namespace: str) -> ObjectKey:
    """A ConfigMap that every namespace gets."""
    key = ObjectKey(namespace, "kube-root-ca.crt")
    await cluster.rest.until_found(f"/api/v1/namespaces/{namespace}/configmaps/{key.name}")
    return key


async def told(cluster: Cluster, namespace: str) -> list[tuple[str, str, int]]:
    events = (await cluster.admin.list(EVENTS, Selection(namespace))).items
    return sorted(
        (event["reason"], event.get("note", ""), (event.get("series") or {}).get("count", 1)) for event in events
    )


async def until_told(cluster: Cluster, namespace: str, expected: list[tuple[str, str, int]]) -> None:
    async with asyncio.timeout(30):
        while await told(cluster, namespace) != expected:
            await asyncio.sleep(0.05)


def writes(cluster: Cluster, who: Identity) -> list[str]:
    return [entry.verb for entry in cluster.audit(user=who.user) if entry.is_write]


async def test_an_event_is_written_once_and_its_count_from_then_on(cluster: Cluster, clock: ManualClock):
    timers = ManualTimers(clock)
    async with recording(cluster, timers, clock) as (namespace, who, recorder, about):
        recorder.record(about, "LoadFailed", "no such file", warning=True)
        await until_told(cluster, namespace, [("LoadFailed", "no such file", 1)])
        for _ in range(99):
            recorder.record(about, "LoadFailed", "no such file", warning=True)
        await timers.advance(10)
        await until_told(cluster, namespace, [("LoadFailed", "no such file", 100)])
        assert writes(cluster, who) == ["create", "patch"]
        shown = await cluster.kubectl("get", "events", "-n", namespace)
        assert re.search(r"Warning +LoadFailed +configmap/kube-root-ca.crt +no such file", shown)
        described = await cluster.kubectl("describe", "configmap", "-n", namespace, "kube-root-ca.crt")
        assert re.search(r"Warning +LoadFailed .*sample.test/m.* no such file", described)


async def test_the_longest_and_the_oddest_notes_are_accepted(cluster: Cluster, clock: ManualClock):
    timers = ManualTimers(clock)
    async with recording(cluster, timers, clock) as (namespace, _, recorder, about):
        for number, note in enumerate(["x" * 9000, "ä" * 9000, "", "a\nb\x00c", "\ud800"]):
            recorder.record(about, f"Reason{number}", note, action="A" * 500)
        recorder.record(about, "R" * 500, "a long reason")
        async with asyncio.timeout(30):
            while len(await told(cluster, namespace)) < 6:
                await asyncio.sleep(0.05)
        assert recorder.dropped == 0
        lengths = {reason[:7]: len(note.encode()) for reason, note, _ in await told(cluster, namespace)}
        assert lengths == {"RRRRRRR": 13, "Reason0": 1024, "Reason1": 1023, "Reason2": 0, "Reason3": 5, "Reason4": 0}


async def test_events_of_cluster_scoped_objects_are_accepted(cluster: Cluster, clock: ManualClock):
    who = await cluster.identity("nodes", namespace="default", rules=gadgets.RULES)
    name = "events-of-a-node"
    about = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "uid": name}}
    async with client(who.kubeconfig) as store:
        recorder = EventRecorder(store, "sample.test/m", "m-0", clock=clock)
        recorder.record(about, "Tainted", "spot notice", warning=True)
        await recorder.flush()
    found = await cluster.admin.list(EVENTS, Selection("default", fields={"regarding.name": name}))
    assert [event["regarding"] for event in found.items] == [
        {"apiVersion": "v1", "kind": "Node", "name": name, "uid": name}
    ]


async def test_an_event_that_was_removed_is_told_anew(cluster: Cluster, clock: ManualClock):
    timers = ManualTimers(clock)
    async with recording(cluster, timers, clock) as (namespace, _, recorder, about):
        recorder.record(about, "LoadFailed", "why")
        await until_told(cluster, namespace, [("LoadFailed", "why", 1)])
        [event] = (await cluster.admin.list(EVENTS, Selection(namespace))).items
        await cluster.admin.delete(EVENTS, ObjectKey(namespace, event["metadata"]["name"]))
        recorder.record(about, "LoadFailed", "why")
        await timers.advance(10)
        async with asyncio.timeout(30):
            while not await told(cluster, namespace):
                recorder.record(about, "LoadFailed", "why")
                await asyncio.sleep(0.1)
        assert (await told(cluster, namespace))[0][:2] == ("LoadFailed", "why")


async def test_a_namespace_that_ends_takes_no_event_and_nothing_is_tried_for_ever(cluster: Cluster, clock: ManualClock):
    timers = ManualTimers(clock)
    async with recording(cluster, timers, clock) as (namespace, who, recorder, about):
        await cluster.rest.delete(f"/api/v1/namespaces/{namespace}")
        recorder.record(about, "Loaded", "serves")
        async with asyncio.timeout(30):
            while "create" not in writes(cluster, who):
                await asyncio.sleep(0.05)
        await timers.advance(600)
        assert writes(cluster, who) == ["create"]
