"""What every test may use: the manual clock; and the seeds that property tests draw from.

`make test` draws the same examples each time; `make soak` (FLEXINFER_RANDOM_SEEDS=1) draws new ones.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import hypothesis
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.manual_clock import ManualClock

# A test that wants a hub names its own; whatever else asks for one meets a closed port of this machine.
os.environ["HF_ENDPOINT"] = "http://127.0.0.1:9"
hypothesis.settings.register_profile("fixed", derandomize=True, deadline=None)
hypothesis.settings.register_profile("random", derandomize=False, deadline=None)
hypothesis.settings.load_profile("random" if os.environ.get("FLEXINFER_RANDOM_SEEDS") else "fixed")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()
