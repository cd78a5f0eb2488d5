"""`flexinfer manager` as a process of a cluster test, with an account of its own that may do what it needs."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from tests.support.cluster import crds
from tests.support.cluster.audit import Entry
from tests.support.cluster.cluster import Cluster
from tests.support.cluster.identity import Identity, Rule, rule

from flexinfer.api.meta import ObjectKey
from flexinfer.errors import NotFound
from flexinfer.kube.store import MODELS, Object, Selection

IMAGE = "ghcr.io/flexinfer/flexinfer:test"
"""The process kubelet runs this checkout for it."""
LOG_BYTES = 4000
RULES: tuple[Rule, ...] = (
    rule("ai.flexinfer", "models", "get list watch create patch delete"),
    rule("ai.flexinfer", "models/status", "patch"),
    rule("ai.flexinfer", "modeldeployments", "list watch patch"),
    rule("ai.flexinfer", "modeldeployments/status", "patch"),
    rule("ai.flexinfer", "models/finalizers modeldeployments/finalizers", "update"),
    rule("apps", "deployments", "get list watch create patch delete"),
    rule("apps", "controllerrevisions", "get list watch create patch delete"),
    rule("batch", "jobs", "get list watch create patch delete"),
    rule("", "services persistentvolumeclaims", "get list watch create patch delete"),
    rule("", "pods", "list watch delete"),
    rule("", "pods/log", "get"),
    rule("discovery.k8s.io", "endpointslices", "get list watch create patch delete"),
    rule("networking.k8s.io", "networkpolicies", "get list watch create patch delete"),
    rule("events.k8s.io", "events", "create patch"),
    rule("coordination.k8s.io", "leases", "get list watch create patch"),
)
CLUSTER_RULES: tuple[Rule, ...] = (
    rule("", "nodes", "list watch"),
    rule("storage.k8s.io", "storageclasses", "list watch"),
    rule("node.k8s.io", "runtimeclasses", "list watch"),
)


class Operator:
    """A manager that serves one namespace, and that namespace's Models."""

    def __init__(self, cluster: Cluster, namespace: str, who: Identity, env: Mapping[str, str], args: tuple[str, ...]):
        self.cluster = cluster
        self.namespace = namespace
        self.who = who
        self.env = dict(env)
        self.args = args
        self._process: asyncio.subprocess.Process | None = None
        self._log = cluster.plane.folder / f"manager-{secrets.token_hex(4)}.log"

    async def start(self) -> None:
        """Returns when it has seen everything there is."""
        before = len(self.log())
        env = {
            **os.environ,
            "HOME": "/",
            "KUBECONFIG": str(self.who.kubeconfig),
            "POD_NAMESPACE": self.namespace,
            "FLEXINFER_WATCH_NAMESPACES": self.namespace,
            "FLEXINFER_IMAGE": IMAGE,
            "METRICS_BIND_ADDRESS": "127.0.0.1:0",
            "HEALTH_PROBE_BIND_ADDRESS": "0",
            **self.env,
        }
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "flexinfer", "manager", *self.args), env=env, stderr=log
            )
        await self.until(lambda: '"synced"' in self.log()[before:] or self._ended(), "the manager did not start")
        assert not self._ended(), self.log()

    def _ended(self) -> bool:
        return self._process is not None and self._process.returncode is not None

    async def end(self, number: int = signal.SIGTERM) -> int:
        """Its exit code."""
        process, self._process = self._process, None
        if process is None:
            return 0
        with suppress(ProcessLookupError):
            process.send_signal(number)
        async with asyncio.timeout(30):
            return await process.wait()

    def log(self) -> str:
        return self._log.read_text() if self._log.exists() else ""

    def logged(self, message: str) -> list[dict[str, Any]]:
        """Lines of its log with this message."""
        found = (json.loads(line) for line in self.log().splitlines() if line.startswith("{"))
        return [line for line in found if line["event"] == message]

    def resident_mib(self) -> float:
        """Memory of its process that is in RAM."""
        assert self._process is not None
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    # Models

    async def apply(self, name: str, **spec: Any) -> Object:
        """As a user does; the simulator unless `spec` says otherwise."""
        body = {
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": {"backend": "simulator", "source": "file:///models/none", **spec},
        }
        return await self.cluster.admin.apply(MODELS, body, field_manager="user", force=True)

    async def model(self, name: str) -> Object:
        return await self.cluster.admin.get(MODELS, ObjectKey(self.namespace, name))

    async def ask(self, name: str, at: str) -> None:
        """What a proxy writes when a request comes."""
        patch = {"status": {"lastActiveTime": at}}
        await self.cluster.admin.patch(MODELS, ObjectKey(self.namespace, name), patch, subresource="status")

    async def phase(self, name: str, phase: str, within_s: float = 40.0) -> Object:
        """The Model once it is in a phase, told for its present generation."""

        def reached(model: Object) -> bool:
            status = model.get("status") or {}
            return (status.get("phase"), status.get("observedGeneration")) == (phase, model["metadata"]["generation"])

        return await self.until_model(name, reached, within_s)

    async def until_model(self, name: str, what: Callable[[Object], Any], within_s: float = 40.0) -> Object:
        deadline = time.monotonic() + within_s
        while True:
            model = await self.model(name)
            if what(model):
                return model
            if time.monotonic() > deadline:
                raise AssertionError(f"still not so: {model.get('status')}\n{self.log()[-LOG_BYTES:]}")
            await asyncio.sleep(0.05)

    async def until(self, what: Callable[[], Any], complaint: str, within_s: float = 40.0) -> None:
        deadline = time.monotonic() + within_s
        while not what():
            assert time.monotonic() < deadline, f"{complaint}\n{self.log()[-LOG_BYTES:]}"
            await asyncio.sleep(0.05)

    async def gone(self, name: str) -> None:
        key = ObjectKey(self.namespace, name)
        deadline = time.monotonic() + 40
        while True:
            try:
                await self.cluster.admin.get(MODELS, key)
            except NotFound:
                return
            assert time.monotonic() < deadline, self.log()[-LOG_BYTES:]
            await asyncio.sleep(0.05)

    # What it did

    def calls(self) -> list[Entry]:
        return self.cluster.audit(user=self.who.user)

    def writes(self) -> list[str]:
        """What it wrote, leases aside."""
        return [
            "/".join(filter(None, (entry.verb, entry.resource, entry.subresource)))
            for entry in self.calls()
            if entry.is_write and entry.resource != "leases"
        ]

    async def quiet(self, for_s: float = 1.5) -> None:
        """Until it has written nothing for so long."""
        deadline = time.monotonic() + 40
        count, since = -1, time.monotonic()
        while time.monotonic() - since < for_s:
            assert time.monotonic() < deadline, f"it writes all the time: {self.writes()[-20:]}"
            if count != (count := len(self.writes())):
                since = time.monotonic()
            await asyncio.sleep(0.1)

    async def left(self) -> list[str]:
        """What there is in the namespace of the kinds that it makes."""
        kinds = "deployments,replicasets,pods,services,endpointslices,persistentvolumeclaims,jobs,networkpolicies"
        return (await self.cluster.kubectl("get", kinds, "-n", self.namespace, "-o", "name")).split()

    async def until_left(self, expected: list[str], within_s: float = 60.0) -> None:
        """The garbage collector needs up to half a minute to learn of a new kind."""
        deadline = time.monotonic() + within_s
        while sorted(left := await self.left()) != expected:
            assert time.monotonic() < deadline, f"left: {left}"
            await asyncio.sleep(0.3)


@asynccontextmanager
async def operator(
    cluster: Cluster,
    *,
    env: Mapping[str, str] | None = None,
    args: tuple[str, ...] = ("--no-leader-elect",),
    labels: Mapping[str, str] | None = None,
    running: bool = True,
) -> AsyncIterator[Operator]:
    """A namespace with the CRDs and a running manager, unless the test runs its own; what is left fails nothing."""
    await crds.install(cluster.admin)
    async with cluster.namespace(labels) as namespace:
        who = await cluster.identity("manager", namespace=namespace, rules=RULES, cluster_rules=CLUSTER_RULES)
        one = Operator(cluster, namespace, who, env or {}, args)
        try:
            if running:
                await one.start()
            yield one
        finally:
            await _forget_models(cluster, namespace)
            await one.end(signal.SIGKILL)


async def _forget_models(cluster: Cluster, namespace: str) -> None:
    """Their finalizers would hold the namespace for ever once the manager is gone."""
    at_once = asyncio.Semaphore(16)

    async def forget(key: ObjectKey) -> None:
        async with at_once:
            with suppress(NotFound):
                await cluster.admin.delete(MODELS, key)
                await cluster.admin.patch(MODELS, key, {"metadata": {"finalizers": []}})

    found = (await cluster.admin.list(MODELS, Selection(namespace))).items
    await asyncio.gather(*(forget(ObjectKey(namespace, one["metadata"]["name"])) for one in found))


def conditions(model: Object) -> dict[str, tuple[str, str, str]]:
    """Type -> status, reason, message."""
    found = model["status"].get("conditions") or ()
    return {one["type"]: (one["status"], one["reason"], one.get("message", "")) for one in found}
