"""What every ObjectStore promises, of our client on a real API server: the suite of tests/contract, word for word."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from tests.contract.test_objectstore import *  # noqa: F403
from tests.support.cluster import crds
from tests.support.cluster.cluster import Cluster
from tests.support.objectstores import Subject

from flexinfer.kube.store import CONFIG_MAPS, Selection


@pytest.fixture
async def subject(cluster: Cluster) -> AsyncIterator[Subject]:
    await crds.install(cluster.admin)

    async def forgotten_version() -> str:
        # From before the kind was there.
        return "1"

    async with cluster.namespace() as namespace:
        # Put there by the controller manager, some time after the namespace.
        async with asyncio.timeout(40):
            while not (await cluster.admin.list(CONFIG_MAPS, Selection(namespace))).items:
                await asyncio.sleep(0.05)
        yield Subject(cluster.admin, namespace, forgotten_version)
