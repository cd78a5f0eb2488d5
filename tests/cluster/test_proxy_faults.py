"""What happens to proxies of a real control plane: they are replaced, killed, and the API server goes away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from tests.support import asking
from tests.support.cluster import crds
from tests.support.cluster.cluster import Cluster
from tests.support.cluster.identity import Identity
from tests.support.cluster.proxies import LIMIT_S, RIGHTS, Models, Proxy, proxy, replica, status
from tests.support.following import following
from tests.support.waiting import until


@pytest.fixture
async def models(cluster: Cluster) -> AsyncIterator[Models]:
    await crds.install(cluster.admin)
    async with cluster.namespace() as namespace:
        yield Models(cluster, namespace)


@pytest.fixture
async def identity(cluster: Cluster, models: Models) -> Identity:
    return await cluster.identity("proxy", namespace=models.namespace, rules=RIGHTS)


async def test_f46_two_proxies_are_replaced_in_turn_under_load_and_lose_nothing(models: Models, identity: Identity):
    words = ("--namespace", models.namespace, "--drain-delay", "2s", "--grace", "20s", "--no-access-log")

    async def started(stack: AsyncExitStack) -> Proxy:
        return await stack.enter_async_context(proxy(identity, *words))

    await models.create()
    async with AsyncExitStack() as stack, replica("m", output_tokens="20", decode_rate="100") as port:
        running = [await started(stack), await started(stack)]
        await models.replicas(port)
        for one in running:
            await one.until_ready()
        async with following(running, "m") as load:
            await until(load.more(50), LIMIT_S)
            for old in tuple(running):
                fresh = await started(stack)
                await fresh.until_ready()
                load.proxies.append(fresh)
                assert await old.end() == 0
                load.proxies.remove(old)
                await until(load.more(50), LIMIT_S)
        assert load.lost == []
        assert len(load.answers) >= 150


async def test_f47_a_proxy_that_is_killed_costs_its_own_requests_only(models: Models, identity: Identity):
    words = ("--namespace", models.namespace, "--no-access-log")
    await models.create()
    async with proxy(identity, *words) as one, proxy(identity, *words) as other, replica("m") as port:
        await models.replicas(port)
        for each in (one, other):
            await each.until_ready()
        async with following([one, other], "m") as load:
            await until(load.more(50), LIMIT_S)
            one.child.process.kill()
            served = len(load.answers)
            await asyncio.to_thread(one.child.end, LIMIT_S)
            await until(lambda: len(load.answers) >= served + 100, LIMIT_S)
        # Eight clients: what was open at it, and what came before anybody saw that it is gone.
        assert len(load.lost) <= 8 * 3


async def test_without_its_api_server_a_proxy_serves_what_it_knows_and_says_that_it_cannot_wake(
    cluster: Cluster, models: Models, identity: Identity
):
    relay = await cluster.relay()
    await models.create("awake")
    await models.create("asleep")
    async with proxy(identity, "--namespace", models.namespace, server=relay.url) as one, replica("awake") as port:
        await one.until_ready()
        await models.status("awake", phase="Ready")
        await models.replicas(port, name="awake")
        assert (await asking.chat(one.url, "awake"))[0] == 200
        before = await models.last_active("awake")
        await relay.cut()
        for _ in range(5):
            assert (await asking.chat(one.url, "awake"))[0] == 200
        code, headers, refused = await asking.chat(one.url, "asleep")
        assert (code, refused["error"]["code"]) == (503, "activation_failed"), refused
        assert 1 <= int(headers["Retry-After"]) <= 60
        assert await one.ready(), "a proxy that serves must not be taken out by the absence of another"
        await relay.release()
        assert await models.last_active("asleep") is None
        waiting = asyncio.create_task(asking.chat(one.url, "asleep"))
        try:
            await until(lambda: models.last_active("asleep"), LIMIT_S, every_s=0.1)
        finally:
            waiting.cancel()
        assert await models.last_active("awake") >= before


async def test_a_proxy_is_not_ready_before_it_has_seen_the_models(models: Models, identity: Identity, cluster: Cluster):
    relay = await cluster.relay()
    relay.hold()
    await models.create()
    async with proxy(identity, "--namespace", models.namespace, server=relay.url) as one:

        async def alive() -> bool:
            return (await status(f"{one.metrics}/healthz"))[0] == 200

        await until(alive, LIMIT_S, every_s=0.05)
        assert await status(f"{one.metrics}/readyz") == (
            503,
            "the Models and their replicas have not been listed yet\n",
        )
        assert (await status(f"{one.url}/v1/models"))[0] == 0
        await relay.release()
        await one.until_ready()
        assert await one.end() == 0
