"""F44 on a real control plane: requests that come just as their Model is about to fall asleep."""

from __future__ import annotations

import asyncio
import random

import pytest
from tests.support import asking
from tests.support.cluster.cluster import Cluster
from tests.support.cluster.kubelet import TestKubelet
from tests.support.cluster.manager import operator
from tests.support.cluster.nodes import NodeRow
from tests.support.cluster.proxies import RIGHTS, proxy

IDLE_S = 3.0


@pytest.mark.parametrize(
    "requests",
    [
        pytest.param(4, id="a few"),
        pytest.param(60, id="many", marks=[pytest.mark.soak, pytest.mark.timeout(1200)]),
    ],
)
async def test_f44_a_request_that_comes_as_its_model_falls_asleep_is_served(
    cluster: Cluster, kubelet: TestKubelet, requests: int
):
    """A second and a half lies between saying that replicas go and letting them go: some fall into it."""
    chance = random.Random(44)
    await cluster.nodes([NodeRow("plain")])
    async with operator(cluster) as manager:
        identity = await cluster.identity("proxy", namespace=manager.namespace, rules=RIGHTS)
        words = ("--namespace", manager.namespace, "--no-access-log")
        await manager.apply("m", serverless={"idleTimeout": f"{IDLE_S:g}s"})
        async with proxy(identity, *words) as one, proxy(identity, *words) as other:
            for each in (one, other):
                await each.until_ready()
            answers = []
            for number in range(requests):
                url = (one, other)[number % 2].url
                code, _, answer = await asking.chat(url, "m")
                answers.append((code, answer.get("model"), answer.get("error")))
                await asyncio.sleep(IDLE_S + chance.uniform(-0.5, 3.0))
            assert answers == [(200, "m", None)] * requests
        await manager.phase("m", "Idle")
