"""ExternalWorkloads: Models of servers that run elsewhere. No pods; their health is watched from the manager.

While such a Model is awake its server is asked whether it is well, and an EndpointSlice tells the proxies where it
is. The address is judged each time before it is dialled.
"""

from __future__ import annotations

from collections.abc import Callable

import aiohttp
import msgspec

from flexinfer import backends
from flexinfer.api import defaults
from flexinfer.api.meta import ObjectKey
from flexinfer.api.v1alpha2.model import Model
from flexinfer.backends import external
from flexinfer.backends.base import Artifact, Site
from flexinfer.clock import Clock
from flexinfer.controllers import children
from flexinfer.controllers.children import FIELD_MANAGER, NameTaken, Owner, Settled
from flexinfer.controllers.clusterview import ClusterView
from flexinfer.errors import InvalidField, NotFound
from flexinfer.http.external import ExternalReplica
from flexinfer.kube.apply import Child, converge
from flexinfer.kube.store import ENDPOINT_SLICES, SERVICES, ObjectStore
from flexinfer.lifecycle.decide import Decision
from flexinfer.lifecycle.observed import ArtifactState, Failure, Observed
from flexinfer.resources import externalslice
from flexinfer.resources.installation import Installation
from flexinfer.resources.model import service


class _Entry:
    def __init__(self, uid: str) -> None:
        self.uid = uid
        self.generation = 0
        """That of the Model which the server was taken from."""
        self.replica: ExternalReplica | None = None
        self.failure: Failure | None = None
        self.applied = Settled()
        self.slice: Child | None = None
        self.looked = False
        """Whether a slice that an earlier manager left has been looked for."""


class ExternalWorkloads:
    """A Workloads for Models whose backend has no process; `changed` hears of those whose server does."""

    def __init__(
        self,
        store: ObjectStore,
        view: ClusterView,
        installation: Installation,
        clock: Clock,
        changed: Callable[[ObjectKey], None],
    ) -> None:
        self._store = store
        self._view = view
        self._installation = installation
        self._clock = clock
        self._changed = changed
        self._entries: dict[ObjectKey, _Entry] = {}
        self._session: aiohttp.ClientSession | None = None

    async def observe(self, model: Model) -> Observed:
        entry = self._entry(model)
        if entry.replica is not None and entry.replica.failure is not None:
            entry.failure, entry.generation = entry.replica.failure, model.metadata.generation
            await self._let_go(entry)
        return Observed(
            replicas=(entry.replica.observed(),) if entry.replica is not None else (),
            artifact=ArtifactState(ready=True, reason="Succeeded"),
            failure=entry.failure,
            failed_generation=entry.generation if entry.failure is not None else 0,
            endpoint=service.url(model, external.port, self._installation),
        )

    async def converge(self, model: Model, decision: Decision) -> None:
        entry = self._entry(model)
        if decision.failure is None:
            entry.failure = None
        if decision.replicas == 0 or entry.generation != model.metadata.generation:
            await self._let_go(entry)
        if decision.replicas > 0 and entry.replica is None:
            self._watch(model, entry)
        try:
            await self._apply(model, entry, serving=decision.serving)
        except NameTaken as taken:
            entry.failure = Failure(reason="NameTaken", message=str(taken), at=self._clock.now())
            entry.generation = model.metadata.generation

    async def remove(self, key: ObjectKey) -> None:
        """The garbage collector takes the children with their owner."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            await self._let_go(entry)

    async def stop(self) -> None:
        for entry in self._entries.values():
            await self._let_go(entry)
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _entry(self, model: Model) -> _Entry:
        entry = self._entries.get(model.key)
        if entry is None or entry.uid != model.metadata.uid:
            entry = self._entries[model.key] = _Entry(model.metadata.uid)
        return entry

    async def _let_go(self, entry: _Entry) -> None:
        replica, entry.replica = entry.replica, None
        if replica is not None:
            await replica.stop()

    def _watch(self, model: Model, entry: _Entry) -> None:
        entry.generation = model.metadata.generation
        self._session = self._session or aiohttp.ClientSession()
        resolved = msgspec.structs.replace(model, spec=defaults.resolve(model.spec))
        try:
            plan = external.plan(resolved, Site(host="", port=0, artifact=Artifact()))
            entry.replica = ExternalReplica(
                model.metadata.name,
                external.upstream(model),
                plan,
                index=0,
                # A file of the manager's must not be sent to a server that whoever writes a Model names.
                api_key_file="",
                refused=lambda host: external.allowed_in_cluster(host, self._installation.upstream_cidrs),
                session=self._session,
                clock=self._clock,
                notify=lambda: self._changed(model.key),
            )
        except InvalidField as error:
            entry.failure = Failure(reason="ConfigInvalid", message=str(error), at=self._clock.now())

    async def _apply(self, model: Model, entry: _Entry, *, serving: bool) -> None:
        owner = Owner(model.api_version, model.kind, model.key, model.metadata.uid)
        resolved = msgspec.structs.replace(model, spec=defaults.resolve(model.spec))
        desired = [children.child(SERVICES, service.build(resolved, external.port), owner)]
        replica = entry.replica
        if serving and replica is not None and replica.ready:
            found = externalslice.build(model, replica.host, replica.port)
            desired.append(children.child(ENDPOINT_SLICES, found, owner))
        there = [*children.cached(self._view, model.key), *await self._slice(model, entry)]
        await children.check_free(self._store, children.unsettled(desired[:1], there, entry.applied), there, owner)
        stored = await converge(
            self._store, desired, there, owner_uid=owner.uid, field_manager=FIELD_MANAGER, applied=entry.applied
        )
        entry.slice = next((one for one in stored if one.resource == ENDPOINT_SLICES), None)

    async def _slice(self, model: Model, entry: _Entry) -> list[Child]:
        """The slice as it was written last; what an earlier manager left is asked for once."""
        if entry.slice is None and not entry.looked:
            key = ObjectKey(model.key.namespace, externalslice.name(model.metadata.name))
            try:
                entry.slice = Child(ENDPOINT_SLICES, await self._store.get(ENDPOINT_SLICES, key))
            except NotFound:
                entry.slice = None
            entry.looked = True
        return [entry.slice] if entry.slice is not None else []


def runs_elsewhere(model: Model) -> bool:
    """Whether nothing has to be started for the Model."""
    try:
        return not backends.get(model.spec.backend).process
    except InvalidField:
        return False
