"""The EndpointSlices of one machine's replicas, written when they change and not before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from flexinfer import logs
from flexinfer.api.meta import ObjectKey
from flexinfer.api.v1alpha2.model import Model
from flexinfer.errors import NotFound
from flexinfer.kube.store import ENDPOINT_SLICES, ObjectStore
from flexinfer.resources import endpointslice

log = logs.get("local")

FIELD_MANAGER = "flexinfer-local"


class Address(NamedTuple):
    """Where a replica that is ready listens, and whether clients may be sent to it."""

    host: str
    port: int
    serving: bool


class Slices:
    """The slices of one Model, by index of the replica."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._written: dict[int, Address] = {}

    async def publish(self, model: Model, addresses: Mapping[int, Address]) -> None:
        """Exactly these."""
        await self.withdraw(model.key, [index for index in self._written if index not in addresses])
        for index, address in addresses.items():
            if self._written.get(index) != address:
                obj = endpointslice.build(model, index, address.host, address.port, ready=address.serving)
                await self._store.apply(ENDPOINT_SLICES, obj, field_manager=FIELD_MANAGER, force=True)
                self._written[index] = address

    async def withdraw(self, key: ObjectKey, indexes: list[int] | None = None) -> None:
        """These, or all."""
        for index in list(self._written) if indexes is None else indexes:
            if index not in self._written:
                continue
            try:
                await self._store.delete(ENDPOINT_SLICES, ObjectKey(key.namespace, endpointslice.name(key.name, index)))
            except NotFound:
                log.debug("an endpoint slice was gone already", model=str(key), replica=index)
            del self._written[index]
