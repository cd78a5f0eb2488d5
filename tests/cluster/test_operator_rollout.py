"""A changed spec on a real control plane: who serves meanwhile, who gets the one GPU, and who comes back."""

from __future__ import annotations

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE
from typing import Any

from tests.support.cluster.cluster import Cluster
from tests.support.cluster.kubelet import TestKubelet
from tests.support.cluster.manager import Operator, conditions, operator
from tests.support.cluster.nodes import NodeRow
from tests.support.cluster.proxies import LIMIT_S, RIGHTS, proxy
from tests.support.following import following
from tests.support.waiting import until

from flexinfer.kube.store import CONTROLLER_REVISIONS, PODS, Object, Selection

PINNED: dict[str, Any] = {"serverless": {"minReplicas": 1}}
ON_A_GPU: dict[str, Any] = {
    "serverless": {"minReplicas": 1, "coldStartTimeout": "60s"},
    "gpu": {"vendor": "nvidia"},
}
CRASHES: dict[str, Any] = {"exitAfterSeconds": 0.2, "exitCode": 3}


def slots(pod: Object) -> str:
    """What tells the revisions of these tests apart."""
    args = pod["spec"]["containers"][0]["args"]
    return args[args.index("--slots") + 1] if "--slots" in args else ""


async def pods(manager: Operator) -> list[Object]:
    selection = Selection(manager.namespace, {"flexinfer.ai/model": "m"})
    return (await manager.cluster.admin.list(PODS, selection)).items


async def serving(manager: Operator) -> list[str]:
    """The revisions of the pods that are Ready and not going."""
    return sorted(
        slots(pod)
        for pod in await pods(manager)
        if "deletionTimestamp" not in pod["metadata"]
        and any(one["type"] == "Ready" and one["status"] == "True" for one in pod["status"].get("conditions") or ())
    )


async def rolled_out(manager: Operator, reason: str, generation: int | None = None) -> tuple[Object, str]:
    """The Model once RolledOut has the reason, and the message."""

    def reached(model: Object) -> bool:
        status = model.get("status") or {}
        told = conditions(model).get("RolledOut") if status else None
        fresh = status.get("observedGeneration") == model["metadata"]["generation"]
        return told is not None and told[1] == reason and fresh

    model = await manager.until_model("m", reached, 60)
    return model, conditions(model)["RolledOut"][2]


async def test_with_room_for_both_the_old_pod_serves_until_the_new_one_does(cluster: Cluster, kubelet: TestKubelet):
    await cluster.nodes([NodeRow("plain")])
    async with operator(cluster) as manager:
        await manager.apply("m", **PINNED, config={"slots": 1})
        await manager.phase("m", "Ready")
        await manager.apply("m", **PINNED, config={"slots": 2, "loadSeconds": 2})
        seen = []
        while (now := await serving(manager)) != ["2"]:
            seen.append(now)
            assert (await manager.model("m"))["status"]["phase"] == "Ready"
            assert len(seen) < 600, manager.log()[-4000:]
            await asyncio.sleep(0.1)
        assert [] not in seen
        _, told = await rolled_out(manager, "RolledOut")
        assert told.startswith("revision 2 (")
        await a_hopeless_revision_hurts_nobody(manager)
        await undone_by_hand(manager)
        await manager.quiet()
        found = await cluster.admin.list(CONTROLLER_REVISIONS, Selection(manager.namespace))
        assert sorted(one["revision"] for one in found.items) == [1, 3, 4]


async def a_hopeless_revision_hurts_nobody(manager: Operator) -> None:
    [before] = [pod["metadata"]["name"] for pod in await pods(manager) if "deletionTimestamp" not in pod["metadata"]]
    asked = await manager.apply("m", **PINNED, config={"slots": 3, **CRASHES})
    model, told = await rolled_out(manager, "WentBack")
    assert "revision 2 (" in told
    assert "serves; revision 3 (" in told
    assert "failed and is not tried again until the spec changes: CrashLoopBackOff: the engine ended" in told
    assert model["spec"] == asked["spec"]
    assert (model["status"]["phase"], await serving(manager)) == ("Ready", ["2"])
    async with asyncio.timeout(40):
        while [pod["metadata"]["name"] for pod in await pods(manager)] != [before]:
            await asyncio.sleep(0.2)


async def rollout(manager: Operator, *args: str) -> tuple[int, str, str]:
    """The command as a user of the cluster types it: exit code, output, and what it complained of."""
    where = ("-n", manager.namespace, "--kubeconfig", str(manager.cluster.admin_kubeconfig))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "flexinfer", "rollout", *args, *where), stdout=PIPE, stderr=PIPE
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def undone_by_hand(manager: Operator) -> None:
    code, said, _ = await rollout(manager, "status", "m")
    assert (code, "was taken back" in said or "is not tried again" in said) == (1, True)
    _, listed, _ = await rollout(manager, "history", "m")
    rows = [line.split() for line in listed.splitlines()]
    assert [(row[0], row[3:]) for row in rows[1:]] == [
        ("1", []),
        ("2", ["serves", "config.loadSeconds,", "config.slots"]),
        ("3", ["spec", "config.exitAfterSeconds,", "config.exitCode,", "config.loadSeconds,", "config.slots"]),
    ]
    before = [pod["metadata"]["name"] for pod in await pods(manager)]
    assert await rollout(manager, "undo", "m") == (0, "model/m has the spec of revision 2 again\n", "")
    code, said, _ = await rollout(manager, "status", "m", "--timeout", "40")
    assert (code, said.splitlines()[-1].startswith("revision 4 (")) == (0, True)
    assert [pod["metadata"]["name"] for pod in await pods(manager)] == before
    assert (await manager.model("m"))["spec"]["config"] == {"slots": 2, "loadSeconds": 2}
    code, _, said = await rollout(manager, "undo", "m", "--to-revision", "7")
    assert (code, said) == (1, "error: model/m has no revision 7; there are 1, 3, 4\n")


async def test_fr_039_one_gpu_changes_hands_and_an_upgrade_of_the_manager_touches_nothing(
    cluster: Cluster, kubelet: TestKubelet
):
    """Under load: what is open ends first, what comes meanwhile waits for the new engine, or for the old one again."""
    await cluster.nodes([NodeRow("gpu", card="l4")])
    async with operator(cluster) as manager:
        await manager.apply("m", **ON_A_GPU, config={"slots": 8})
        await manager.phase("m", "Ready")
        who = await cluster.identity("proxy", namespace=manager.namespace, rules=RIGHTS)
        async with proxy(who, "--namespace", manager.namespace, "--no-access-log") as one:
            await one.until_ready()
            async with following([one], "m") as load:
                await until(load.more(20), LIMIT_S)
                await an_upgrade_touches_nothing(manager)
                await until(load.more(20), LIMIT_S)
                await manager.apply("m", **ON_A_GPU, config={"slots": 9})
                await rolled_out(manager, "RolledOut")
                await until(load.more(20), LIMIT_S)
                await the_gpu_comes_back(manager)
                await until(load.more(20), LIMIT_S)
            assert load.lost == []
        await manager.apply("m", **ON_A_GPU, config={"slots": 11})
        _, told = await rolled_out(manager, "RolledOut")
        assert (told.split(" (")[0], await serving(manager)) == ("revision 4", ["11"])


async def an_upgrade_touches_nothing(manager: Operator) -> None:
    """Another default of the installation shows in the pods of the next revision."""
    [pod] = await pods(manager)
    await manager.end(signal.SIGKILL)
    manager.env["DEFAULT_SHM_SIZE_LIMIT"] = "1Gi"
    await manager.start()
    await manager.quiet()
    assert [one["metadata"]["uid"] for one in await pods(manager)] == [pod["metadata"]["uid"]]


async def the_gpu_comes_back(manager: Operator) -> None:
    """Also over the death of the manager; and the failed one is not tried again by the next."""
    [pod] = await pods(manager)
    [shm] = [one for one in pod["spec"]["volumes"] if one["name"] == "shm"]
    assert shm["emptyDir"]["sizeLimit"] == "1Gi"
    await manager.apply("m", **ON_A_GPU, config={"slots": 10}, image="registry.test/nobody/none:1")
    _, told = await rolled_out(manager, "WentBack")
    assert "ImagePullBackOff" in told
    await manager.end(signal.SIGKILL)
    await manager.start()
    await manager.until_model("m", lambda model: model["status"]["phase"] == "Ready", 60)
    await manager.quiet()
    assert await serving(manager) == ["9"]
    assert {slots(pod) for pod in await pods(manager)} == {"9"}
