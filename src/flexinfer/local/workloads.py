"""LocalWorkloads: converge by starting and stopping processes on this machine.

One entry per Model holds its replicas and the failure of its last attempt. Endpoints are written as
EndpointSlices, one for each replica that is ready, so that the proxy sees what it would see in a
cluster. Everything runs on one event loop; `notify` is called when a look at a Model is worth it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import msgspec

from flexinfer import backends, logs
from flexinfer.api.meta import ObjectKey
from flexinfer.api.v1alpha2.model import Model
from flexinfer.artifacts.tasks import Fetch
from flexinfer.backends import external
from flexinfer.backends.base import LaunchPlan
from flexinfer.http.external import ExternalReplica
from flexinfer.kube.store import ObjectStore
from flexinfer.lifecycle.decide import SETTLE_S, Decision, asks_again
from flexinfer.lifecycle.observed import ArtifactState, Blocked, Failure, Observed, Usage
from flexinfer.lifecycle.observed import Replica as SeenReplica
from flexinfer.local import downloads, keeper
from flexinfer.local.artifacts import Artifacts, NotFetched, Places
from flexinfer.local.control import Engine
from flexinfer.local.downloads import Downloads
from flexinfer.local.preflight import Preflight, Verdict, ignored_fields
from flexinfer.local.replica import Machine, Replica
from flexinfer.local.seats import Seats, Taken
from flexinfer.local.slices import Address, Slices
from flexinfer.placement.devices import Choice
from flexinfer.placement.nodefacts import NodeFacts
from flexinfer.storage.copies import Hold

log = logs.get("local")

DRAIN_LOOK_S = 0.05
ACTING_FIELDS = ("spec.gpu.shared",)
"""`local.seats` gives a group one place."""

AnyReplica = Replica | ExternalReplica


class _Failed(NamedTuple):
    failure: Failure
    generation: int
    before_start: bool
    """Whether it is one that preflight found, and may find mended."""


class _Entry:
    def __init__(self, store: ObjectStore) -> None:
        self.generation = 0
        """That of the Model which the replicas were started for."""
        self.replicas: list[AnyReplica] = []
        self.failed: _Failed | None = None
        self.artifact = ArtifactState(ready=True)
        self.on_cpu = ""
        self.placement = ""
        self.blocked: Blocked | None = None
        self.slices = Slices(store)
        self.missing: Fetch | None = None
        """What has to be fetched before anything can be started."""
        self.hold: Hold | None = None
        """Keeps the copy that the replicas read."""

    @property
    def indexes(self) -> list[int]:
        return [replica.index for replica in self.replicas]

    def collect(self, generation: int) -> None:
        """Take over what replicas that gave up have to say."""
        for replica in self.replicas:
            if replica.failure is not None:
                self.failed = _Failed(replica.failure, generation, before_start=False)
            self.on_cpu = replica.on_cpu or self.on_cpu
        self.replicas = [replica for replica in self.replicas if replica.failure is None]

    def note(self, model: Model, fault: Failure | None) -> None:
        """A fault is as old as its first sight, unless somebody has asked for the model since its pause was over."""
        generation, failed = model.metadata.generation, self.failed
        if fault is None:
            if failed is not None and failed.before_start:
                self.failed = None
            return
        known = failed.failure if failed is not None and failed.generation == generation else None
        same = known is not None and (known.reason, known.message) == (fault.reason, fault.message)
        if known is None or not same or asks_again(model, known):
            self.failed = _Failed(fault, generation, before_start=True)

    def judged(self, generation: int, failure: Failure | None) -> None:
        """The decision says why the model is Failed, or that it is not."""
        if failure is None:
            self.failed = None
        elif self.failed is None or self.failed.failure is not failure:
            self.failed = _Failed(failure, generation, before_start=False)


class Options(msgspec.Struct, frozen=True, kw_only=True):
    places: Places
    downloads: downloads.Settings = downloads.Settings()
    allowed_cidrs: tuple[str, ...] = ()
    """Addresses that `external` models may also use."""
    usage: Callable[[str], Usage] = lambda _name: Usage()
    """What clients do with a model of this name."""
    grace_s: float = 30.0
    """What open requests get when the model changes or is deleted."""


class LocalWorkloads:
    def __init__(
        self,
        machine: Machine,
        store: ObjectStore,
        facts: Callable[[], NodeFacts],
        options: Options,
        notify: Callable[[ObjectKey], None],
    ) -> None:
        self._machine = machine
        self._store = store
        self._artifacts = Artifacts(options.places)
        self._preflight = Preflight(machine, self._artifacts, facts)
        self._seats = Seats(machine.clock, facts, options.usage, notify)
        self._downloads = Downloads(machine, options.downloads, notify)
        self._notify = notify
        self._options = options
        self._entries: dict[ObjectKey, _Entry] = {}
        self.endpoint = ""
        """Base URL of the proxy, once it listens."""

    def prefetch(self, models: Iterable[Model]) -> None:
        """Fetch what these lack, in this order."""
        for model in models:
            self._downloads.want(model.key, self._judge(model).missing)

    async def observe(self, model: Model) -> Observed:
        entry = self._entry(model.key)
        usage = self._options.usage(model.metadata.name)
        self._seats.saw(model)
        entry.collect(model.metadata.generation)
        self._seats.keep(model.key, entry.indexes)
        entry.blocked = None
        if not entry.replicas:
            verdict = self._judge(model)
            entry.artifact, entry.missing = verdict.artifact, verdict.missing
            entry.blocked = self._seats.blocked(model, verdict.choice, verdict.pick)
            entry.note(model, verdict.fault)
        return Observed(
            replicas=tuple(self._seen(replica, usage) for replica in entry.replicas),
            artifact=entry.artifact,
            failure=entry.failed.failure if entry.failed else None,
            failed_generation=entry.failed.generation if entry.failed else 0,
            ignored_fields=ignored_fields(model),
            acting_fields=ACTING_FIELDS,
            engine_on_cpu=entry.on_cpu,
            endpoint=self.endpoint,
            open_requests=usage.open,
            blocked=entry.blocked,
            yields_to=self._seats.yields_to(model.key),
        )

    async def converge(self, model: Model, decision: Decision) -> None:
        entry = self._entry(model.key)
        entry.judged(model.metadata.generation, decision.failure)
        self._seats.saw(model)
        if decision.replicas > 0 and decision.serving:
            self._seats.stays(model.key)
        if entry.replicas and entry.generation != model.metadata.generation:
            log.info("the model changed, its engine is replaced", model=str(model.key))
            await self._drain(model.key, entry)
            await self._shrink(model.key, entry, 0)
        if len(entry.replicas) > decision.replicas:
            await self._shrink(model.key, entry, decision.replicas)
        for replica in entry.replicas:
            if isinstance(replica, Replica) and replica.observed().name in decision.replace:
                replica.replace()
        while len(entry.replicas) < decision.replicas:
            if not self._start(model, entry):
                break
        if len(entry.replicas) >= decision.replicas:
            self._seats.claim_over(model.key)
        self._downloads.want(model.key, entry.missing, again=decision.failure is None)
        ready = {
            replica.index: Address(replica.host, replica.port, decision.serving)
            for replica in entry.replicas
            if replica.ready
        }
        await entry.slices.publish(model, ready)

    async def remove(self, key: ObjectKey) -> None:
        entry = self._entries.get(key)
        if entry is None:
            return
        self._downloads.release(key)
        await self._drain(key, entry)
        await self._shrink(key, entry, 0)
        self._seats.forget(key)
        del self._entries[key]
        self._machine.state.forget(key.name)

    async def stop(self) -> None:
        """End every download, and every engine with its grace period."""
        replicas = [replica for entry in self._entries.values() for replica in entry.replicas]
        await asyncio.gather(self._downloads.stop(), *(replica.stop() for replica in replicas))

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
                        placement=entry.placement if seen.device else "",
                        memory_mib=_resident_mib(seen.pid) if seen.pid else 0,
                        restarts=seen.restarts,
                        log=replica.log_path,
                    )
                )
        return found

    @staticmethod
    def _seen(replica: AnyReplica, usage: Usage) -> SeenReplica:
        """A server that runs elsewhere is not ours to replace, whatever it does."""
        seen = replica.observed()
        silence = usage.silences.get(seen.address) if isinstance(replica, Replica) else None
        return msgspec.structs.replace(seen, hangs=True) if silence is not None and silence.hangs else seen

    def _entry(self, key: ObjectKey) -> _Entry:
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = _Entry(self._store)
        return entry

    def _judge(self, model: Model) -> Verdict:
        verdict = self._preflight.judge(model, self._seats.choose)
        if verdict.missing is None:
            return verdict
        artifact, fault = self._downloads.seen(verdict.missing)
        return msgspec.structs.replace(verdict, artifact=artifact, fault=fault)

    def _start(self, model: Model, entry: _Entry) -> bool:
        """One more replica; False with the failure noted when the machine cannot."""
        verdict = self._judge(model)
        entry.artifact, entry.missing = verdict.artifact, verdict.missing
        if verdict.fault is not None:
            entry.failed = _Failed(verdict.fault, model.metadata.generation, before_start=True)
            self._seats.claim_over(model.key)
            return False
        if verdict.choice.reason:
            self._seats.claim(model, verdict.pick)
            return False
        if verdict.missing is not None or not self._hold(model, entry):
            return False
        entry.generation = model.metadata.generation
        entry.on_cpu = self._preflight.why_on_cpu(model, verdict.choice)
        entry.placement = _placement(verdict.choice)
        taken = {replica.index for replica in entry.replicas}
        index = next(number for number in range(len(taken) + 1) if number not in taken)
        upstream = backends.get(model.spec.backend).upstream(model)

        def notify() -> None:
            self._notify(model.key)

        replica: AnyReplica
        if upstream is None:
            chosen = verdict.choice.devices

            def plan_for(port: int) -> LaunchPlan:
                return self._preflight.plan(model, chosen, port)

            replica = Replica(self._machine, model.metadata.name, index, plan_for, notify)
        else:
            replica = ExternalReplica(
                model.metadata.name,
                upstream,
                self._preflight.plan(model, (), port=0),
                index=index,
                api_key_file=backends.serving(model).api_key_file,
                refused=lambda host: external.allowed(host, self._options.allowed_cidrs),
                session=self._machine.session,
                clock=self._machine.clock,
                notify=notify,
            )
        entry.replicas.append(replica)
        held = verdict.choice.holds(model.metadata.name)
        self._seats.take(model.key, index, Taken(held=held, replica=replica.observed))
        return True

    async def _drain(self, key: ObjectKey, entry: _Entry) -> None:
        """Withdraw the endpoints, and wait until what the engines are answering has ended or its grace is over."""
        if not any(isinstance(replica, Replica) and replica.ready for replica in entry.replicas):
            return
        await entry.slices.withdraw(key)
        loop = asyncio.get_running_loop()
        latest = loop.time() + self._options.grace_s
        # The proxy may have sent a last request before it saw that the endpoints are gone.
        await asyncio.sleep(SETTLE_S)
        while self._options.usage(key.name).open and loop.time() < latest:
            await asyncio.sleep(DRAIN_LOOK_S)

    async def _shrink(self, key: ObjectKey, entry: _Entry, left: int) -> None:
        """Withdraw the endpoints first, then stop."""
        leaving = entry.replicas[left:]
        await entry.slices.withdraw(key, [replica.index for replica in leaving] if left else None)
        await asyncio.gather(*(replica.stop() for replica in leaving))
        entry.replicas = [replica for replica in entry.replicas if replica not in leaving]
        self._seats.keep(key, entry.indexes)
        if entry.hold is not None and not entry.replicas:
            entry.hold.release()
            entry.hold = None

    def _hold(self, model: Model, entry: _Entry) -> bool:
        """False when the copy has just been removed."""
        if entry.hold is not None:
            return True
        try:
            entry.hold = self._artifacts.hold(model)
        except NotFetched as error:
            entry.missing = error.fetch
        return entry.missing is None


def _placement(choice: Choice) -> str:
    """Which devices, and why these."""
    found = (
        " ".join(filter(None, (f"{device.vendor}:{device.index}", device.product, device.uuid)))
        for device in choice.devices
    )
    return "; ".join(filter(None, (", ".join(found), choice.message)))


def _resident_mib(pid: int) -> int:
    """What a process and its descendants hold, shared pages counted once for each."""
    pages = 0
    for one in (pid, *(child for child, _ in keeper.descendants(pid))):
        try:
            pages += int(Path(f"/proc/{one}/statm").read_text().split()[1])
        except (OSError, IndexError):
            continue
    return pages * 4096 // 2**20
