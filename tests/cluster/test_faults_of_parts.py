"""What the fixtures can do to a control plane: stop, pause and start its parts, compact, cut and slow the way to it."""

from __future__ import annotations

import asyncio
import ssl
import time

import aiohttp
import pytest
from tests.support.cluster.cluster import Cluster
from tests.support.cluster.nodes import NodeRow
from tests.support.cluster.rest import Refused


async def status(cluster: Cluster, url: str, limit_s: float = 3.0) -> int:
    """Of one request on a connection of its own; raises OSError or TimeoutError."""
    tls = ssl.create_default_context(cafile=str(cluster.ca_file))
    timeout = aiohttp.ClientTimeout(total=limit_s)
    connector = aiohttp.TCPConnector(ssl=tls)
    async with (
        aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
        session.get(url + "/version") as answer,
    ):
        return answer.status


@pytest.mark.parametrize("kill", [pytest.param(False, id="by SIGTERM"), pytest.param(True, id="by SIGKILL")])
async def test_a_stopped_api_server_refuses_and_comes_back_with_its_objects(own_cluster: Cluster, kill: bool):
    async with own_cluster.namespace() as ns:
        await own_cluster.stop("apiserver", kill=kill)
        with pytest.raises(aiohttp.ClientConnectionError):
            await status(own_cluster, own_cluster.url)
        await own_cluster.start("apiserver")
        assert (await own_cluster.rest.get(f"/api/v1/namespaces/{ns}"))["metadata"]["name"] == ns


async def test_a_paused_api_server_takes_connections_and_answers_when_it_is_resumed(own_cluster: Cluster):
    await own_cluster.pause("apiserver")
    with pytest.raises(TimeoutError):
        await status(own_cluster, own_cluster.url, limit_s=1.0)
    asked = asyncio.create_task(status(own_cluster, own_cluster.url, limit_s=30.0))
    await asyncio.sleep(0.1)
    await own_cluster.resume("apiserver")
    assert await asked == 200


async def test_without_etcd_writes_fail_until_it_is_back(own_cluster: Cluster):
    await own_cluster.stop("etcd")
    with pytest.raises((Refused, TimeoutError)):
        await asyncio.wait_for(own_cluster.rest.create("/api/v1/namespaces", {"metadata": {"name": "lost"}}), 5.0)
    await own_cluster.start("etcd")
    async with asyncio.timeout(40):
        while own_cluster.plane.get("/readyz") is None:
            await asyncio.sleep(0.1)
    async with own_cluster.namespace():
        pass


async def test_the_work_of_a_stopped_controller_manager_waits_for_it(own_cluster: Cluster):
    """A namespace that nobody finalizes stays until the controllers are back."""
    async with own_cluster.namespace() as ns:
        await own_cluster.stop("controller-manager")
    assert (await own_cluster.rest.get(f"/api/v1/namespaces/{ns}"))["status"]["phase"] == "Terminating"
    await own_cluster.start("controller-manager")
    await own_cluster.rest.until_gone(f"/api/v1/namespaces/{ns}")


async def test_a_scheduler_that_is_cut_off_binds_when_it_is_back(own_cluster: Cluster):
    pod = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "example.test/c:1"}]}}
    await own_cluster.nodes([NodeRow("n")])
    async with own_cluster.namespace() as ns, own_cluster.relay_for("scheduler") as relay:
        await relay.cut()
        await own_cluster.rest.create(f"/api/v1/namespaces/{ns}/pods", pod)
        await asyncio.sleep(1.0)
        path = f"/api/v1/namespaces/{ns}/pods/p"
        assert "nodeName" not in (await own_cluster.rest.get(path))["spec"]
        await relay.release()
        async with asyncio.timeout(40):
            while "nodeName" not in (await own_cluster.rest.get(path))["spec"]:
                await asyncio.sleep(0.1)


async def test_a_slow_etcd_makes_slow_writes(own_cluster: Cluster):
    async with own_cluster.relay_for("etcd") as relay:
        relay.slow(0.5)
        began = time.monotonic()
        await own_cluster.rest.create("/api/v1/namespaces/default/configmaps", {"metadata": {"name": "slow"}})
        assert time.monotonic() - began > 1.0


async def test_a_version_from_before_a_compaction_is_gone_once_the_api_server_forgot_it_too(own_cluster: Cluster):
    maps = "/api/v1/namespaces/default/configmaps"
    for index in range(3):
        await own_cluster.rest.create(maps, {"metadata": {"name": f"c-{index}"}})
    page = (await own_cluster.rest.get(f"{maps}?limit=1"))["metadata"]
    await own_cluster.rest.create(maps, {"metadata": {"name": "later"}})
    assert await own_cluster.compact() > int(page["resourceVersion"])
    await own_cluster.stop("apiserver", kill=True)
    await own_cluster.start("apiserver")
    with pytest.raises(Refused) as refused:
        await own_cluster.rest.get(f"{maps}?limit=1&continue={page['continue']}")
    assert (refused.value.status, "Expired" in str(refused.value)) == (410, True)
    gone = await own_cluster.rest.get(f"{maps}?watch=1&resourceVersion={page['resourceVersion']}&timeoutSeconds=5")
    assert (gone["type"], gone["object"]["code"]) == ("ERROR", 410)


async def test_a_relay_passes_is_cut_and_is_released(cluster: Cluster):
    relay = await cluster.relay()
    assert await status(cluster, relay.url) == 200
    await relay.cut()
    with pytest.raises(aiohttp.ClientConnectionError):
        await status(cluster, relay.url)
    await relay.release()
    assert (await status(cluster, relay.url), relay.accepted) == (200, 2)


async def test_a_relay_holds_what_is_under_way_and_passes_it_on_later(cluster: Cluster):
    relay = await cluster.relay()
    relay.hold()
    with pytest.raises(TimeoutError):
        await status(cluster, relay.url, limit_s=0.5)
    asked = asyncio.create_task(status(cluster, relay.url, limit_s=30.0))
    await asyncio.sleep(0.1)
    await relay.release()
    assert await asked == 200


async def test_a_relay_delays_each_piece(cluster: Cluster):
    relay = await cluster.relay()
    relay.slow(0.3)
    began = time.monotonic()
    assert await status(cluster, relay.url, limit_s=30.0) == 200
    # Two round trips of TLS and HTTP, each delayed both ways.
    assert time.monotonic() - began > 1.0
