"""Fixtures of the chart's tests: helm, and expected results in files."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.golden.conftest import golden
from tests.support.helm import Helm

__all__ = ["golden"]


@pytest.fixture
def helm(tmp_path: Path) -> Helm:
    return Helm(tmp_path / "helm")
