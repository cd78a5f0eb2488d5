"""The control loop on a real API server: hand-over of the lead, writes at rest, CPU of a reconcile."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from tests.support.cluster.clients import client
from tests.support.cluster.cluster import Cluster
from tests.support.cluster.controlplane import ControlPlane, Settings
from tests.support.cluster.leaders import two_processes
from tests.support.gadgets import GADGETS, RULES, GadgetManager, gadget, install, until_ready

from benchmarks.table import Table, median
from flexinfer.api.meta import ObjectKey

GADGETS_AT_REST = 50
ROUNDS = 40
TURNS = 3
_BUILD = Path(__file__).parent.parent / "hack" / "cluster-tools.sh"


def main(seconds: float = 60.0) -> Table:
    tools = Path(subprocess.check_output([_BUILD], text=True).splitlines()[-1])
    with ControlPlane(tools, Settings(address="127.0.0.1")) as plane:
        rows = asyncio.run(measured(plane, seconds))
    return Table(
        title="Control loop on a real API server",
        command="python -m benchmarks control_loop",
        columns=("figure", "value", "aim"),
        rows=rows,
        notes=[
            f"Hand-over: from the signal to the first write of the other process, worst of {TURNS}; lease 15 s.",
            "Stopped: SIGSTOP for 20 s in the middle of ten writes a second, then SIGCONT.",
            f"At rest: {GADGETS_AT_REST} objects with three children each, {seconds:.0f} s, by the audit log.",
            "CPU is that of the whole process.",
        ],
    )


async def measured(plane: ControlPlane, seconds: float) -> list[Sequence[str]]:
    async with Cluster(plane) as cluster:
        await install(cluster.admin)
        ended_s = max([await hand_over(cluster, signal.SIGTERM) for _ in range(TURNS)])
        killed_s = max(await asyncio.gather(*(hand_over(cluster, signal.SIGKILL) for _ in range(TURNS))))
        late = await late_writes(cluster)
        rest = await at_rest(cluster, seconds)
    return [
        ("hand-over of the lead, SIGTERM", f"{ended_s:.2f} s", "≤ 3 s"),
        ("hand-over of the lead, SIGKILL", f"{killed_s:.1f} s", "≤ 17 s"),
        ("writes of a stopped leader after the other one's first", str(late), "0"),
        *rest,
    ]


async def hand_over(cluster: Cluster, number: int) -> float:
    async with two_processes(cluster) as processes:
        sent_at = processes.send("a", number)
        return await processes.first_beat("b", 0.0) - sent_at


async def late_writes(cluster: Cluster) -> int:
    async with two_processes(cluster) as processes:
        sent_at = processes.send("a", signal.SIGSTOP)
        taken_at = await processes.first_beat("b", 0.0)
        await asyncio.sleep(max(0.0, sent_at + 20 - time.time()))
        processes.send("a", signal.SIGCONT)
        await asyncio.sleep(5)
        return sum(at >= taken_at for at in processes.beats("a"))


async def at_rest(cluster: Cluster, seconds: float) -> list[Sequence[str]]:
    async with cluster.namespace() as namespace:
        who = await cluster.identity("m", namespace=namespace, rules=RULES)
        async with client(who.kubeconfig) as store, GadgetManager(store, namespace, events=True) as manager:
            keys = [ObjectKey(namespace, f"g{number}") for number in range(GADGETS_AT_REST)]
            for key in keys:
                await cluster.admin.create(GADGETS, gadget(namespace, key.name, parts=2))
            for key in keys:
                await until_ready(cluster.admin, key)
            await asyncio.sleep(5)
            before = len(cluster.audit(user=who.user))
            cpu = os.times()
            await asyncio.sleep(seconds)
            idle = os.times()
            calls = cluster.audit(user=who.user)[before:]
            idle_ms = (idle.user + idle.system - cpu.user - cpu.system) * 1000 / seconds
            per_reconcile = await cpu_per_reconcile(manager, keys)
            sent = len(cluster.audit(user=who.user)) - before - len(calls)
    return [
        ("writes at rest", f"{sum(call.is_write for call in calls) * 60 / seconds:.0f} /min", "0"),
        ("CPU at rest", f"{idle_ms:.1f} ms/s", ""),
        ("CPU of a reconcile of an unchanged object", f"{per_reconcile:.0f} µs", ""),
        (f"calls for {GADGETS_AT_REST * ROUNDS} reconciles of unchanged objects", str(sent), "0"),
    ]


async def cpu_per_reconcile(manager: GadgetManager, keys: list[ObjectKey]) -> float:
    took = []
    for _ in range(ROUNDS):
        done = manager.reconciler.reconciles + len(keys)
        began = time.process_time()
        for key in keys:
            manager.controller.enqueue(key)
        while manager.reconciler.reconciles < done:
            await asyncio.sleep(0)
        took.append((time.process_time() - began) * 1e6 / len(keys))
    return median(took)
