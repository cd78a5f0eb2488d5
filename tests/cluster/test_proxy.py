"""`flexinfer proxy` on a real control plane, as a ServiceAccount that may do no more than it needs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

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
