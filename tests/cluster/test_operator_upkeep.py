"""Keeping what is there: nothing is written at rest, drift is repaired once, and only what is ours is touched."""

from __future__ import annotations

import asyncio
import signal
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.support.cluster.cluster import Cluster
from tests.support.cluster.kubelet import TestKubelet
from tests.support.cluster.manager import Operator, conditions, operator
from tests.support.cluster.nodes import NodeRow

from flexinfer.api.meta import ObjectKey
from flexinfer.kube.store import DEPLOYMENTS, MODELS, SERVICES, Object
from flexinfer.kube.wiretime import wire_time

LONG = "a-name-that-has-more-characters-than-a-label-can-hold"
WRITES = (
    "patch/models",
    "patch/models/status",
    "patch/services",
    "patch/deployments",
    "create/controllerrevisions",
)
NAMES = (f"{LONG}.{'x' * 20}", f"{LONG}-{'x' * 20}", "3.1-starts.with-a-digit")


async def test_f18_f82_nothing_is_written_at_rest_and_drift_is_repaired_once(cluster: Cluster):
    """No pod has to run for it. What a user writes beside our fields stays."""
    async with operator(cluster) as manager:
        for name in ("one", "two", "three"):
            await manager.apply(name, serviceLabels=["chat"], litellm={"aliases": ["a-" + name]})
        for name in ("one", "two", "three"):
            await manager.phase(name, "Idle")
        await manager.quiet()
        # For each Model its finalizer, its status, a Service, a Deployment and a revision, and no call twice.
        expected = dict.fromkeys(WRITES, 3)
        assert {write: manager.writes().count(write) for write in set(manager.writes())} == expected
        await drift(cluster, manager)
        before = len(manager.writes())
        await asyncio.sleep(4)
        assert manager.writes()[before:] == []
        assert {call.verb for call in manager.calls()[-3:]} <= {"watch", "list", "get", "patch"}


async def drift(cluster: Cluster, manager: Operator) -> None:
    key = ObjectKey(manager.namespace, "one")
    before = len(manager.writes())
    changed: Object = {
        "metadata": {"labels": {"flexinfer.ai/model": "other"}, "annotations": {"theirs": "kept"}},
        "spec": {"replicas": 3},
    }
    await cluster.admin.patch(DEPLOYMENTS, key, changed, field_manager="user")
    await cluster.admin.patch(SERVICES, key, {"spec": {"selector": {"flexinfer.ai/model": "other"}}})
    await manager.until(lambda: len(manager.writes()) >= before + 2, "the drift was not repaired")
    await manager.quiet()
    there = await cluster.admin.get(DEPLOYMENTS, key)
    assert (there["spec"]["replicas"], there["metadata"]["labels"]["flexinfer.ai/model"]) == (0, "one")
    assert there["metadata"]["annotations"]["theirs"] == "kept"
    assert (await cluster.admin.get(SERVICES, key))["spec"]["selector"] == {"flexinfer.ai/model": "one"}
    assert sorted(manager.writes()[before:]) == ["patch/deployments", "patch/services"]


async def test_f13_what_belongs_to_others_is_left_alone_and_a_name_can_be_used_again(cluster: Cluster):
    async with operator(cluster) as manager:
        theirs: Object = {
            "metadata": {"name": "taken", "namespace": manager.namespace},
            "spec": {
                "replicas": 0,
                "selector": {"matchLabels": {"app": "theirs"}},
                "template": {
                    "metadata": {"labels": {"app": "theirs"}},
                    "spec": {"containers": [{"name": "c", "image": "theirs:1"}]},
                },
            },
        }
        made = await cluster.admin.create(DEPLOYMENTS, theirs)
        await manager.apply("taken")
        model = await manager.phase("taken", "Failed")
        assert conditions(model)["Ready"][1:] == (
            "NameTaken",
            "Deployment taken was not made by FlexInfer: rename the Model, or delete that Deployment",
        )
        there = await cluster.admin.get(DEPLOYMENTS, ObjectKey(manager.namespace, "taken"))
        assert made["metadata"]["uid"] == there["metadata"]["uid"]
        assert "flexinfer-manager" not in {one["manager"] for one in there["metadata"]["managedFields"]}
        await again(cluster, manager)


async def again(cluster: Cluster, manager: Operator) -> None:
    """Deleted and made anew at once, while the children of the first are still there."""
    key = ObjectKey(manager.namespace, "again")
    await manager.apply("again")
    await manager.phase("again", "Idle")
    first = (await cluster.admin.get(DEPLOYMENTS, key))["metadata"]["uid"]
    await cluster.admin.delete(MODELS, key)
    await manager.gone("again")
    new = (await manager.apply("again"))["metadata"]["uid"]

    async def owned_anew() -> bool:
        found = await cluster.kubectl(
            "get", "deployment", "again", "-n", manager.namespace, "--ignore-not-found",
            "-o", "jsonpath={.metadata.uid} {.metadata.ownerReferences[*].uid}",
        )  # fmt: skip
        return found.split()[1:] == [new] and found.split()[0] != first

    async with asyncio.timeout(80):
        while not await owned_anew():
            await asyncio.sleep(0.3)


async def test_fr_041_names_of_any_length_and_kind_make_children_that_the_api_server_takes(cluster: Cluster):
    """Dots, digits in front and 73 characters; a source with a revision of slashes."""
    async with operator(cluster) as manager:
        for name in NAMES:
            await manager.apply(name, litellm={"servedModelName": "acme/tiny:v2"})
        for name in NAMES:
            model = await manager.phase(name, "Idle")
            assert len(model["status"]["selector"].partition("=")[2]) <= 63
        left = await manager.left()
        assert len([one for one in left if one.startswith("deployment")]) == len(NAMES)
        found = await cluster.rest.get(f"/api/v1/namespaces/{manager.namespace}/services")
        told = {one["metadata"]["annotations"]["flexinfer.ai/model"] for one in found["items"]}
        assert told == set(NAMES)
        assert all(len(value) <= 63 for one in found["items"] for value in one["metadata"]["labels"].values())


async def test_fr_038_after_a_restart_idle_models_fall_asleep_and_those_in_use_do_not(
    cluster: Cluster, kubelet: TestKubelet
):
    """Idleness is computed from the objects; with all of it standing, a restart writes nothing that differs."""
    short: dict[str, Any] = {"serverless": {"idleTimeout": "6s"}}
    await cluster.nodes([NodeRow("plain")])
    async with operator(cluster) as manager:
        for name in ("idle", "used"):
            await manager.apply(name, **short)
            await manager.phase(name, "Idle")
            await manager.ask(name, wire_time(datetime.now(UTC)))
        for name in ("idle", "used"):
            await manager.phase(name, "Ready")
        await manager.ask("used", wire_time(datetime.now(UTC) + timedelta(seconds=60)))
        assert await manager.end(signal.SIGTERM) == 0
        before = {name: (await generation(manager, name)) for name in ("idle", "used")}
        await manager.start()
        falling = await manager.until_model("idle", lambda model: conditions(model)["Ready"][1] == "ScalingDown")
        assert falling["status"]["phase"] == "Ready"
        await manager.phase("idle", "Idle")
        assert (await manager.model("used"))["status"]["phase"] == "Ready"
        after = {name: (await generation(manager, name)) for name in ("idle", "used")}
        assert after == {"idle": before["idle"] + 1, "used": before["used"]}


async def generation(manager: Operator, name: str) -> int:
    found = await manager.cluster.admin.get(DEPLOYMENTS, ObjectKey(manager.namespace, name))
    return int(found["metadata"]["generation"])
