"""`flexinfer proxy` on a real control plane, as a ServiceAccount that may do no more than it needs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from tests.support import asking
from tests.support.cluster import crds, proxies
from tests.support.cluster.cluster import Cluster
from tests.support.cluster.identity import Identity
from tests.support.cluster.proxies import LIMIT_S, RIGHTS, Models, proxy, replica
from tests.support.waiting import until


@pytest.fixture
async def models(cluster: Cluster) -> AsyncIterator[Models]:
    await crds.install(cluster.admin)
    async with cluster.namespace() as namespace:
        yield Models(cluster, namespace)


@pytest.fixture
async def identity(cluster: Cluster, models: Models) -> Identity:
    return await cluster.identity("proxy", namespace=models.namespace, rules=RIGHTS)


def writes(cluster: Cluster, identity: Identity) -> set[tuple[str, str, str, int]]:
    """What an identity wrote or was refused to write: verb, resource, subresource and answer."""
    calls = [call for call in cluster.audit(user=identity.user) if call.is_write or call.code >= 400]
    return {(call.verb, call.resource, call.subresource, call.code) for call in calls}


async def test_a_request_wakes_a_model_and_nothing_but_its_last_use_is_written(
    cluster: Cluster, models: Models, identity: Identity
):
    await models.create()
    async with proxy(identity, "--namespace", models.namespace) as one, replica("m") as port:
        await one.until_ready()
        async with asking.client() as session, _waiting(session, one.url) as answer:
            await until(models.last_active, LIMIT_S, every_s=0.05)
            await models.status(phase="Ready")
            await models.replicas(port)
            found = await answer
        assert (found.status, found.served) == (200, True)
        listed = await proxies.status(f"{one.url}/v1/models")
        assert '"id":"m"' in listed[1]
        metrics = (await proxies.status(f"{one.metrics}/metrics"))[1]
        assert f'flexinfer_proxy_scale_ups_total{{model="m",namespace="{models.namespace}"}} 1' in metrics
        assert 'flexinfer_build_info{component="proxy"' in metrics
        assert (await proxies.status(f"{one.url}/metrics"))[0] == 404
        assert await one.end() == 0
    assert writes(cluster, identity) == {("patch", "models", "status", 200)}
    managers = {entry["manager"] for entry in (await models.get())["metadata"]["managedFields"]}
    assert "flexinfer-proxy" in managers


async def test_the_wake_port_serves_the_model_of_its_host_without_a_key_and_no_other(
    models: Models, identity: Identity, tmp_path: Path
):
    keys = tmp_path / "keys.txt"
    keys.write_text("first:0123456789abcdef\n")
    await models.create("m")
    await models.create("n")
    with_keys = proxy(identity, "--namespace", models.namespace, auth=("--api-key-file", str(keys)))
    async with with_keys as one, replica("m") as port:
        await one.until_ready()
        await models.replicas(port)
        assert (await asking.chat(one.url, "m"))[0] == 401
        own = f"m.{models.namespace}"
        hosts = (own, f"{own}.svc.cluster.local:8000", "m", "x.default", f"n.{models.namespace}")
        found = [(await _by_host(one.wake, host), await _by_host(one.wake, host, "m")) for host in hosts[:4]]
        assert found == [(200, 200), (200, 200), (200, 200), (404, 404)]
        assert await _by_host(one.wake, hosts[4], "m") == 404
        listed = await proxies.status(f"{one.wake}/v1/models", Host=f"m.{models.namespace}")
        assert [entry["id"] for entry in json.loads(listed[1])["data"]] == ["m"]
        assert (await proxies.status(f"{one.wake}/metrics", Host=f"m.{models.namespace}"))[0] == 404
        assert (await proxies.status(f"{one.wake}/v1/models"))[0] == 404


async def test_models_of_several_namespaces_go_by_what_is_unique(cluster: Cluster, models: Models):
    async with cluster.namespace() as elsewhere, cluster.namespace() as unwatched:
        other = Models(cluster, elsewhere)
        identity = await cluster.identity("proxy", namespace=models.namespace, rules=RIGHTS)
        await proxies.allow(cluster, identity, elsewhere)
        await models.create("both")
        await models.create("here")
        await other.create("both")
        await Models(cluster, unwatched).create("unseen")
        watched = ("--namespace", models.namespace, "--namespace", elsewhere)
        async with proxy(identity, *watched) as one, replica("here") as here, replica("both") as there:
            await one.until_ready()
            await models.replicas(here, name="here")
            await other.replicas(there, name="both")
            listed = json.loads((await proxies.status(f"{one.url}/v1/models"))[1])
            ids = sorted([f"{models.namespace}/both", f"{elsewhere}/both", "here"])
            assert [entry["id"] for entry in listed["data"]] == ids
            code, _, refused = await asking.chat(one.url, "both")
            assert (code, refused["error"]["code"]) == (404, "model_not_found")
            assert all(name in refused["error"]["message"] for name in ids[1:])
            for name in ("here", f"{models.namespace}/here", f"{elsewhere}/both"):
                code, _, answer = await asking.chat(one.url, name)
                assert (code, answer["model"]) == (200, name.rpartition("/")[2]), answer


async def _by_host(url: str, host: str, *model: str) -> int:
    """The status of a chat, whose body names no model if none is given."""
    body = {"messages": asking.MESSAGES, **({"model": model[0]} if model else {})}
    async with (
        asking.client() as session,
        session.post(f"{url}/v1/chat/completions", json=body, headers={"Host": host}) as answer,
    ):
        return answer.status


@asynccontextmanager
async def _waiting(
    session: aiohttp.ClientSession, url: str, model: str = "m"
) -> AsyncIterator[asyncio.Task[asking.Answer]]:
    """A chat that goes on beside the block."""
    task = asyncio.create_task(asking.ask(session, url, model))
    try:
        yield task
    finally:
        task.cancel()
