"""Granted = used: what an installation does needs every right that the chart gives, and no other.

One installation lives through what Models go through. Then its roles are compared with the audit log, the diagram
of AGENTS.md is held against it, and a right is taken away and given back.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.support.cluster.audit import Entry
from tests.support.cluster.cluster import Cluster
from tests.support.cluster.controlplane import BRIDGE
from tests.support.cluster.installation import COMPONENTS, NAMESPACE, Installation
from tests.support.cluster.kubelet import TestKubelet
from tests.support.cluster.nodes import NodeRow
from tests.support.helm import ROOT
from tests.support.ollama_files import write_model
from tests.support.served_folder import served
from tests.support.waiting import until

from flexinfer.api.meta import ObjectKey
from flexinfer.errors import NotFound
from flexinfer.kube.store import JOBS, MODEL_DEPLOYMENTS, MODELS, PERSISTENT_VOLUME_CLAIMS, Object, Selection

LIMIT_S = 40.0
TEAM = "default"
PINNED, POET = ObjectKey(TEAM, "pinned"), ObjectKey(TEAM, "poet")

UNSEEN: dict[str, dict[str, str]] = {
    "manager": {
        "get controllerrevisions.apps": "a manager that starts in the middle of a rollout reads the old pods' template",
        "patch controllerrevisions.apps": "a spec that comes back gets the newest number again",
        "delete controllerrevisions.apps": "the oldest of more than ten goes",
        "delete deployments.apps": "of a Model that no node can run any more",
        "delete networkpolicies.networking.k8s.io": "of a Model that no node can run any more",
        "get pods/log": "a load of more than ten seconds is followed in its engine's log",
        "delete pods": "what a node has ended goes after five minutes",
        "patch events.events.k8s.io": "what happens again is counted, ten seconds after the first time",
    },
    "proxy": {"get models.ai.flexinfer": "a Model whose last use was written by somebody else meanwhile is read again"},
}
"""Rights that this test may not see used, each with what uses it."""


@pytest.fixture
async def kubelet(own_cluster: Cluster) -> AsyncIterator[TestKubelet]:
    async with TestKubelet(own_cluster) as one:
        yield one


class Life:
    """The Models of the test."""

    def __init__(self, installed: Installation, key: str) -> None:
        self.installed = installed
        self.admin = installed.cluster.admin
        self.headers = {"Authorization": f"Bearer {key}"}

    async def until(self, what: Callable[[], Any], about: ObjectKey) -> None:
        try:
            await until(what, LIMIT_S, every_s=0.1)
        except AssertionError as error:
            raise AssertionError(await self.installed.story(about.namespace, about.name)) from error

    async def phase(self, key: ObjectKey, phase: str) -> None:
        async def reached() -> bool:
            try:
                model = await self.admin.get(MODELS, key)
            except NotFound:
                return False
            status = model.get("status") or {}
            return (status.get("phase"), status.get("observedGeneration")) == (phase, model["metadata"]["generation"])

        await self.until(reached, key)

    async def ask(self, model: str) -> None:
        body = {"model": model, "messages": [{"role": "user", "content": "Hello"}]}
        url = f"{await self.installed.api()}/v1/chat/completions"
        async with aiohttp.ClientSession(headers=self.headers) as client, client.post(url, json=body) as answer:
            assert answer.status == 200, await answer.text()


def deployment() -> Object:
    """Kept warm; its bytes come from the registry, so that there is a claim and a Job."""
    spec = {"backend": "ollama", "model": "llama3:8b", "minReplicas": 1}
    return {"metadata": {"name": PINNED.name, "namespace": TEAM}, "spec": spec}


def sleeper() -> Object:
    spec = {"backend": "simulator", "source": "file:///models/none", "serverless": {"idleTimeout": "3s"}}
    return {"metadata": {"name": POET.name, "namespace": TEAM}, "spec": spec}


async def test_fr_055_an_installation_uses_what_it_may_and_says_what_it_lacks(
    own_cluster: Cluster, kubelet: TestKubelet, tmp_path: Path
):
    write_model(tmp_path / "registry", "library/llama3", "8b")
    await own_cluster.nodes([NodeRow("plain", count=2)])
    with served(tmp_path / "registry", BRIDGE) as registry:
        values = {"models": {"downloadEnv": {"FLEXINFER_OLLAMA_REGISTRY": registry}}}
        async with Installation(own_cluster, kubelet, tmp_path, values) as installed:
            life = Life(installed, await installed.key())
            await own_cluster.admin.create(MODEL_DEPLOYMENTS, deployment())
            await own_cluster.admin.create(MODELS, sleeper())
            await life.phase(PINNED, "Ready")
            await sleeps_wakes_and_changes(life)
            await becomes_another_model(life)
            await goes(life)
            for component in COMPONENTS:
                assert installed.refused(component) == []
                unused = {str(right) for right in await installed.unused(component)}
                granted = {str(right) for right in await installed.granted(component)}
                assert unused - UNSEEN[component].keys() == set()
                assert UNSEEN[component].keys() - granted == set()
            follow_the_diagram(installed)
            await a_right_is_taken_and_given_back(life)


async def sleeps_wakes_and_changes(life: Life) -> None:
    await life.phase(POET, "Idle")
    await life.ask(POET.name)
    await life.phase(POET, "Ready")
    await life.admin.patch(MODELS, POET, {"spec": {"config": {"slots": 2}}}, field_manager="user")
    await life.phase(POET, "Idle")
    await life.ask(POET.name)
    await life.phase(POET, "Ready")


async def becomes_another_model(life: Life) -> None:
    """What was fetched for it goes with its last user."""
    await life.admin.patch(MODEL_DEPLOYMENTS, PINNED, {"spec": {"idleTimeoutSeconds": 100}}, field_manager="user")
    change = {"spec": {"backend": "simulator", "model": "file:///models/none"}}
    await life.admin.patch(MODEL_DEPLOYMENTS, PINNED, change, field_manager="user")
    await life.phase(PINNED, "Ready")

    async def no_claims() -> bool:
        return (await life.admin.list(PERSISTENT_VOLUME_CLAIMS, Selection(TEAM))).items == []

    await life.until(no_claims, PINNED)


async def goes(life: Life) -> None:
    await life.admin.delete(MODEL_DEPLOYMENTS, PINNED)
    await life.admin.delete(MODELS, POET)

    async def nothing() -> bool:
        kinds = (MODEL_DEPLOYMENTS, MODELS, JOBS)
        return all([(await life.admin.list(kind, Selection(TEAM))).items == [] for kind in kinds])

    await life.until(nothing, POET)


def follow_the_diagram(installed: Installation) -> None:
    """Each message to the API server in the diagram of AGENTS.md is in the audit log, one after the other."""
    users = {
        "User": "admin",
        "Manager": installed.user("manager"),
        "Scheduler": "system:kube-scheduler",
        "Pods": "test-kubelet",
        "Proxy": installed.user("proxy"),
    }
    diagram = (ROOT / "AGENTS.md").read_text().split("```mermaid\nsequenceDiagram")[1].split("```")[0]
    messages = re.findall(r"(\w+)->>API: (\w+) (\S+)", diagram)
    assert len(messages) > 6
    calls = iter(installed.cluster.audit(stage="ResponseComplete"))
    for who, verb, resource in messages:
        assert any(_is(call, users[who], verb, resource) for call in calls), f"{who}: {verb} {resource} comes no more"


def _is(call: Entry, user: str, verb: str, resource: str) -> bool:
    written = "create" if call.verb == "patch" and call.code == 201 else call.verb
    name = f"{call.resource}/{call.subresource}" if call.subresource else call.resource
    return (call.user, written, name) == (user, verb, resource) and call.code < 400


async def a_right_is_taken_and_given_back(life: Life) -> None:
    """The manager stays up, says what it lacks in readiness and metrics, and recovers."""
    installed = life.installed
    path = f"/apis/rbac.authorization.k8s.io/v1/clusterroles/{NAMESPACE}:flexinfer-manager"
    role = await life.installed.cluster.rest.get(path)
    nodes = next(rule for rule in role["rules"] if rule["resources"] == ["nodes"])
    await _put(life, path, [rule for rule in role["rules"] if rule is not nodes])
    before = [pod["metadata"]["name"] for pod in await installed.pods("manager")]
    await installed.restart("manager", wait=False)

    async def new_ones() -> list[dict[str, Any]]:
        return [
            pod
            for pod in await installed.pods("manager")
            if pod["metadata"]["name"] not in before and pod["status"].get("podIP")
        ]

    account = installed.user("manager")
    said: dict[str, str] = {}

    async def told() -> bool:
        for pod in await new_ones():
            said["readyz"] = await _text(f"http://{pod['status']['podIP']}:8081/readyz")
            said["metrics"] = await _text(f"http://{pod['status']['podIP']}:8080/metrics")
        return f'User "{account}" cannot list resource "nodes"' in said.get("readyz", "") or (
            f'User "{account}" cannot watch resource "nodes"' in said.get("readyz", "")
        )

    await life.until(told, POET)
    labels = re.findall(r"flexinfer_missing_right\{(.*)\} 1", said["metrics"])
    assert [label for label in labels if f'resource="nodes",account="{account}"' in label]
    for pod in await new_ones():
        assert [one["restartCount"] for one in pod["status"]["containerStatuses"]] == [0]
    await _put(life, path, role["rules"])
    await installed.until_ready()


async def _put(life: Life, path: str, rules: list[dict[str, Any]]) -> None:
    merge = "application/merge-patch+json"
    await life.installed.cluster.rest.call("PATCH", path, {"rules": rules}, content_type=merge)


async def _text(url: str) -> str:
    try:
        async with aiohttp.ClientSession() as client, client.get(url) as answer:
            return await answer.text()
    except aiohttp.ClientError:
        return ""


@pytest.mark.soak
async def test_fr_055_each_right_that_a_start_needs_is_taken_and_given_back(
    own_cluster: Cluster, kubelet: TestKubelet, tmp_path: Path
):
    """Every watch of the manager, one after the other; the kind is named each time."""
    await own_cluster.nodes([NodeRow("plain", count=2)])
    async with Installation(own_cluster, kubelet, tmp_path) as installed:
        life = Life(installed, await installed.key())
        for suffix in ("", "-models"):
            path = f"/apis/rbac.authorization.k8s.io/v1/clusterroles/{NAMESPACE}:flexinfer-manager{suffix}"
            role = await own_cluster.rest.get(path)
            for rule in role["rules"]:
                for resource in rule["resources"] if "watch" in rule["verbs"] else ():
                    if (resource, suffix) == ("endpointslices", "-models"):
                        # The role of its own namespace has it too.
                        continue
                    await _taken_and_given_back(life, path, role["rules"], rule, resource)


async def _taken_and_given_back(
    life: Life, path: str, rules: list[dict[str, Any]], rule: dict[str, Any], resource: str
) -> None:
    others = [one for one in rule["resources"] if one != resource]
    left = [one for one in rules if one is not rule] + ([{**rule, "resources": others}] if others else [])
    await _put(life, path, left)
    await life.installed.restart("manager", wait=False)

    async def told() -> bool:
        pods = await life.installed.pods("manager")
        answers = [await _text(f"http://{pod['status'].get('podIP')}:8081/readyz") for pod in pods]
        return any(f'resource "{resource}"' in answer for answer in answers)

    await life.until(told, POET)
    await _put(life, path, rules)
    await life.installed.until_ready()
