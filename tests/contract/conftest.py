"""The stores and the places that the suites of ObjectStore and Workloads hold to their promises.

A further store (a real API server) is one more branch of `subject`: a store, a namespace of its own,
and a way to make it forget a version.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from aiohttp import web
from tests.support import places

from flexinfer.clock import SystemClock
from flexinfer.kube import apiserver, config
from flexinfer.kube.memory import MemoryStore
from flexinfer.kube.store import CONFIG_MAPS, ENDPOINT_SLICES, MODELS, ObjectStore

HISTORY = 32


class Subject(NamedTuple):
    store: ObjectStore
    namespace: str
    forgotten_version: Callable[[], Awaitable[str]]
    """Returns a version of ConfigMaps that the store can no longer watch from."""


def _subject(store: ObjectStore) -> Subject:
    async def forgotten_version() -> str:
        before = (await store.list(CONFIG_MAPS)).resource_version
        for number in range(HISTORY + 1):
            obj = {"metadata": {"name": f"filler-{number}", "namespace": "filler"}}
            await store.create(CONFIG_MAPS, obj)
        return before

    return Subject(store, "default", forgotten_version)


@pytest.fixture(params=["memory", "http"])
async def subject(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Subject]:
    memory = MemoryStore(SystemClock(), history=HISTORY)
    if request.param == "memory":
        yield _subject(memory)
        return
    runner = web.AppRunner(apiserver.build_app(memory, (MODELS, CONFIG_MAPS, ENDPOINT_SLICES)))
    await runner.setup()
    await web.UnixSite(runner, str(tmp_path / "api.sock")).start()
    async with config.unix_socket(tmp_path / "api.sock") as client:
        yield _subject(client)
    await runner.cleanup()


@pytest.fixture(params=["simulated", "local"])
async def workloads(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[places.Subject]:
    if request.param == "simulated":
        yield places.Subject(places.Simulated())
        return
    async with places.local(tmp_path) as place:
        yield places.Subject(place)
