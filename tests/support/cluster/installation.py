"""The chart on a test cluster: installed by helm, its pods run by the process kubelet as the chart's own accounts."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import yaml
from tests.support.cluster import rights
from tests.support.cluster.audit import Entry
from tests.support.cluster.cluster import Cluster
from tests.support.cluster.kubelet import TestKubelet
from tests.support.cluster.pods import is_ready
from tests.support.cluster.rights import Right
from tests.support.helm import CHART, Helm

Component = Literal["manager", "proxy"]
COMPONENTS: tuple[Component, ...] = ("manager", "proxy")
NAMESPACE = "flexinfer-system"
API_PORT, METRICS_PORT, WAKE_PORT = 8080, 8081, 8083
# Small ones: the machine has two cores, and the scheduler counts.
SMALL: Mapping[str, Any] = {
    "proxy": {"gracefulShutdown": {"drainDelay": "1s", "timeout": "10s", "terminationGracePeriodSeconds": 20}},
}


class Installation:
    """`async with Installation(cluster, kubelet, folder) as installed:` it is ready inside, and removed after it.

    `values` are those of the chart; they are laid over SMALL.
    """

    def __init__(
        self,
        cluster: Cluster,
        kubelet: TestKubelet,
        folder: Path,
        values: Mapping[str, Any] | None = None,
        *,
        namespace: str = NAMESPACE,
    ) -> None:
        self.cluster = cluster
        self.kubelet = kubelet
        self.namespace = namespace
        self.helm = Helm(folder / "helm", cluster.admin_kubeconfig)
        self.values = _laid_over(SMALL, values or {})
        self._earlier: dict[Component, int] = {}
        """Calls of the same accounts before this installation."""

    async def __aenter__(self) -> Self:
        self._earlier = {component: len(self.calls(component)) for component in COMPONENTS}
        await self.install()
        await self.until_ready()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.cluster.plane.runs("apiserver"):
            await self.uninstall()

    # helm

    async def install(self, *argv: str | Path) -> str:
        """What helm prints: the notes."""
        return await self._helm("install", "flexinfer", *(argv or (CHART,)), "--create-namespace", "--values", "-")

    async def upgrade(self, values: Mapping[str, Any]) -> str:
        self.values = _laid_over(self.values, values)
        return await self._helm("upgrade", "flexinfer", CHART, "--values", "-")

    async def uninstall(self) -> None:
        await self._helm("uninstall", "flexinfer", "--ignore-not-found")

    async def rendered(self) -> list[dict[str, Any]]:
        """The objects of the release as helm keeps them."""
        text = await self._helm("get", "manifest", "flexinfer")
        return [document for document in yaml.load_all(text, yaml.CSafeLoader) if document]

    async def _helm(self, *argv: str | Path) -> str:
        words = (*argv, "--namespace", self.namespace)
        done = await asyncio.to_thread(self.helm.run, *words, stdin=yaml.safe_dump(self.values))
        assert done.returncode == 0, done.stderr
        return done.stdout

    # What runs

    def user(self, component: Component) -> str:
        """What the audit log calls the account of its pods."""
        return f"system:serviceaccount:{self.namespace}:flexinfer-{component}"

    async def pods(self, component: Component) -> list[dict[str, Any]]:
        """Those that are not ending."""
        selector = f"app.kubernetes.io/instance=flexinfer,app.kubernetes.io/component={component}"
        found = await self.cluster.rest.get(f"/api/v1/namespaces/{self.namespace}/pods?labelSelector={selector}")
        return [pod for pod in found["items"] if "deletionTimestamp" not in pod["metadata"]]

    async def until_ready(self, within_s: float = 60.0) -> None:
        """As many pods of each part as the values say, all of them Ready, none of an old revision."""
        deadline = time.monotonic() + within_s
        while missing := [part for part in COMPONENTS if not await self._is_rolled_out(part)]:
            assert time.monotonic() < deadline, await self._why(missing)
            await asyncio.sleep(0.1)

    async def restart(self, component: Component, *, wait: bool = True) -> None:
        """As `kubectl rollout restart` does."""
        words = ("rollout", "restart", f"deployment/flexinfer-{component}", "-n", self.namespace)
        await self.cluster.kubectl(*words)
        if wait:
            await self.until_ready()

    async def _is_rolled_out(self, component: Component) -> bool:
        path = f"/apis/apps/v1/namespaces/{self.namespace}/deployments/flexinfer-{component}"
        found = await self.cluster.rest.get(path)
        status, wanted = found.get("status", {}), found["spec"]["replicas"]
        current = status.get("observedGeneration") == found["metadata"]["generation"]
        counts = {status.get(name, 0) for name in ("replicas", "updatedReplicas", "readyReplicas")}
        return current and counts == {wanted}

    async def _why(self, missing: list[Component]) -> str:
        lines = [f"not ready: {', '.join(missing)}"]
        for component in missing:
            for pod in await self.pods(component):
                name, states = pod["metadata"]["name"], pod["status"].get("containerStatuses") or ()
                lines.append(f"{name}: {pod['status'].get('phase')} {[one['state'] for one in states]}")
                if not is_ready(pod):
                    lines += self.log(name, component).splitlines()[-12:]
        return "\n".join(lines)

    def log(self, pod: str, component: Component) -> str:
        """Of all runs of its container."""
        files = self.kubelet.logs(self.namespace, pod, component)
        return "".join(file.read_text(errors="replace") for file in files)

    async def story(self, namespace: str, name: str) -> str:
        """For the message of a failed test: the Model's status, its pods and Jobs, what the parts logged last."""
        kinds = "modeldeployments,models,jobs,pods,events"
        listed = await self.cluster.kubectl("get", kinds, "-n", namespace, "-o", "wide")
        model = await self.cluster.kubectl("get", "model", name, "-n", namespace, "-o", "yaml", "--ignore-not-found")
        logs = [
            line
            for component in COMPONENTS
            for pod in await self.pods(component)
            for line in self.log(pod["metadata"]["name"], component).splitlines()[-15:]
        ]
        refused = [f"{component} may not {call}" for component in COMPONENTS for call in self.refused(component)]
        return "\n".join([listed, model, *logs, *refused])

    async def addresses(self, component: Component) -> list[str]:
        return [pod["status"]["podIP"] for pod in await self.pods(component) if is_ready(pod)]

    async def api(self) -> str:
        """The address of one proxy: http://IP:PORT."""
        return f"http://{(await self.addresses('proxy'))[0]}:{API_PORT}"

    async def key(self) -> str:
        """The first API key, as the notes say how to see it."""
        path = f"/api/v1/namespaces/{self.namespace}/secrets/flexinfer-api-keys"
        found = await self.cluster.rest.get(path)
        return base64.b64decode(found["data"]["key"]).decode()

    # Granted = used

    def calls(self, component: Component) -> list[Entry]:
        return self.cluster.audit(user=self.user(component))[self._earlier.get(component, 0) :]

    async def granted(self, component: Component) -> set[Right]:
        return rights.granted(await self.rendered(), f"flexinfer-{component}", self.namespace)

    async def unused(self, component: Component) -> list[Right]:
        """Rights of the chart that no call of this component has used so far."""
        return rights.unused(await self.granted(component), self.calls(component))

    def refused(self, component: Component) -> list[str]:
        """Calls of this component that the API server has forbidden so far."""
        return rights.refused(self.calls(component))


def _laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _laid_over(below[name], above[name])
        if isinstance(below.get(name), Mapping) and isinstance(above.get(name), Mapping)
        else above.get(name, below.get(name))
        for name in {**below, **above}
    }
