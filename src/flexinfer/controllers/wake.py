"""Wake: the Service of a Model leads to the proxies while no replica of it can be called, so that its URL wakes it.

Readiness is what the EndpointSlices of the Service say, as whoever dials it sees it. A slice of ours is written
when that or the set of proxies changes, and compared with what is there before: a manager that starts anew
writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from flexinfer import logs
from flexinfer.api.meta import ObjectKey
from flexinfer.api.v1alpha2.model import Model
from flexinfer.api.wellknown import LABEL_HEADLESS, LABEL_SERVICE_NAME, LABEL_SLICE_MANAGED_BY
from flexinfer.errors import NotFound
from flexinfer.kube import typed
from flexinfer.kube.controller import Result
from flexinfer.kube.informer import Informer
from flexinfer.kube.scoped import ScopedInformer
from flexinfer.kube.store import ENDPOINT_SLICES, Object, ObjectStore
from flexinfer.lifecycle.modelfacts import holding
from flexinfer.resources import names, wakeslice
from flexinfer.resources.wakeslice import MANAGED_BY, PORT_NAME, Slice

log = logs.get("controller.wake")

FIELD_MANAGER = "flexinfer-manager"

_read = typed.reader(typed.EndpointSlice)


class Seen(NamedTuple):
    """What is kept of an EndpointSlice."""

    name: str
    uid: str
    service: str
    ours: bool
    what: Slice


def decode(obj: Object) -> Seen:
    found = _read(obj)
    port = next((port.port for port in found.ports or () if port.name == PORT_NAME), 0)
    labels = found.metadata.labels
    # What is for the proxies alone is nothing that callers of the Service reach.
    endpoints = () if LABEL_HEADLESS in labels else found.endpoints or ()
    callable_ones = (one for one in endpoints if one.conditions.ready is not False)
    ready = sorted(address for one in callable_ones for address in one.addresses)
    return Seen(
        name=found.metadata.name,
        uid=found.metadata.uid,
        service=labels.get(LABEL_SERVICE_NAME, ""),
        ours=labels.get(LABEL_SLICE_MANAGED_BY) == MANAGED_BY,
        what=Slice(found.address_type, tuple(ready), port),
    )


class WakeReconciler:
    """Keys are those of Models."""

    def __init__(
        self,
        store: ObjectStore,
        models: ScopedInformer[Model],
        slices: ScopedInformer[Seen],
        proxies: Informer[Seen],
        *,
        reachable: bool = True,
    ) -> None:
        """`slices` are those of the Models' Services, `proxies` those of the proxies' Service.

        Not `reachable`: callers of a Service may not reach the proxies, so a closed port tells them sooner.
        """
        self._reachable = reachable
        self._store = store
        self._models = models
        self._slices = slices
        self._proxies = proxies
        self._model_of: dict[ObjectKey, ObjectKey] = {}
        """By Service."""
        self._by_service: dict[ObjectKey, dict[str, Seen]] = {}

    def watch(self, enqueue: Callable[[ObjectKey], None]) -> None:
        """`enqueue` gets every Model there is, and those that a change concerns."""

        def model_changed(key: ObjectKey, _old: Model | None, new: Model | None) -> None:
            service = ObjectKey(key.namespace, names.service(key.name))
            if new is None:
                self._model_of.pop(service, None)
            else:
                self._model_of[service] = key
            enqueue(key)

        def slice_changed(key: ObjectKey, old: Seen | None, new: Seen | None) -> None:
            for one in (old, new):
                if one is None:
                    continue
                service = ObjectKey(key.namespace, one.service)
                known = self._by_service.setdefault(service, {})
                known.pop(key.name, None)
                if one is new:
                    known[key.name] = one
                if not known:
                    del self._by_service[service]
                if (model := self._model_of.get(service)) is not None:
                    enqueue(model)

        def proxies_changed(_key: ObjectKey, old: Seen | None, new: Seen | None) -> None:
            if old is None or new is None or old.what != new.what:
                for key in list(self._model_of.values()):
                    enqueue(key)

        self._slices.add_handler(slice_changed)
        self._models.add_handler(model_changed)
        self._proxies.add_handler(proxies_changed)

    async def reconcile(self, key: ObjectKey) -> Result:
        model = self._models.get(key)
        if model is None or model.metadata.deletion_timestamp is not None:
            # Its owner reference has the slice collected.
            return Result()
        known = self._by_service.get(ObjectKey(key.namespace, names.service(key.name)), {}).values()
        ready = [address for one in known if not one.ours for address in one.what.addresses]
        wanted: dict[str, Slice] = {}
        if self._reachable and wakeslice.leads_to_proxies(holding(model), ready):
            wanted = wakeslice.wanted(
                address for _, one in self._proxies.items() if not one.ours for address in one.what.addresses
            )
        there = {one.name: one for one in known if one.ours}
        for kind, what in wanted.items():
            one = there.pop(wakeslice.name(key.name, kind), None)
            if one is None or one.what != what:
                log.info("service leads to the proxies", model=str(key), addresses=len(what.addresses))
                obj = wakeslice.build(model, what)
                await self._store.apply(ENDPOINT_SLICES, obj, field_manager=FIELD_MANAGER, force=True)
        for one in there.values():
            try:
                await self._store.delete(ENDPOINT_SLICES, ObjectKey(key.namespace, one.name), uid=one.uid)
            except NotFound:
                continue
            log.info("service leads to its replicas", model=str(key))
        return Result()
