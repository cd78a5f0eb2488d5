from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.support.world import World, living


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with living(World()) as world:
        yield world
