"""The stores and the places that the suites of ObjectStore and Workloads hold to their promises."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support import objectstores, places
from tests.support.objectstores import Subject


@pytest.fixture(params=objectstores.IMPLEMENTATIONS)
async def subject(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Subject]:
    async with objectstores.IMPLEMENTATIONS[request.param](tmp_path) as one:
        yield one


@pytest.fixture(params=["simulated", "local"])
async def workloads(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[places.Subject]:
    if request.param == "simulated":
        yield places.Subject(places.Simulated())
        return
    async with places.local(tmp_path) as place:
        yield places.Subject(place)
