"""Informers of one kind over some namespaces, used as one: RBAC may allow a process no more than these."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

from flexinfer.api.meta import ObjectKey
from flexinfer.kube.informer import Handler, Informer
from flexinfer.kube.store import EVERYTHING, Object, ObjectStore, Resource, Selection

T = TypeVar("T")
Seen_co = TypeVar("Seen_co", covariant=True)


class Watched(Protocol[Seen_co]):
    """What tells of every object there is and of each change: one informer, or several."""

    def add_handler(self, handler: Handler[Seen_co]) -> None: ...


class ScopedInformer(Generic[T]):
    """All namespaces where none is named."""

    def __init__(
        self,
        store: ObjectStore,
        resource: Resource,
        decode: Callable[[Object], T],
        namespaces: Sequence[str] = (),
        labels: Mapping[str, str] = EVERYTHING.labels,
    ) -> None:
        scopes: tuple[str | None, ...] = tuple(dict.fromkeys(namespaces)) or (None,)
        self._informers = {scope: Informer(store, resource, decode, Selection(scope, labels)) for scope in scopes}

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for informer in self._informers.values():
                group.create_task(informer.run())

    def get(self, key: ObjectKey) -> T | None:
        informer = self._informers.get(key.namespace) or self._informers.get(None)
        return informer.get(key) if informer is not None else None

    def items(self) -> list[tuple[ObjectKey, T]]:
        """All objects as they are now, in no particular order."""
        return [item for informer in self._informers.values() for item in informer.items()]

    def add_handler(self, handler: Handler[T]) -> None:
        for informer in self._informers.values():
            informer.add_handler(handler)

    @property
    def synced(self) -> bool:
        """Every namespace has been listed once."""
        return all(informer.synced.is_set() for informer in self._informers.values())

    async def wait_synced(self) -> None:
        for informer in self._informers.values():
            await informer.wait_synced()

    def silent_s(self) -> float | None:
        """Seconds since the namespace that was last heard of the longest ago; None before the first lists."""
        silences = [informer.silent_s() for informer in self._informers.values()]
        return None if None in silences else max(silence for silence in silences if silence is not None)
