"""The control plane of the cluster tests: what it is and what can be done to it."""

from __future__ import annotations

from tests.support.cluster.cluster import Cluster


async def test_it_is_healthy_within_seconds(cluster: Cluster):
    assert cluster.plane.started_in_s < 30
    version = await cluster.rest.get("/version")
    assert version["gitVersion"].startswith("v1.")
