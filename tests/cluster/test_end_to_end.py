"""A Model's whole life on a cluster that the chart was installed into, with the chart's own accounts.

It sleeps, a request wakes it, it falls asleep again, a caller of its Service wakes it, it changes under load, and
it goes. What the accounts did is then held against the rights that the chart gives them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.support import asking
from tests.support.asking import MESSAGES, Load
from tests.support.cluster.cluster import Cluster
from tests.support.cluster.installation import API_PORT, Installation
from tests.support.cluster.kubelet import TestKubelet
from tests.support.cluster.nodes import NodeRow
from tests.support.waiting import until

from flexinfer.api.meta import ObjectKey
from flexinfer.errors import NotFound
from flexinfer.kube.store import DEPLOYMENTS, MODELS, PODS, Object, Selection

LIMIT_S = 90.0
PORT = 8000
TEAM = "team"
KEY = ObjectKey(TEAM, "poet")
PROXIES = "app.kubernetes.io/component=proxy"
DRAINING = {"proxy": {"gracefulShutdown": {"drainDelay": "5s"}}}
"""As the chart has it: the cluster needs a moment to forget an address."""
MODEL: dict[str, Any] = {
    "metadata": {"name": KEY.name, "namespace": KEY.namespace},
    "spec": {
        "backend": "simulator",
        "source": "file:///models/none",
        "serverless": {"idleTimeout": "6s"},
        "config": {"slots": 4},
    },
}


@pytest.fixture
async def kubelet(own_cluster: Cluster) -> AsyncIterator[TestKubelet]:
    async with TestKubelet(own_cluster) as one:
        yield one


KINDS = (
    "models", "deployments", "replicasets", "pods", "services", "endpointslices", "controllerrevisions", "jobs",
    "persistentvolumeclaims", "networkpolicies",
)  # fmt: skip


class Life:
    """The Model, and what can be seen of it from outside."""

    def __init__(self, installed: Installation, key: str) -> None:
        self.installed = installed
        self.admin = installed.cluster.admin
        self.headers = {"Authorization": f"Bearer {key}"}

    async def model(self) -> Object:
        return await self.admin.get(MODELS, KEY)

    async def until_phase(self, phase: str) -> Object:
        async def reached() -> bool:
            model = await self.model()
            status = model.get("status") or {}
            return (status.get("phase"), status.get("observedGeneration")) == (phase, model["metadata"]["generation"])

        await self.until(reached)
        return await self.model()

    async def until(self, what: Any) -> None:
        try:
            await until(what, LIMIT_S, every_s=0.1)
        except AssertionError as error:
            raise AssertionError(await self.installed.story(KEY.namespace, KEY.name)) from error

    async def pods(self) -> list[str]:
        selection = Selection(KEY.namespace, labels={"flexinfer.ai/model": KEY.name})
        return sorted(pod["metadata"]["name"] for pod in (await self.admin.list(PODS, selection)).items)

    async def asleep(self) -> None:
        async def no_pods() -> bool:
            return not await self.pods()

        await self.until_phase("Idle")
        await self.until(no_pods)

    async def service(self) -> str:
        """Its address, as a pod of the cluster would dial it."""
        path = f"/api/v1/namespaces/{KEY.namespace}/services/{KEY.name}"
        found = await self.installed.cluster.rest.get(path)
        return f"http://{found['spec']['clusterIP']}:{PORT}"

    async def proxies(self) -> list[str]:
        return [f"http://{address}:{API_PORT}" for address in await self.installed.addresses("proxy")]

    async def proxy_service(self) -> str:
        found = await self.installed.cluster.rest.get(f"{self._system}/services/flexinfer-proxy")
        return f"http://{found['spec']['clusterIP']}"

    async def proxy_pods(self) -> list[str]:
        """Those too that are ending."""
        found = await self.installed.cluster.rest.get(f"{self._system}/pods?labelSelector={PROXIES}")
        return [pod["metadata"]["name"] for pod in found["items"]]

    @property
    def _system(self) -> str:
        return f"/api/v1/namespaces/{self.installed.namespace}"

    @asynccontextmanager
    async def load(self, *urls: str) -> AsyncIterator[Load]:
        """Six clients at each of these addresses."""
        async with AsyncExitStack() as stack:
            session = await stack.enter_async_context(asking.client(headers=self.headers))
            work = Load()
            group = await stack.enter_async_context(asyncio.TaskGroup())
            for url in urls:
                for number in range(6):
                    more = {"stream": number % 2 == 0, "max_tokens": 20}
                    group.create_task(work.one(session, url, KEY.name, more))
            try:
                yield work
            finally:
                work.ending = True


async def test_a_model_sleeps_wakes_changes_under_load_and_goes(
    own_cluster: Cluster, kubelet: TestKubelet, tmp_path: Path
):
    await own_cluster.nodes([NodeRow("plain", count=2)])
    await own_cluster.rest.create("/api/v1/namespaces", {"metadata": {"name": TEAM}})
    async with Installation(own_cluster, kubelet, tmp_path, DRAINING) as installed:
        life = Life(installed, await installed.key())
        await own_cluster.admin.create(MODELS, MODEL)
        await life.asleep()
        await wakes_by_a_request(life)
        await life.asleep()
        await wakes_by_its_service(life)
        await changes_under_load(life)
        await its_proxies_are_replaced_under_load(life)
        await goes(life)
        for component in ("manager", "proxy"):
            assert installed.refused(component) == []


async def wakes_by_a_request(life: Life) -> None:
    body = {"model": KEY.name, "messages": MESSAGES}
    url = f"{await life.installed.api()}/v1/chat/completions"
    async with aiohttp.ClientSession(headers=life.headers) as session, session.post(url, json=body) as answer:
        assert answer.status == 200, await answer.text()
        assert (await answer.json())["model"] == KEY.name
    model = await life.until_phase("Ready")
    assert model["status"]["endpoint"] == f"http://{KEY.name}.{KEY.namespace}.svc.cluster.local:{PORT}"
    assert model["status"]["replicas"] == 1


async def wakes_by_its_service(life: Life) -> None:
    """Without a key, and without a model's name: the Host says which one."""
    headers = {"Host": f"{KEY.name}.{KEY.namespace}.svc.cluster.local:{PORT}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        url = f"{await life.service()}/v1/chat/completions"
        async with session.post(url, json={"model": KEY.name, "messages": MESSAGES}) as answer:
            assert answer.status == 200, await answer.text()
    assert (await life.until_phase("Ready"))["status"]["tier"] == "hot"


async def changes_under_load(life: Life) -> None:
    before = await life.pods()
    async with life.load(*await life.proxies()) as load:
        await life.until(_answered(load, 20))
        change = {"spec": {"config": {"slots": 8}}}
        await life.admin.patch(MODELS, KEY, change, field_manager="user")

        async def replaced() -> bool:
            now = await life.pods()
            return bool(now) and not set(before) & set(now)

        await life.until(replaced)
        await life.until_phase("Ready")
        await life.until(_answered(load, len(load.answers) + 20))
    assert load.lost == []


async def its_proxies_are_replaced_under_load(life: Life) -> None:
    """F46, for callers of the proxies' Service."""
    before = await life.proxy_pods()
    installed = life.installed
    async with life.load(await life.proxy_service()) as load:
        await life.until(_answered(load, 20))
        await installed.cluster.kubectl("rollout", "restart", "-n", installed.namespace, "deployment/flexinfer-proxy")

        async def replaced() -> bool:
            return not set(before) & set(await life.proxy_pods())

        await life.until(replaced)
        await life.until(_answered(load, len(load.answers) + 20))
    assert load.lost == []


def _answered(load: Load, count: int) -> Any:
    async def so_many() -> bool:
        return len(load.answers) >= count

    return so_many


async def goes(life: Life) -> None:
    await life.admin.delete(MODELS, KEY)
    kinds = (
        "models,deployments,replicasets,pods,services,endpointslices,controllerrevisions,jobs,persistentvolumeclaims"
    )

    async def nothing() -> bool:
        return (await life.installed.cluster.kubectl("get", kinds, "-n", KEY.namespace, "-o", "name")).split() == []

    await life.until(nothing)
    with pytest.raises(NotFound):
        await life.admin.get(DEPLOYMENTS, KEY)
