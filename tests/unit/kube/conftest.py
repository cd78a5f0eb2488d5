from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.manual_clock import ManualClock
from tests.support.manual_timers import ManualTimers


@pytest.fixture(autouse=True)
def logged() -> Iterator[list[Any]]:
    """What the test logged, instead of the terminal."""
    with capture_logs() as entries:
        yield entries


@pytest.fixture
def timers(clock: ManualClock) -> ManualTimers:
    return ManualTimers(clock)
