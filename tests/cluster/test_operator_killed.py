"""F08: the manager killed after any of its writes; who comes next ends in the same state, with nothing twice."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.cluster.test_operator_faults import PINNED
from tests.support.background import ended
from tests.support.cluster.clients import client
from tests.support.cluster.cluster import Cluster
from tests.support.cluster.kubelet import TestKubelet
from tests.support.cluster.manager import IMAGE, Operator, conditions, operator
from tests.support.cluster.nodes import NodeRow
from tests.support.interposed_store import InterposedWrites, Write, pass_on

from flexinfer.cli.managerprocess import REGISTRY, Manager, ManagerOptions
from flexinfer.kube.store import ObjectStore
from flexinfer.resources.installation import Installation

FIXED = 8
"""How many of the writes of a life are tried in a plain run, spread over all of it."""
Supervise = Callable[[ObjectStore, str], Awaitable[None]]


async def undisturbed(store: ObjectStore, namespace: str) -> None:
    installation = Installation(namespace=namespace, watch_namespaces=(namespace,), image=IMAGE)
    options = ManagerOptions(
        controllers=tuple(name for name, _ in REGISTRY), installation=installation, leader_elect=False
    )
    await Manager(options, store).run(asyncio.Event())


async def life(cluster: Cluster, supervise: Supervise) -> list[Any]:
    """What stands after a Model was made, after its engine was changed, and after it was deleted."""
    async with operator(cluster, running=False) as there, client(there.who.kubeconfig) as store:
        manager = asyncio.create_task(supervise(store, there.namespace))
        try:
            await there.apply("m", **PINNED)
            await ready(there)
            states = [await standing(there)]
            await there.apply("m", config={"slots": 3}, **PINNED)
            await ready(there)
            states.append(await standing(there))
            await cluster.kubectl("delete", "model", "m", "-n", there.namespace, "--wait=false")
            await there.gone("m")
            await there.until_left([])
            return states
        finally:
            await ended(manager)


async def ready(there: Operator) -> None:
    """Its present revision serves, and nothing of an older one runs."""

    def rolled_out(model: dict[str, Any]) -> bool:
        status = model.get("status") or {}
        if (status.get("phase"), status.get("observedGeneration")) != ("Ready", model["metadata"]["generation"]):
            return False
        return conditions(model).get("RolledOut", ("", "", ""))[0] == "True" and status["replicas"] == 1

    await there.until_model("m", rolled_out, within_s=90)


async def standing(there: Operator) -> Any:
    """By names that are the same in every place, without what differs by the hour."""
    model = await there.model("m")
    kinds = "deployments,services,controllerrevisions,networkpolicies"
    found = json.loads(await there.cluster.kubectl("get", kinds, "-n", there.namespace, "-o", "json"))
    objects = [
        (one["kind"], one["metadata"]["name"], one.get("spec", {}).get("template"), one.get("revision"))
        for one in found["items"]
    ]
    told = {kind: said[:2] for kind, said in conditions(model).items()}
    text = json.dumps([model["metadata"]["finalizers"], told, model["status"]["message"], sorted(objects, key=str)])
    return json.loads(text.replace(there.namespace, "NAMESPACE"))


async def test_f08_killed_after_one_of_its_writes_it_ends_in_the_same_state(cluster: Cluster, kubelet: TestKubelet):
    """At eight of them, spread over its life; `make soak` takes every one."""
    await killed(cluster, FIXED)


@pytest.mark.soak
async def test_f08_killed_after_each_of_its_writes(cluster: Cluster, kubelet: TestKubelet):
    await killed(cluster, None)


async def killed(cluster: Cluster, trials: int | None) -> None:
    await cluster.nodes([NodeRow("plain", count=2)])
    counted: list[str] = []

    async def counting(store: ObjectStore, namespace: str) -> None:
        interposed = InterposedWrites(store, pass_on)
        interposed.written = counted
        await undisturbed(interposed, namespace)  # type: ignore[arg-type]

    expected = await life(cluster, counting)
    assert Counter(write.split()[0] for write in counted)["delete"] == 0
    last = len(counted)
    numbers = (
        range(1, last + 1)
        if trials is None
        else sorted({round(1 + n * (last - 1) / (trials - 1)) for n in range(trials)})
    )

    def killed_after(number: int) -> Callable[[], Awaitable[list[Any]]]:
        async def supervise(store: ObjectStore, namespace: str) -> None:
            died = asyncio.Event()

            async def around(write: Write) -> Any:
                answer = await write.send()
                if write.number == number:
                    died.set()
                if died.is_set():
                    # A process that is gone hears no answer, and begins nothing more.
                    await asyncio.Event().wait()
                return answer

            first = asyncio.create_task(undisturbed(InterposedWrites(store, around), namespace))  # type: ignore[arg-type]
            await died.wait()
            await ended(first)
            await undisturbed(store, namespace)

        return lambda: life(cluster, supervise)

    async with asyncio.TaskGroup() as group:
        runs = {number: group.create_task(killed_after(number)()) for number in numbers}
    wrong = {number: counted[number - 1] for number, run in runs.items() if run.result() != expected}
    assert wrong == {}
