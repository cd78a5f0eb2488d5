"""Processes of one controller that lead in turns, judged by the API server's audit log."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from pathlib import Path

from tests.support import gadgets
from tests.support.cluster.audit import Entry
from tests.support.cluster.cluster import Cluster

PROGRAM = Path(__file__).parents[2] / "cluster" / "sample_controller.py"


class Processes:
    """Two processes of one controller, each with an account of its own: the audit log tells them apart."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._running: dict[str, asyncio.subprocess.Process] = {}
        self.users: dict[str, str] = {}

    async def start(self, name: str) -> None:
        who = await self._cluster.identity(name, namespace=self._namespace, rules=gadgets.RULES)
        self.users[name] = who.user
        self._running[name] = await asyncio.create_subprocess_exec(
            sys.executable, str(PROGRAM), str(who.kubeconfig), self._namespace, name, env={**os.environ, "HOME": "/"}
        )

    def send(self, name: str, number: int) -> float:
        """When the signal was sent, by the wall clock, which is the audit log's."""
        sent_at = time.time()
        self._running[name].send_signal(number)
        return sent_at

    async def code(self, name: str) -> int:
        async with asyncio.timeout(30):
            return await self._running.pop(name).wait()

    async def close(self) -> None:
        for process in self._running.values():
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    def beats(self, name: str) -> list[float]:
        """When the process's writes came in, leases aside."""
        found = self._cluster.audit(user=self.users[name], namespace=self._namespace)
        return [received(entry) for entry in found if entry.is_write and entry.resource != "leases"]

    async def first_beat(self, name: str, after: float, limit_s: float = 40.0) -> float:
        async with asyncio.timeout(limit_s):
            while not (later := [at for at in self.beats(name) if at > after]):
                await asyncio.sleep(0.2)
        return later[0]


def received(entry: Entry) -> float:
    return datetime.fromisoformat(entry.at).timestamp()


@asynccontextmanager
async def two_processes(cluster: Cluster) -> AsyncIterator[Processes]:
    """`a` leads, `b` follows."""
    async with cluster.namespace() as namespace:
        processes = Processes(cluster, namespace)
        try:
            await processes.start("a")
            await processes.first_beat("a", 0.0)
            await processes.start("b")
            await follower_watches(cluster, processes.users["b"])
            yield processes
        finally:
            await processes.close()


async def follower_watches(cluster: Cluster, user: str) -> None:
    async with asyncio.timeout(30):
        while not cluster.audit(user=user, resource="leases", verb="watch"):
            await asyncio.sleep(0.1)
