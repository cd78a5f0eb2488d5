"""The manager with thousands of Models on a real API server: writes, memory, how fast a change is applied."""

from __future__ import annotations

import asyncio
import random
import subprocess
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from tests.support.cluster.cluster import Cluster
from tests.support.cluster.controlplane import ControlPlane, Settings
from tests.support.cluster.manager import Operator, operator

from benchmarks.table import Table, percentile
from flexinfer.api.meta import ObjectKey
from flexinfer.api.wellknown import ANNOTATION_TEMPLATE
from flexinfer.kube.store import CONFIG_MAPS, DEPLOYMENTS, MODELS, Object, Selection

MODELS_AT_ONCE = 1000
MODELS_AT_MOST = 5000
IN_FLIGHT = 16
"""Calls that the user who applies the Models has open at once."""
WRITES_OF_ONE = 5
"""The least for a Model that sleeps: its finalizer, a Service, a Deployment, a revision, a status."""
CHANGES = 100
WITHIN_S = 900.0
_BUILD = Path(__file__).parent.parent / "hack" / "cluster-tools.sh"


def main(seconds: float = 60.0) -> Table:
    tools = Path(subprocess.check_output([_BUILD], text=True).splitlines()[-1])
    with ControlPlane(tools, Settings(address="127.0.0.1")) as plane:
        rows = asyncio.run(measured(plane, seconds))
    return Table(
        title="Manager with thousands of Models",
        command="python -m benchmarks manager",
        columns=("figure", "value", "aim"),
        rows=rows,
        notes=[
            f"Models of the simulator that sleep; {MODELS_AT_ONCE} applied at once, then up to {MODELS_AT_MOST}.",
            f"The least for each is {WRITES_OF_ONE} writes: finalizer, Service, Deployment, revision, status.",
            f"The floor: as many writes of small ConfigMaps, {IN_FLIGHT} at once, with no manager.",
            f"Changes: `config` of {CHANGES} Models one by one, until the Deployment is seen changed.",
            f"At rest: {seconds:.0f} s, by the audit log, the API server's own leases aside.",
        ],
    )


async def measured(plane: ControlPlane, seconds: float) -> list[Sequence[str]]:
    async with Cluster(plane) as cluster:
        async with cluster.namespace() as namespace:
            floor_s = await floor(cluster, namespace)
        async with operator(cluster) as manager:
            began = time.monotonic()
            await apply(manager, range(MODELS_AT_ONCE))
            await until_told(manager, MODELS_AT_ONCE)
            took_s = time.monotonic() - began
            await manager.quiet(for_s=5.0)
            writes = Counter(manager.writes())
            resident_1000 = manager.resident_mib()
            changes_s = await changes(manager)
            await manager.quiet(for_s=5.0)
            before = len(manager.writes())
            await asyncio.sleep(seconds)
            at_rest = len(manager.writes()) - before
            await apply(manager, range(MODELS_AT_ONCE, MODELS_AT_MOST))
            await until_told(manager, MODELS_AT_MOST)
            resident_5000 = manager.resident_mib()
    return [
        (
            f"writes per Model, {MODELS_AT_ONCE} at once",
            f"{sum(writes.values()) / MODELS_AT_ONCE:.2f} ({', '.join(f'{n} {what}' for what, n in writes.items())})",
            f"{WRITES_OF_ONE}",
        ),
        (
            f"time for {MODELS_AT_ONCE} Models, as a ratio to the floor",
            f"{took_s / floor_s:.2f} ({took_s:.1f} s; floor {floor_s:.1f} s)",
            "",
        ),
        ("resident memory, 1,000 Models", f"{resident_1000:.0f} MiB", "≤ 200 MB"),
        ("resident memory, 5,000 Models", f"{resident_5000:.0f} MiB", "≤ 600 MB"),
        (
            f"a Model's change → Deployment applied, with {MODELS_AT_ONCE - 1} others, p50 / p99",
            f"{percentile(changes_s, 0.5) * 1000:.0f} / {percentile(changes_s, 0.99) * 1000:.0f} ms",
            "p99 ≤ 200 ms",
        ),
        ("writes at rest", f"{at_rest * 60 / seconds:.0f} /min", "0"),
    ]


async def floor(cluster: Cluster, namespace: str) -> float:
    async def write(number: int) -> None:
        body = {"metadata": {"name": f"c{number}", "namespace": namespace}, "data": {"a": "b" * 500}}
        await cluster.admin.create(CONFIG_MAPS, body)

    began = time.monotonic()
    # What the user applies counts too.
    await at_once(write, range(MODELS_AT_ONCE * (WRITES_OF_ONE + 1)))
    return time.monotonic() - began


async def apply(manager: Operator, numbers: range) -> None:
    async def one(number: int) -> None:
        await manager.apply(f"m{number}", config={"slots": 1})

    await at_once(one, numbers)


async def at_once(work: Callable[[int], Awaitable[None]], numbers: range) -> None:
    left = iter(numbers)

    async def worker() -> None:
        for number in left:
            await work(number)

    await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))


async def until_told(manager: Operator, count: int) -> None:
    """Until every Model has a phase and a Deployment."""
    selection = Selection(manager.namespace)
    deadline = time.monotonic() + WITHIN_S
    while True:
        assert time.monotonic() < deadline, manager.log()[-2000:]
        models = (await manager.cluster.admin.list(MODELS, selection)).items
        told = sum((model.get("status") or {}).get("phase") == "Idle" for model in models)
        made = len((await manager.cluster.admin.list(DEPLOYMENTS, selection)).items)
        if told == made == count:
            return
        # Each look reads everything there is, from the same API server.
        await asyncio.sleep(2)


async def changes(manager: Operator) -> list[float]:
    """Seconds, one for each change."""
    took = []
    for number in random.Random(1).sample(range(MODELS_AT_ONCE), CHANGES):
        key = ObjectKey(manager.namespace, f"m{number}")
        before = await template(manager, key)
        await manager.apply(key.name, config={"slots": 2})
        began = time.monotonic()
        while await template(manager, key) == before:
            assert time.monotonic() < began + WITHIN_S, manager.log()[-2000:]
        took.append(time.monotonic() - began)
    return took


async def template(manager: Operator, key: ObjectKey) -> str:
    found: Object = await manager.cluster.admin.get(DEPLOYMENTS, key)
    return str(found["spec"]["template"]["metadata"]["annotations"][ANNOTATION_TEMPLATE])
