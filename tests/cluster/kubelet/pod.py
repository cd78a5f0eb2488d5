"""One pod on its node: address, volumes, containers in their order, status, and its end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.cluster.kubelet import containerlogs, network, payload, sandbox
from tests.cluster.kubelet.claims import claim_folders
from tests.cluster.kubelet.container import Container
from tests.cluster.kubelet.deadline import Deadline
from tests.cluster.kubelet.devices import NoDevice
from tests.cluster.kubelet.downward import ConfigError, Facts
from tests.cluster.kubelet.objects import Ref, referenced
from tests.cluster.kubelet.plan import Inputs, containers_of
from tests.cluster.kubelet.podfiles import surroundings, write_etc
from tests.cluster.kubelet.records import records_of
from tests.cluster.kubelet.reporter import Reporter
from tests.cluster.kubelet.servicelinks import links
from tests.cluster.kubelet.services import Services
from tests.cluster.kubelet.status import Terminated, phase
from tests.cluster.kubelet.tokens import PodTokens
from tests.cluster.kubelet.volumes import NotMounted, PodVolumes

from flexinfer import logs
from flexinfer.errors import StoreError

log = logs.get("kubelet")


class PodWorker:
    """`run` in a task; `update`, `removed` and `objects_changed` from the watch."""

    def __init__(self, services: Services, manifest: Mapping[str, Any]) -> None:
        self.services = services
        self.manifest = manifest
        self.pod_ip = ""
        self.stopping = asyncio.Event()
        meta, spec, folder = manifest["metadata"], manifest["spec"], services.settings.folder
        self.refs = referenced(manifest)
        self._folder = folder / "pods" / meta["uid"]
        self._logs = folder / "logs" / f"{meta['namespace']}_{meta['name']}_{meta['uid']}"
        self._volumes = PodVolumes(self._folder / "volumes", folder / "nodes" / spec["nodeName"], manifest)
        self._tokens = PodTokens(services.store, manifest)
        self._policy: str = spec.get("restartPolicy", "Always")
        self.records = records_of(manifest)
        self._containers = [
            Container(self, one, record) for one, record in zip(containers_of(spec), self.records, strict=True)
        ]
        self._device_env: Mapping[str, Mapping[str, str]] = {}
        self._deadline: Deadline | None = None
        self._fresh = asyncio.Event()
        self._address = ""
        self._reporter = Reporter(services, self)
        self._gone = False

    # From the watch

    def update(self, manifest: Mapping[str, Any]) -> None:
        self.manifest = manifest
        meta = manifest["metadata"]
        if meta.get("deletionTimestamp"):
            self._stop(float(meta.get("deletionGracePeriodSeconds") or 0))
        elif self.manifest["spec"].get("readinessGates"):
            self._reporter.changed()

    def removed(self) -> None:
        """The object is gone: nobody waits for a grace period any more."""
        self._gone = True
        self._stop(0)

    def objects_changed(self) -> None:
        self._fresh.set()

    def _stop(self, grace_s: float) -> None:
        if self._deadline is None:
            self._deadline = Deadline(grace_s)
        else:
            self._deadline.shorten(grace_s)
        self.stopping.set()
        self._reporter.changed()

    # What containers ask

    def changed(self) -> None:
        self._reporter.changed()

    def memory_in_volumes(self) -> int:
        return self._volumes.memory_used()

    def logs_of(self, container: str) -> Path:
        return self._logs / container

    def log_files(self, container: str) -> list[Path]:
        return containerlogs.files(self.logs_of(container))

    def surroundings(self, container: str) -> sandbox.Surroundings:
        namespace = network.namespace(self._address) if self._address else None
        return surroundings(self.manifest, self._folder, namespace, container)

    async def inputs(self, container: Mapping[str, Any]) -> Inputs:
        """Raises ConfigError, also while the API server cannot be asked."""
        namespace = self.manifest["metadata"]["namespace"]
        try:
            objects = await self.services.objects(self.refs, namespace)
        except (StoreError, OSError) as error:
            raise ConfigError(f"the API server was asked in vain: {error}") from error
        return Inputs(
            pod=self.manifest,
            facts=self._facts(),
            objects=objects,
            volumes=self._volumes.places,
            cluster_env={
                **links(self.manifest, self.services.table.of_namespace(namespace)),
                **self.services.settings.cluster_env,
                **self._device_env.get(container["name"], {}),
            },
            flexinfer=self.services.machine.flexinfer,
        )

    def _facts(self) -> Facts:
        allocatable = self.services.allocatable(self.manifest["spec"]["nodeName"])
        return Facts(self._address or self.services.settings.host_ip, self.services.settings.host_ip, allocatable)

    # Its life

    async def run(self) -> None:
        telling = asyncio.create_task(self._reporter.run())
        try:
            if phase(self.records, self._policy) in {"Succeeded", "Failed"} or self._was_over():
                await self.stopping.wait()
            else:
                await self._live()
            await self._leave()
        finally:
            telling.cancel()
            await self._release()
            self.services.events.forget(self.manifest["metadata"]["uid"])

    def _was_over(self) -> bool:
        return (self.manifest.get("status") or {}).get("phase") in {"Succeeded", "Failed"}

    async def _live(self) -> None:
        try:
            told = self.services.devices.take(self.manifest, self._facts().allocatable)
        except NoDevice as error:
            self._reporter.refuse("UnexpectedAdmissionError", str(error))
            await self.stopping.wait()
            return
        self._device_env = told
        working = asyncio.create_task(self._work())
        stopped = asyncio.create_task(self.stopping.wait())
        try:
            await asyncio.wait({working, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if stopped.done():
                await self._stop_containers()
                await asyncio.wait({working})
            working.result()
        finally:
            working.cancel()
            stopped.cancel()
        await self._release()
        self.changed()
        await self.stopping.wait()

    async def _work(self) -> None:
        """Until every container has ended for good, or the pod is stopped."""
        if not await self._prepare():
            return
        keeping = asyncio.create_task(self._keep_fresh())
        try:
            await self._run_containers()
        finally:
            keeping.cancel()

    async def _run_containers(self) -> None:
        staying: list[asyncio.Task[None]] = []
        try:
            for container in self._containers:
                if self.stopping.is_set():
                    return
                if container.record.role == "sidecar":
                    staying.append(asyncio.create_task(container.run(self._policy)))
                    await self._begun_or_stopped(container)
                elif container.record.role == "init" and not _is_done(container):
                    await container.run(self._policy)
                    if not _is_done(container):
                        return
            mains = [one for one in self._containers if one.record.role == "main"]
            await asyncio.gather(*(one.run(self._policy) for one in mains))
        finally:
            await self._end_sidecars(staying)

    async def _begun_or_stopped(self, container: Container) -> None:
        waiting = {asyncio.create_task(event.wait()) for event in (container.begun, self.stopping)}
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waiting:
                one.cancel()

    async def _end_sidecars(self, staying: list[asyncio.Task[None]]) -> None:
        """The last one first, after everybody else."""
        grace_s = float(self.manifest["spec"].get("terminationGracePeriodSeconds", 30))
        deadline = self._deadline or Deadline(grace_s)
        sidecars = [one for one in self._containers if one.record.role == "sidecar"]
        for container in reversed(sidecars):
            container.stays_down()
            await container.stop(deadline)
        if staying:
            await asyncio.wait(staying)

    async def _stop_containers(self) -> None:
        """Sidecars are ended by whoever runs them, once these are gone."""
        assert self._deadline is not None
        others = [one for one in self._containers if one.record.role != "sidecar"]
        await asyncio.gather(*(one.stop(self._deadline) for one in others))

    async def _prepare(self) -> bool:
        """Address and volumes; tried again until they are there. False: the pod is stopped first."""
        while not self.stopping.is_set():
            try:
                async with self.services.starting:
                    await self._network()
                claims = await claim_folders(self.services.store, self.manifest)
                self._volumes.make(claims, await self._filled())
            except (ConfigError, NotMounted, network.NoAddress, StoreError, OSError) as error:
                self.services.events.warn(self.manifest, "FailedMount", str(error))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self.services.settings.retry_s):
                        await self.stopping.wait()
                continue
            # Told with the containers' first states, which come at once.
            self.pod_ip = self._address or self.services.settings.host_ip
            return True
        return False

    async def _network(self) -> None:
        if not self._address and not self.manifest["spec"].get("hostNetwork"):
            address = self.services.addresses.take()
            await network.create(address)
            self._address = address
        settings = self.services.settings
        write_etc(self.manifest, self._folder, self._address or settings.host_ip, settings.dns_address)

    async def _filled(self) -> dict[str, payload.Files]:
        """The files of every volume that holds something of the API."""
        namespace = self.manifest["metadata"]["namespace"]
        objects = await self.services.objects(self.refs, namespace)
        tokens = await self._tokens.all(payload.tokens_wanted(self.manifest))
        volumes = self.manifest["spec"].get("volumes") or ()
        return {
            one["name"]: payload.files(one, self.manifest, self._facts(), objects, tokens)
            for one in volumes
            if any(kind in one for kind in payload.KINDS)
        }

    async def _keep_fresh(self) -> None:
        """Rewrites volumes when a ConfigMap or Secret changed, or a token gets old; until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._tokens.renew_in_s):
                    await self._fresh.wait()
            self._fresh.clear()
            try:
                self._volumes.refresh(await self._filled())
            except (ConfigError, StoreError, OSError) as error:
                # What was deleted stays as it was, as on a real node.
                log.info("volumes not refreshed", pod=self.manifest["metadata"]["name"], error=repr(error))
                await asyncio.sleep(self.services.settings.retry_s)

    def uses(self, ref: Ref, namespace: str) -> bool:
        return ref in self.refs and namespace == self.manifest["metadata"]["namespace"]

    async def _leave(self) -> None:
        """The last status, then the object goes."""
        if not self._gone:
            await self._reporter.finish()

    async def _release(self) -> None:
        self.services.devices.release(self.manifest["metadata"]["uid"])
        await asyncio.to_thread(self._volumes.remove)
        if self._address:
            address, self._address = self._address, ""
            with contextlib.suppress(OSError):
                await network.remove(address)
            self.services.addresses.give_back(address)


def _is_done(container: Container) -> bool:
    state = container.record.state
    return isinstance(state, Terminated) and state.exit_code == 0
