"""The built-in kinds as a real API server and its controllers write them can be read by `kube.typed`."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.support.cluster.nodes import NodeRow

from flexinfer.api.meta import ObjectKey
from flexinfer.kube import typed
from flexinfer.kube.store import (
    CORE_EVENTS,
    DEPLOYMENTS,
    JOBS,
    LEASES,
    NODES,
    PERSISTENT_VOLUME_CLAIMS,
    PODS,
    SERVICES,
    Object,
    Resource,
    Selection,
)

TEMPLATE = {
    "metadata": {"labels": {"app": "x"}},
    "spec": {
        "restartPolicy": "Always",
        "containers": [
            {"name": "c", "image": "none", "resources": {"limits": {"cpu": "1"}, "requests": {"memory": "1Mi"}}}
        ],
    },
}


async def test_every_kind_as_the_control_plane_writes_it(cluster):
    store = cluster.admin
    await cluster.nodes([NodeRow("small", cpu="4")])
    async with cluster.namespace() as ns:

        async def create(resource: Resource, spec: Object) -> None:
            await store.create(resource, {"metadata": {"name": "a", "namespace": ns}, "spec": spec})

        selector = {"matchLabels": {"app": "x"}}
        await create(DEPLOYMENTS, {"replicas": 1, "selector": selector, "template": TEMPLATE})
        job = {**TEMPLATE, "spec": {**TEMPLATE["spec"], "restartPolicy": "Never"}}
        await create(JOBS, {"template": {**job, "metadata": {"labels": {"app": "job"}}}})
        await create(SERVICES, {"selector": {"app": "x"}, "ports": [{"port": 80, "targetPort": "http"}]})
        await create(
            PERSISTENT_VOLUME_CLAIMS, {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
        )
        await create(LEASES, {"holderIdentity": "me", "renewTime": "2026-01-01T00:00:00.000000Z"})

        async def read(resource: Resource, kind: type[Any], **where: Any) -> list[Any]:
            found = await store.list(resource, Selection(**where))
            return [typed.reader(kind)(obj) for obj in found.items]

        async with asyncio.timeout(40):
            while len([pod for pod in await read(PODS, typed.Pod, namespace=ns) if pod.spec.node_name]) < 2:
                await asyncio.sleep(0.1)
            while not (await read(DEPLOYMENTS, typed.Deployment, namespace=ns))[0].status.conditions:
                await asyncio.sleep(0.1)
            while not (await read(CORE_EVENTS, typed.Event, namespace=ns)):
                await asyncio.sleep(0.1)
        pods = await read(PODS, typed.Pod, namespace=ns)
        assert {owner.kind for pod in pods for owner in pod.metadata.owner_references} == {"ReplicaSet", "Job"}
        assert {pod.spec.node_name for pod in pods} == {"small-0"}
        assert pods[0].spec.containers[0].resources == typed.Resources(
            limits={"cpu": "1"}, requests={"cpu": "1", "memory": "1Mi"}
        )
        [deployment] = await read(DEPLOYMENTS, typed.Deployment, namespace=ns)
        assert (deployment.spec.replicas, deployment.status.observed_generation) == (1, 1)
        [job_read] = await read(JOBS, typed.Job, namespace=ns)
        assert (job_read.spec, job_read.status.active) == (typed.JobSpec(), 1)
        [service] = await read(SERVICES, typed.Service, namespace=ns)
        assert service.spec.ports == (typed.ServicePort(port=80, target_port="http"),)
        [claim] = await read(PERSISTENT_VOLUME_CLAIMS, typed.PersistentVolumeClaim, namespace=ns)
        assert (claim.spec.resources.requests, claim.status.phase) == ({"storage": "1Gi"}, "Pending")
        [node] = await read(NODES, typed.Node, fields={"metadata.name": "small-0"})
        assert node.status.allocatable["cpu"] == "4"
        [lease] = await read(LEASES, typed.Lease, namespace=ns)
        assert (lease.spec.holder_identity, lease.spec.renew_time) == ("me", "2026-01-01T00:00:00.000000Z")
        events = await read(CORE_EVENTS, typed.Event, namespace=ns)
        assert {"Scheduled", "SuccessfulCreate"} & {event.reason for event in events}
        assert await store.get(PODS, ObjectKey(ns, pods[0].metadata.name))
