"""The models and manifests of the tests of `up`."""

from __future__ import annotations

from tests.local.up.conftest import manifest, models

__all__ = ["manifest", "models"]
