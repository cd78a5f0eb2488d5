"""The ObjectStores that run on this machine alone, as the suite `tests/contract/test_objectstore.py` takes them.

A further one is one more `Subject`: `tests/cluster/test_objectstore.py` makes it of a real API server.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from aiohttp import web

from flexinfer.clock import SystemClock
from flexinfer.kube import apiserver, config
from flexinfer.kube.memory import MemoryStore
from flexinfer.kube.store import CONFIG_MAPS, DEPLOYMENTS, ENDPOINT_SLICES, MODELS, ObjectStore

HISTORY = 32


class Subject(NamedTuple):
    store: ObjectStore
    namespace: str
    forgotten_version: Callable[[], Awaitable[str]]
    """Returns a version of Models that the store can no longer watch from."""


def _subject(store: ObjectStore) -> Subject:
    async def forgotten_version() -> str:
        before = (await store.list(MODELS)).resource_version
        for number in range(HISTORY + 1):
            obj = {"metadata": {"name": f"filler-{number}", "namespace": "filler"}}
            await store.create(MODELS, obj)
        return before

    return Subject(store, "default", forgotten_version)


@asynccontextmanager
async def memory(_folder: Path) -> AsyncGenerator[Subject, None]:
    yield _subject(MemoryStore(SystemClock(), history=HISTORY))


@asynccontextmanager
async def http(folder: Path) -> AsyncGenerator[Subject, None]:
    """The client over our own REST front."""
    store = MemoryStore(SystemClock(), history=HISTORY)
    runner = web.AppRunner(apiserver.build_app(store, (MODELS, CONFIG_MAPS, ENDPOINT_SLICES, DEPLOYMENTS)))
    await runner.setup()
    await web.UnixSite(runner, str(folder / "api.sock")).start()
    async with config.unix_socket(folder / "api.sock") as client:
        yield _subject(client)
    await runner.cleanup()


IMPLEMENTATIONS = {"memory": memory, "http": http}
