"""LocalWorkloads: converge by starting and stopping processes on this machine.

One entry per Model holds its replicas and the failure of its last attempt. Endpoints are written as
EndpointSlices, one for each replica that is ready, so that the proxy sees what it would see in a
cluster. Everything runs on one event loop; `notify` is called when a look at a Model is worth it.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from flexinfer import backends, logs
from flexinfer.api.meta import ObjectKey
from flexinfer.api.v1alpha2.model import Model
from flexinfer.backends.base import Device, LaunchPlan, Site
from flexinfer.errors import ArtifactError, EngineMissing, FlexInferError, InvalidField, NotFound
from flexinfer.kube.store import ENDPOINT_SLICES, ObjectStore
from flexinfer.lifecycle.decide import Decision, asks_again
from flexinfer.lifecycle.observed import ArtifactState, Failure, Observed
from flexinfer.local import keeper, launch
from flexinfer.local.artifacts import Artifacts, SourceUnavailable
from flexinfer.local.control import Engine
from flexinfer.local.replica import Machine, Replica
from flexinfer.local.upstream import ExternalReplica
from flexinfer.placement import devices
from flexinfer.placement.devices import Choice, Held
from flexinfer.placement.nodefacts import NodeFacts
from flexinfer.resources import endpointslice

log = logs.get("local")

FIELD_MANAGER = "flexinfer-local"
AnyReplica = Replica | ExternalReplica

_IGNORED = ("node_selector", "resources", "tolerations", "image", "image_digest")
_IGNORED_CACHE = ("storage_class", "pvc_name", "size")


@dataclass
class _Entry:
    generation: int = 0
    replicas: list[AnyReplica] = field(default_factory=list)
    failure: Failure | None = None
    failed_generation: int = 0
    before_start: bool = False
    """Whether the failure is one that `_preflight` found, and may find mended."""
    artifact: ArtifactState = field(default_factory=lambda: ArtifactState(ready=True))
    on_cpu: str = ""
    held_mib: int = 0
    """What each replica holds of its devices; 0: all of them."""
    published: dict[int, tuple[str, int, bool]] = field(default_factory=dict)
    """Slices as they were written last: replica index -> host, port, ready."""


class LocalWorkloads:
    def __init__(
        self,
        machine: Machine,
        store: ObjectStore,
        facts: NodeFacts,
        models_dir: Path,
        notify: Callable[[ObjectKey], None],
        *,
        allowed_cidrs: tuple[str, ...] = (),
    ) -> None:
        self._machine = machine
        self._store = store
        self._facts = facts
        self._artifacts = Artifacts(models_dir)
        self._notify = notify
        self._allowed_cidrs = allowed_cidrs
        self._entries: dict[ObjectKey, _Entry] = {}
        self.endpoint = ""
        """Base URL of the proxy, once it listens."""

    async def observe(self, model: Model) -> Observed:
        entry = self._entries.setdefault(model.key, _Entry())
        self._collect(entry, model)
        if not entry.replicas:
            entry.artifact, fault = self._preflight(model)
            self._note(entry, model, fault)
        return Observed(
            replicas=tuple(replica.observed() for replica in entry.replicas),
            artifact=entry.artifact,
            failure=entry.failure,
            failed_generation=entry.failed_generation,
            ignored_fields=_ignored(model),
            engine_on_cpu=entry.on_cpu,
            endpoint=self.endpoint,
        )

    async def converge(self, model: Model, decision: Decision) -> None:
        entry = self._entries.setdefault(model.key, _Entry())
        if decision.failure is not None:
            if decision.failure is not entry.failure:
                entry.before_start = False
            entry.failure, entry.failed_generation = decision.failure, model.metadata.generation
        if entry.replicas and entry.generation != model.metadata.generation:
            log.info("the model changed, its engine is replaced", model=str(model.key))
            await self._shrink(model, entry, 0)
        if len(entry.replicas) > decision.replicas:
            await self._shrink(model, entry, decision.replicas)
        while len(entry.replicas) < decision.replicas:
            entry.failure = None
            if not self._start(model, entry):
                break
        await self._publish(model, entry, serving=decision.serving)

    async def remove(self, key: ObjectKey) -> None:
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        for index in list(entry.published):
            await self._withdraw(key, entry, index)
        await asyncio.gather(*(replica.stop() for replica in entry.replicas))
        self._machine.state.forget(key.name)

    async def stop(self) -> None:
        """End every engine, each with its grace period."""
        replicas = [replica for entry in self._entries.values() for replica in entry.replicas]
        await asyncio.gather(*(replica.stop() for replica in replicas))

    def engines(self) -> list[Engine]:
        found = []
        for key, entry in self._entries.items():
            for replica in entry.replicas:
                seen = replica.observed()
                found.append(
                    Engine(
                        model=key.name,
                        state=seen.state,
                        pid=seen.pid,
                        address=seen.address,
                        device=seen.device or "cpu" if seen.pid else "",
                        memory_mib=_resident_mib(seen.pid) if seen.pid else 0,
                        restarts=seen.restarts,
                        log=replica.log_path,
                    )
                )
        return found

    def _collect(self, entry: _Entry, model: Model) -> None:
        """Take over what replicas that gave up have to say."""
        for replica in entry.replicas:
            if replica.failure is not None:
                entry.failure, entry.failed_generation = replica.failure, model.metadata.generation
                entry.before_start = False
            entry.on_cpu = replica.on_cpu or entry.on_cpu
        entry.replicas = [replica for replica in entry.replicas if replica.failure is None]

    def _preflight(self, model: Model) -> tuple[ArtifactState, Failure | None]:
        """What can be known before anything is started."""
        now = self._machine.clock.now()
        ready = ArtifactState(ready=True, reason="Succeeded")
        try:
            artifact = self._artifacts.locate(model)
            ready = ArtifactState(ready=True, reason="Succeeded", size_bytes=artifact.size_bytes)
            plan = self._plan(model, (), port=0)
            if backends.get(model.spec.backend).process:
                launch.resolve(plan, self._machine.env.get("PATH"))
            choice = self._place(model)
        except (ArtifactError, SourceUnavailable) as error:
            reason = "ArtifactInvalid" if isinstance(error, ArtifactError) else "SourceUnavailable"
            state = ArtifactState(ready=False, reason=reason, message=str(error))
            return state, Failure(reason=reason, message=str(error), at=now)
        except EngineMissing as error:
            reason = "EngineHasNoGPU" if _must_use_gpu(model) else "EngineMissing"
            return ready, Failure(reason=reason, message=str(error), at=now)
        except InvalidField as error:
            return ready, Failure(reason="ConfigInvalid", message=str(error), at=now)
        except FlexInferError as error:
            return ready, Failure(reason="BackendUnsupported", message=str(error), at=now)
        if choice.reason:
            return ready, Failure(reason=choice.reason, message=choice.message, at=now)
        return ready, None

    def _note(self, entry: _Entry, model: Model, fault: Failure | None) -> None:
        """A fault is as old as its first sight, unless somebody has asked for the model since its pause was over."""
        known = entry.failure if entry.failed_generation == model.metadata.generation else None
        if fault is None:
            if entry.before_start:
                entry.failure, entry.before_start = None, False
        elif (
            known is None or (known.reason, known.message) != (fault.reason, fault.message) or asks_again(model, known)
        ):
            entry.failure, entry.failed_generation, entry.before_start = fault, model.metadata.generation, True

    def _start(self, model: Model, entry: _Entry) -> bool:
        """One more replica; False with the failure noted when the machine cannot."""
        _, fault = self._preflight(model)
        if fault is not None:
            entry.failure, entry.failed_generation, entry.before_start = fault, model.metadata.generation, True
            return False
        entry.generation, entry.on_cpu = model.metadata.generation, ""
        choice = self._place(model)
        entry.held_mib = choice.mib
        if self._facts.devices and not choice.devices and _may_use_gpu(model):
            entry.on_cpu = f"{choice.message}: {self._plan(model, (), port=0).install_hint}"
        upstream = backends.get(model.spec.backend).upstream(model)

        def notify() -> None:
            self._notify(model.key)

        if upstream is None:
            entry.replicas.append(
                Replica(
                    self._machine,
                    model.metadata.name,
                    len(entry.replicas),
                    lambda port: self._plan(model, choice.devices, port),
                    notify,
                )
            )
        else:
            entry.replicas.append(
                ExternalReplica(
                    model.metadata.name,
                    upstream,
                    self._plan(model, (), port=0),
                    api_key_file=backends.serving(model).api_key_file,
                    allowed_cidrs=self._allowed_cidrs,
                    session=self._machine.session,
                    clock=self._machine.clock,
                    notify=notify,
                )
            )
        return True

    def _plan(self, model: Model, chosen: tuple[Device, ...], port: int) -> LaunchPlan:
        site = Site(
            host="127.0.0.1",
            port=port,
            artifact=self._artifacts.locate(model),
            devices=chosen,
            cores=self._facts.cores,
            state_dir=str(self._machine.state.root / "engines"),
        )
        return backends.get(model.spec.backend).plan(model, site)

    def _place(self, model: Model) -> Choice:
        plan = self._plan(model, (), port=0)
        installed = bool(plan.program) and shutil.which(plan.program, path=self._machine.env.get("PATH")) is not None
        held = [
            Held(vendor=device.vendor, index=device.index, by=str(key), mib=entry.held_mib)
            for key, entry in self._entries.items()
            for replica in entry.replicas
            for device in replica.devices
        ]
        return devices.choose(model, self._facts, held, need_mib=plan.memory.total_mib, gpu_engine=installed)

    async def _shrink(self, model: Model, entry: _Entry, left: int) -> None:
        """Withdraw the endpoints first, then stop."""
        leaving = entry.replicas[left:]
        for index in range(left, len(entry.replicas)):
            await self._withdraw(model.key, entry, index)
        await asyncio.gather(*(replica.stop() for replica in leaving))
        entry.replicas = [replica for replica in entry.replicas if replica not in leaving]

    async def _publish(self, model: Model, entry: _Entry, *, serving: bool) -> None:
        ready = {index: replica for index, replica in enumerate(entry.replicas) if replica.ready}
        for index in [index for index in entry.published if index not in ready]:
            await self._withdraw(model.key, entry, index)
        for index, replica in ready.items():
            state = (replica.host, replica.port, serving)
            if entry.published.get(index) != state:
                obj = endpointslice.build(model, index, replica.host, replica.port, ready=serving)
                await self._store.apply(ENDPOINT_SLICES, obj, field_manager=FIELD_MANAGER, force=True)
                entry.published[index] = state

    async def _withdraw(self, key: ObjectKey, entry: _Entry, index: int) -> None:
        if entry.published.pop(index, None) is None:
            return
        try:
            await self._store.delete(ENDPOINT_SLICES, ObjectKey(key.namespace, endpointslice.name(key.name, index)))
        except NotFound:
            log.debug("an endpoint slice was gone already", model=str(key), replica=index)


def _may_use_gpu(model: Model) -> bool:
    return model.spec.gpu is not None and model.spec.gpu.vendor == "auto"


def _must_use_gpu(model: Model) -> bool:
    return model.spec.gpu is not None and model.spec.gpu.vendor in ("nvidia", "amd")


def _ignored(model: Model) -> tuple[str, ...]:
    """Fields that are set and mean nothing on one machine, by their names in a manifest."""
    spec = model.spec
    names = {"node_selector": "nodeSelector", "image_digest": "imageDigest"}
    plain = type(spec)(backend=spec.backend, source=spec.source)
    found = [f"spec.{names.get(name, name)}" for name in _IGNORED if getattr(spec, name) != getattr(plain, name)]
    cache_names = {"storage_class": "storageClass", "pvc_name": "pvcName"}
    return tuple(
        found
        + [
            f"spec.cache.{cache_names.get(name, name)}"
            for name in _IGNORED_CACHE
            if getattr(spec.cache, name) != getattr(plain.cache, name)
        ]
    )


def _resident_mib(pid: int) -> int:
    """What a process and its descendants hold, shared pages counted once for each."""
    pages = 0
    for one in (pid, *(child for child, _ in keeper.descendants(pid))):
        try:
            pages += int(Path(f"/proc/{one}/statm").read_text().split()[1])
        except (OSError, IndexError):
            continue
    return pages * 4096 // 2**20
