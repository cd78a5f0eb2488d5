"""The kubelet of many nodes: watches pods, gives each a worker, tells nodes where their logs are served."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tests.cluster.kubelet import memory
from tests.cluster.kubelet.devices import Devices
from tests.cluster.kubelet.events import Events
from tests.cluster.kubelet.images import Images
from tests.cluster.kubelet.logserver import LogServer
from tests.cluster.kubelet.network import Addresses
from tests.cluster.kubelet.objects import Ref
from tests.cluster.kubelet.pod import PodWorker
from tests.cluster.kubelet.probes import Prober
from tests.cluster.kubelet.programs import write_programs
from tests.cluster.kubelet.provisioner import Provisioner
from tests.cluster.kubelet.sandbox import this_machine
from tests.cluster.kubelet.servicenetwork import ServiceNetwork
from tests.cluster.kubelet.services import Services, Settings

from flexinfer import logs
from flexinfer.api.meta import ObjectKey
from flexinfer.errors import StoreError
from flexinfer.kube.informer import Informer
from flexinfer.kube.store import (
    CONFIG_MAPS,
    NODES,
    PERSISTENT_VOLUME_CLAIMS,
    PERSISTENT_VOLUMES,
    PODS,
    SECRETS,
    Object,
    ObjectStore,
)

log = logs.get("kubelet")


class Certificate(NamedTuple):
    """Of the server that the API server asks for logs."""

    certificate: Path
    key: Path


class Kubelet:
    """Plays every node of the cluster."""

    def __init__(self, store: ObjectStore, settings: Settings, certificate: Certificate) -> None:
        self._store = store
        self._settings = settings
        self._certificate = certificate
        self._workers: dict[str, PodWorker] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._port = 0
        self._pods = Informer(store, PODS, _whole)
        self._nodes = Informer(store, NODES, _whole)
        self._objects = {
            "configmap": Informer(store, CONFIG_MAPS, _whole),
            "secret": Informer(store, SECRETS, _whole),
        }
        self._claims = Informer(store, PERSISTENT_VOLUME_CLAIMS, _whole)
        self._volumes = Informer(store, PERSISTENT_VOLUMES, _whole)
        self._logs = LogServer(self._find)
        self._network = ServiceNetwork(store, settings)

    async def run(self, ready: asyncio.Event) -> None:
        """Until cancelled; `ready` is set once it watches."""
        settings, prober = self._settings, Prober()
        self._services = Services(
            store=self._store,
            settings=settings,
            machine=this_machine(write_programs(settings.folder / "app")),
            images=Images(settings.folder / "images.json"),
            addresses=Addresses(),
            prober=prober,
            devices=Devices(),
            events=Events(self._store),
            cached=self._cached,
            table=self._network.table,
            allocatable=self._allocatable,
        )
        self._port = await self._logs.listen(settings.host_ip, *self._certificate)
        await self._network.listen()
        provisioner = Provisioner(self._store, settings.folder / "volumes")
        await provisioner.ensure_class()
        self._claims.add_handler(provisioner.on_claim)
        self._volumes.add_handler(provisioner.on_volume)
        self._nodes.add_handler(self._on_node)
        self._objects["configmap"].add_handler(lambda key, _old, _new: self._on_object(Ref("configmap", key.name), key))
        self._objects["secret"].add_handler(lambda key, _old, _new: self._on_object(Ref("secret", key.name), key))
        first = [self._nodes, *self._objects.values(), self._claims, self._volumes, *self._network.informers]
        try:
            async with asyncio.TaskGroup() as group:
                for informer in first:
                    group.create_task(informer.run())
                for informer in first:
                    await informer.wait_synced()
                self._pods.add_handler(self._on_pod)
                group.create_task(self._pods.run())
                group.create_task(self._network.run())
                group.create_task(memory.watch(lambda: self._services.limited.values()))
                await self._pods.wait_synced()
                ready.set()
        finally:
            self._network.close()
            await self._logs.close()
            await prober.close()

    # What workers ask

    def _cached(self, ref: Ref, namespace: str) -> Mapping[str, Any] | None:
        return self._objects[ref.kind].get(ObjectKey(namespace, ref.name))

    def _allocatable(self, node: str) -> Mapping[str, str]:
        found = self._nodes.get(ObjectKey("", node))
        return ((found or {}).get("status") or {}).get("allocatable") or {}

    def _find(self, namespace: str, name: str) -> PodWorker | None:
        found = self._pods.get(ObjectKey(namespace, name))
        return None if found is None else self._workers.get(found["metadata"]["uid"])

    # What the watches say

    def _on_pod(self, _key: ObjectKey, old: Object | None, new: Object | None) -> None:
        if new is None:
            assert old is not None
            if worker := self._workers.get(old["metadata"]["uid"]):
                worker.removed()
            return
        if not new["spec"].get("nodeName"):
            return
        uid = new["metadata"]["uid"]
        worker = self._workers.get(uid)
        if worker is None:
            worker = self._workers[uid] = PodWorker(self._services, new)
            self._spawn(self._lives(uid, worker))
        worker.update(new)

    async def _lives(self, uid: str, worker: PodWorker) -> None:
        try:
            await worker.run()
        # The border of the loop: a pod that cannot be played must not end the others.
        except Exception as error:
            log.error("pod not played", pod=worker.manifest["metadata"]["name"], exc_info=error)
        finally:
            self._workers.pop(uid, None)

    def _on_object(self, ref: Ref, key: ObjectKey) -> None:
        for worker in self._workers.values():
            if worker.uses(ref, key.namespace):
                worker.objects_changed()

    def _on_node(self, key: ObjectKey, _old: Object | None, new: Object | None) -> None:
        if new is None:
            return
        told = ((new.get("status") or {}).get("daemonEndpoints") or {}).get("kubeletEndpoint") or {}
        if told.get("Port") != self._port:
            self._spawn(self._tell_port(key))

    async def _tell_port(self, key: ObjectKey) -> None:
        patch = {"status": {"daemonEndpoints": {"kubeletEndpoint": {"Port": self._port}}}}
        try:
            await self._store.patch(NODES, key, patch, subresource="status", field_manager="test-kubelet")
        except (StoreError, OSError) as error:
            log.warning("node not told of its logs", node=key.name, error=repr(error))

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _whole(obj: Object) -> Object:
    obj["metadata"].pop("managedFields", None)
    return obj
