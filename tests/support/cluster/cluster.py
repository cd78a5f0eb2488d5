"""What a cluster test holds: a running control plane, its administrator, and what may be done to it."""

from __future__ import annotations

import asyncio
import json
import secrets
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
from tests.support.cluster import audit
from tests.support.cluster.controlplane import BRIDGE, ControlPlane, Part
from tests.support.cluster.identity import Identities, Identity, Rule
from tests.support.cluster.kubectl import run_kubectl
from tests.support.cluster.nodes import NOT_READY, NodeRow, node_objects
from tests.support.cluster.relay import Relay
from tests.support.cluster.rest import Rest

from flexinfer.kube import config
from flexinfer.kube.access import Access, Material, User

_DECLARED_BY = "cluster.test/declared-by"


class Cluster:
    """One test's view of a control plane; `async with` it. Cluster-scoped objects made through it go with it."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane = plane
        self.url = plane.url
        self.ca_file: Path = plane.ca_file
        self.admin_kubeconfig: Path = plane.admin_kubeconfig
        self._run = secrets.token_hex(4)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        tls = ssl.create_default_context(cafile=str(self.ca_file))
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=tls, limit=0),
            headers={"Authorization": f"Bearer {self.plane.admin_token}", "User-Agent": "flexinfer-test-setup"},
        )
        await self._stack.enter_async_context(session)
        self.rest = Rest(session, self.url)
        user = User(token=self.plane.admin_token)
        access = Access(server=self.url, ca=Material(file=self.ca_file), user=user)
        self.admin = await self._stack.enter_async_context(config.connect(access, env={}))
        self.identities = Identities(self.rest, self.plane)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self.plane.runs("apiserver"):
                await self.identities.remove()
        finally:
            await self._stack.aclose()

    # Parts

    async def stop(self, part: Part, *, kill: bool = False) -> None:
        """SIGTERM, or SIGKILL; returns when it has ended."""
        await asyncio.to_thread(self.plane.stop, part, kill=kill)

    async def start(self, part: Part) -> None:
        """Returns when it answers."""
        await asyncio.to_thread(self.plane.start, part)

    async def pause(self, part: Part) -> None:
        """SIGSTOP: it holds its connections and answers nothing."""
        self.plane.pause(part)

    async def resume(self, part: Part) -> None:
        self.plane.resume(part)

    async def compact(self) -> int:
        """etcd forgets every version but the newest; that one is returned.

        The API server goes on answering from its own memory; only after a restart of it are watches and
        pages of old versions 410.
        """
        async with aiohttp.ClientSession(self.plane.places.etcd_url) as etcd:
            async with etcd.post("/v3/maintenance/status", json={}) as answer:
                revision = int((await answer.json())["header"]["revision"])
            async with etcd.post("/v3/kv/compaction", json={"revision": str(revision), "physical": True}) as answer:
                assert answer.status == 200, await answer.text()
        return revision

    async def relay(self, host: str = BRIDGE) -> Relay:
        """A way to the API server that can be cut, held and slowed; ends with the test."""
        return await self._stack.enter_async_context(Relay(self.plane.places.address, self.plane.places.api_port, host))

    @asynccontextmanager
    async def relay_for(self, part: Part) -> AsyncIterator[Relay]:
        """The way from the API server to etcd, or from another part to the API server, leads through a relay.

        Who goes through it is restarted at the beginning and at the end; for an own cluster.
        """
        places = self.plane.places
        to = ("127.0.0.1", places.etcd_client) if part == "etcd" else (places.address, places.api_port)
        async with Relay(*to, BRIDGE) as relay:
            await asyncio.to_thread(self.plane.lead, part, relay.address)
            try:
                yield relay
            finally:
                await relay.release()
                await asyncio.to_thread(self.plane.lead, part, None)

    # Who asks

    async def identity(
        self,
        name: str,
        *,
        namespace: str = "default",
        rules: Sequence[Rule] = (),
        cluster_rules: Sequence[Rule] = (),
    ) -> Identity:
        """A ServiceAccount that may do what the rules say in its namespace and in the whole cluster."""
        return await self.identities.service_account(name, namespace, rules, cluster_rules)

    async def kubectl(
        self, *argv: str, identity: Identity | None = None, stdin: str | Mapping[str, Any] | None = None
    ) -> str:
        """Its standard output. Raises KubectlFailed. A dict for standard input is written as JSON."""
        kubeconfig = identity.kubeconfig if identity else self.admin_kubeconfig
        text = json.dumps(stdin) if isinstance(stdin, Mapping) else stdin
        return await run_kubectl(self.plane.tools / "kubectl", kubeconfig, argv, text)

    # What there is

    def audit(self, **wanted: str | int) -> list[audit.Entry]:
        """Calls that the API server has answered, oldest first; see `audit.read`."""
        return audit.read(self.plane.places.audit_log, **wanted)

    async def nodes(self, table: Sequence[NodeRow]) -> list[str]:
        """Declares the nodes of the table; their names. The Ready ones take pods on return. They go with the test."""
        waiting = asyncio.Semaphore(16)
        mine = {_DECLARED_BY: self._run}

        async def declare(node: dict[str, Any]) -> str:
            node["metadata"]["labels"] |= mine
            async with waiting:
                await self.rest.create("/api/v1/nodes", node)
            return str(node["metadata"]["name"])

        self.identities.made.append(f"/api/v1/nodes?labelSelector={_DECLARED_BY}={self._run}")
        names = await asyncio.gather(*map(declare, node_objects(table)))
        expected = sum(row.count for row in table if row.ready)
        async with asyncio.timeout(40):
            while await self._nodes_that_take_pods() < expected:
                await asyncio.sleep(0.1)
        return names

    async def _nodes_that_take_pods(self) -> int:
        found = await self.rest.get(f"/api/v1/nodes?labelSelector={_DECLARED_BY}={self._run}")
        taints = [[taint["key"] for taint in node["spec"].get("taints") or ()] for node in found["items"]]
        return sum(NOT_READY not in keys for keys in taints)

    @asynccontextmanager
    async def namespace(self, labels: Mapping[str, str] | None = None) -> AsyncIterator[str]:
        """A fresh one, with its ServiceAccount; its deletion begins at the end and is not waited for."""
        name = f"t-{secrets.token_hex(4)}"
        await self.rest.create("/api/v1/namespaces", {"metadata": {"name": name, "labels": dict(labels or {})}})
        await self.rest.until_found(f"/api/v1/namespaces/{name}/serviceaccounts/default")
        try:
            yield name
        finally:
            if self.plane.runs("apiserver"):
                await self.rest.delete(f"/api/v1/namespaces/{name}")
