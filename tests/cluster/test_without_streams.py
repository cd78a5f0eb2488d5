"""A server without streaming lists: list and watch instead, and it is not asked for a stream again."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest
from tests.support.cluster.cluster import Cluster
from tests.support.cluster.controlplane import Settings
from tests.support.cluster.identity import rule

from flexinfer.api.meta import ObjectKey
from flexinfer.kube import config
from flexinfer.kube.store import CONFIG_MAPS, ObjectStore, Selection


@pytest.fixture(scope="module")
def own_settings() -> Settings:
    return Settings(parts=("etcd", "apiserver"), features={"WatchList": False})


async def listed(store: ObjectStore, ns: str) -> list[tuple[str, str]]:
    """Names up to the end of the list, and the event that a change makes after it."""
    found = []
    async with asyncio.timeout(40), aclosing(store.watch_list(CONFIG_MAPS, Selection(ns))) as events:
        async for event in events:
            if event.is_initial_end:
                await store.patch(
                    CONFIG_MAPS, ObjectKey(ns, "one"), {"data": {"a": event.object["metadata"]["resourceVersion"]}}
                )
            elif event.type != "BOOKMARK":
                found.append((event.type, event.object["metadata"]["name"]))
            if event.type == "MODIFIED":
                break
    return found


async def test_list_and_watch_where_there_are_no_streaming_lists(own_cluster: Cluster):
    ns = "default"
    for name in ("one", "two"):
        await own_cluster.admin.create(CONFIG_MAPS, {"metadata": {"name": name, "namespace": ns}})
    reader = await own_cluster.identity("reader", namespace=ns, rules=[rule("", "configmaps", "get list watch patch")])
    async with config.from_environment(kubeconfig=reader.kubeconfig, env={}) as store:
        expected = [("ADDED", "one"), ("ADDED", "two"), ("MODIFIED", "one")]
        assert await listed(store, ns) == expected
        assert await listed(store, ns) == expected
    calls = own_cluster.audit(user=reader.user, stage="ResponseComplete")
    refused = [call for call in calls if "sendInitialEvents" in call.uri]
    assert [call.code for call in refused] == [422]
    assert len([call for call in calls if call.verb == "list"]) == 2
