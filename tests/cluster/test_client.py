"""Our client on a real API server: as whom it asks, lists of thousands, pods, evictions, tokens, scales."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from tests.support.cluster.cluster import Cluster
from tests.support.cluster.controlplane import streams_lists
from tests.support.cluster.identity import rule
from tests.support.waiting import until

from flexinfer.api.meta import ObjectKey
from flexinfer.errors import NotFound, StoreError, Unauthorized
from flexinfer.kube import config
from flexinfer.kube.access import Access, Material, User
from flexinfer.kube.store import (
    CONFIG_MAPS,
    DEPLOYMENTS,
    PODS,
    REPLICA_SETS,
    SERVICE_ACCOUNTS,
    Deletion,
    Object,
    ObjectStore,
    Resource,
    Selection,
)

SELF_SUBJECT_REVIEWS = Resource(
    "authentication.k8s.io", "v1", "selfsubjectreviews", "SelfSubjectReview", namespaced=False
)
DISRUPTION_BUDGETS = Resource("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget")
ADMIN = "system:serviceaccount:default:reader"


@pytest.fixture
async def ns(cluster: Cluster) -> AsyncIterator[str]:
    async with cluster.namespace() as one:
        yield one


async def who(store: ObjectStore) -> str:
    review = await store.create(SELF_SUBJECT_REVIEWS, {"metadata": {}})
    return str(review["status"]["userInfo"]["username"])


def kubeconfig(cluster: Cluster, folder: Path, user: dict[str, Any], **fields: Any) -> Path:
    named = {"server": cluster.url, "certificate-authority": str(cluster.ca_file), **fields}
    written = {
        "clusters": [{"name": "c", "cluster": named}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    path = folder / "kubeconfig"
    path.write_text(json.dumps(written))
    return path


# As whom


async def test_every_way_to_say_who_asks(cluster, tmp_path):
    reader = await cluster.identity("reader")
    plugin = tmp_path / "login"
    credential = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": {"token": reader.token},
    }
    plugin.write_text(f"#!/bin/sh\ncat <<'END'\n{json.dumps(credential)}\nEND\n")
    plugin.chmod(0o700)
    users = {
        "token": {"token": reader.token},
        "token file": {"tokenFile": str(reader.token_file)},
        "plugin": {
            "exec": {"apiVersion": credential["apiVersion"], "command": "./login", "interactiveMode": "Never"},
        },
        "as another": {"token": cluster.plane.admin_token, "as": ADMIN},
    }
    found = {}
    for name, user in users.items():
        async with config.from_environment(kubeconfig=kubeconfig(cluster, tmp_path, user), env={}) as store:
            found[name] = await who(store)
    assert found == dict.fromkeys(users, ADMIN)
    certificate = cluster.identities.client_certificate("jane", ("team",))
    async with config.from_environment(env={"KUBECONFIG": f"/none:{certificate}"}) as store:
        assert await who(store) == "jane"
    async with config.from_environment(
        kubeconfig=kubeconfig(cluster, tmp_path, {"token": reader.token}, **{"tls-server-name": "api.cluster.test"}),
        env={},
    ) as store:
        assert await who(store) == ADMIN


async def test_a_pod_asks_as_its_account_and_takes_up_the_token_that_the_kubelet_renews(cluster, tmp_path):
    reader = await cluster.identity("reader")
    (tmp_path / "ca.crt").write_bytes(cluster.ca_file.read_bytes())
    (tmp_path / "namespace").write_text("team")
    (tmp_path / "token").write_text("of-yesterday")
    host, _, port = cluster.url.removeprefix("https://").rpartition(":")
    env = {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}
    async with config.connect(config.find(env=env, service_account=tmp_path), env=env) as store:
        assert store.namespace == "team"
        with pytest.raises(Unauthorized):
            await who(store)
        (tmp_path / "token").write_text(reader.token)
        assert await who(store) == ADMIN


async def test_what_an_identity_may_not_do_is_forbidden(cluster, ns):
    reader = await cluster.identity("reader", namespace=ns, rules=[rule("", "configmaps", "get list watch")])
    async with config.from_environment(kubeconfig=reader.kubeconfig, env={}) as store:
        assert await store.list(CONFIG_MAPS, Selection(ns))
        with pytest.raises(StoreError, match="cannot create resource") as raised:
            await store.create(CONFIG_MAPS, {"metadata": {"name": "a", "namespace": ns}})
    assert (raised.value.status, raised.value.reason) == (403, "Forbidden")


async def test_a_server_whose_authority_is_another_is_not_spoken_to(cluster):
    access = Access(server=cluster.url, user=User(token=cluster.plane.admin_token))
    async with config.connect(access, env={}) as store:
        with pytest.raises(OSError, match="certificate verify failed"):
            await who(store)


# Lists


async def test_lists_of_more_than_a_page(cluster, ns):
    at_once = asyncio.Semaphore(16)

    async def create(number: int) -> None:
        async with at_once:
            await cluster.admin.create(CONFIG_MAPS, {"metadata": {"name": f"n{number}", "namespace": ns}})

    async with asyncio.TaskGroup() as tasks:
        for number in range(600):
            tasks.create_task(create(number))
    wanted = {f"n{number}" for number in range(600)}
    reader = await cluster.identity("lister", namespace=ns, rules=[rule("", "configmaps", "get list watch")])
    async with config.from_environment(kubeconfig=reader.kubeconfig, env={}) as store:
        found = await store.list(CONFIG_MAPS, Selection(ns))
        assert {obj["metadata"]["name"] for obj in found.items} >= wanted
        assert len(cluster.audit(user=reader.user, verb="list")) == 2
        names = set()
        async with asyncio.timeout(40), aclosing(store.watch_list(CONFIG_MAPS, Selection(ns))) as events:
            async for event in events:
                if event.is_initial_end:
                    break
                names.add(event.object["metadata"]["name"])
    assert names >= wanted
    # A streaming list is one watch and no list; where there are none, pages are asked for.
    assert "sendInitialEvents=true" in cluster.audit(user=reader.user, verb="watch")[0].uri
    assert len(cluster.audit(user=reader.user, verb="list")) == (2 if streams_lists() else 4)


# Pods


def pod(ns: str, name: str, node: str = "", **labels: str) -> Object:
    spec: Object = {"containers": [{"name": "c", "image": "none"}], "terminationGracePeriodSeconds": 30}
    return {
        "metadata": {"name": name, "namespace": ns, "labels": labels},
        "spec": {**spec, "nodeName": node} if node else spec,
    }


@pytest.fixture
async def pods(cluster: Cluster, ns: str) -> str:
    """A namespace in which pods can be made: their account is there."""

    async def account() -> bool:
        try:
            await cluster.admin.get(SERVICE_ACCOUNTS, ObjectKey(ns, "default"))
        except NotFound:
            return False
        return True

    await until(account, 40, every_s=0.1)
    return ns


async def test_pods_are_selected_by_their_node(cluster, pods):
    store = cluster.admin
    for name, node in (("a", "n1"), ("b", "n2"), ("c", "n1")):
        await store.create(PODS, pod(pods, name, node))
    found = await store.list(PODS, Selection(pods, fields={"spec.nodeName": "n1"}))
    assert [(obj["metadata"]["name"], obj["kind"], obj["apiVersion"]) for obj in found.items] == [
        ("a", "Pod", "v1"),
        ("c", "Pod", "v1"),
    ]


async def test_an_eviction_waits_for_the_disruption_budget(cluster, pods):
    store, key = cluster.admin, ObjectKey(pods, "a")
    await store.create(PODS, pod(pods, "a", "n1", app="x"))
    ready = {"type": "Ready", "status": "True"}
    await store.patch(PODS, key, {"status": {"phase": "Running", "conditions": [ready]}}, subresource="status")
    budget = {
        "metadata": {"name": "b", "namespace": pods},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "x"}}},
    }
    await store.create(DISRUPTION_BUDGETS, budget)
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": "a", "namespace": pods},
        "deleteOptions": {"gracePeriodSeconds": 5},
    }

    async def observed() -> bool:
        found = await store.get(DISRUPTION_BUDGETS, ObjectKey(pods, "b"))
        return found.get("status", {}).get("currentHealthy") == 1

    await until(observed, 40, every_s=0.1)
    with pytest.raises(StoreError, match="disruption budget") as raised:
        await store.post(PODS, key, "eviction", eviction)
    assert raised.value.status == 429
    await store.delete(DISRUPTION_BUDGETS, ObjectKey(pods, "b"))
    await store.post(PODS, key, "eviction", eviction)
    dying = await store.get(PODS, key)
    assert dying["metadata"]["deletionGracePeriodSeconds"] == 5
    await store.delete(PODS, key, how=Deletion(grace_period_s=0))
    with pytest.raises(NotFound):
        await store.get(PODS, key)
    with pytest.raises(NotFound):
        await store.post(PODS, key, "eviction", eviction)


async def test_a_pod_is_bound_to_a_node(cluster, pods):
    store, key = cluster.admin, ObjectKey(pods, "a")
    created = pod(pods, "a")
    created["spec"]["schedulerName"] = "nobody"
    await store.create(PODS, created)
    target = {"apiVersion": "v1", "kind": "Node", "name": "n1"}
    binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "a", "namespace": pods}, "target": target}
    await store.post(PODS, key, "binding", binding)
    assert (await store.get(PODS, key))["spec"]["nodeName"] == "n1"


async def test_a_token_is_requested_for_an_account(cluster, pods):
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 600}}
    answer = await cluster.admin.post(SERVICE_ACCOUNTS, ObjectKey(pods, "default"), "token", request)
    user = User(token=answer["status"]["token"])
    async with config.connect(
        Access(server=cluster.url, ca=Material(file=cluster.ca_file), user=user), env={}
    ) as store:
        assert await who(store) == f"system:serviceaccount:{pods}:default"


# Deployments


def deployment(ns: str) -> Object:
    labels = {"app": "x"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "none"}]}}
    return {
        "metadata": {"name": "d", "namespace": ns},
        "spec": {"replicas": 0, "selector": {"matchLabels": labels}, "template": template},
    }


async def test_a_deployment_is_scaled_by_its_scale_alone(cluster, ns):
    store, key = cluster.admin, ObjectKey(ns, "d")
    await store.create(DEPLOYMENTS, deployment(ns))
    patched = await store.patch(DEPLOYMENTS, key, {"spec": {"replicas": 2}}, subresource="scale")
    assert (patched["kind"], patched["spec"], patched["status"]["selector"]) == ("Scale", {"replicas": 2}, "app=x")
    scale = await store.get(DEPLOYMENTS, key, subresource="scale")
    # Without a version: the Deployment's controller writes at the same time.
    scale["metadata"].pop("resourceVersion")
    replaced = await store.replace(DEPLOYMENTS, {**scale, "spec": {"replicas": 1}}, subresource="scale")
    assert replaced["spec"] == {"replicas": 1}
    assert (await store.get(DEPLOYMENTS, key))["spec"]["replicas"] == 1


@pytest.mark.parametrize(
    ("propagation", "left"),
    [
        pytest.param("Background", False, id="dependents go after it"),
        pytest.param("Foreground", False, id="dependents go before it"),
        pytest.param("Orphan", True, id="dependents stay"),
    ],
)
async def test_what_becomes_of_dependents(cluster, ns, propagation, left):
    store, key = cluster.admin, ObjectKey(ns, "d")
    await store.create(DEPLOYMENTS, deployment(ns))

    async def children() -> list[Object]:
        return (await store.list(REPLICA_SETS, Selection(ns))).items

    await until(children, 40, every_s=0.1)
    # The collector sets free what its own cache has, which is a moment behind; what it has not seen it deletes.
    await asyncio.sleep(1)
    await store.delete(DEPLOYMENTS, key, how=Deletion(propagation))

    async def settled() -> bool:
        try:
            await store.get(DEPLOYMENTS, key)
        except NotFound:
            found = await children()
            return not any(obj["metadata"].get("ownerReferences") for obj in found)
        return False

    await until(settled, 40, every_s=0.1)
    assert bool(await children()) is left


# Errors


async def test_an_object_that_cannot_be_decoded_is_told_by_its_kind_and_field(cluster, ns):
    with pytest.raises(StoreError, match=r"ConfigMap in version \"v1\" cannot be handled .*data") as raised:
        await cluster.admin.create(CONFIG_MAPS, {"metadata": {"name": "a", "namespace": ns}, "data": {"a": 5}})
    assert raised.value.status == 400


async def test_the_client_says_what_it_is(cluster):
    await who(cluster.admin)
    assert cluster.audit(resource="selfsubjectreviews")[-1].agent.startswith("flexinfer/")


async def test_calls_through_a_slow_way_end_in_time(cluster):
    relay = await cluster.relay()
    access = Access(server=relay.url, ca=Material(file=cluster.ca_file), user=User(token=cluster.plane.admin_token))
    async with config.connect(access, env={}, timeout_s=2) as store:
        await who(store)
        relay.hold()
        with pytest.raises(TimeoutError):
            await who(store)
        await relay.release()

        async def answered() -> bool:
            try:
                return bool(await who(store))
            except TimeoutError:
                return False

        await until(answered, 40, every_s=0.1)
