"""Models and sites in one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from flexinfer.api.meta import ObjectMeta
from flexinfer.api.v1alpha2.model import GPU, Model, ModelSpec
from flexinfer.backends.base import Artifact, Device, Site


@pytest.fixture
def model() -> Callable[..., Model]:
    def make(
        backend: str = "llamacpp", source: str = "file:///models/m.gguf", vendor: Any = None, **config: Any
    ) -> Model:
        gpu = GPU(vendor=vendor) if vendor else None
        return Model(
            metadata=ObjectMeta(name="m"), spec=ModelSpec(backend=backend, source=source, gpu=gpu, config=config)
        )

    return make


@pytest.fixture
def site() -> Callable[..., Site]:
    def make(*devices: Device, size_bytes: int = 4 * 2**30, cores: int = 8, **artifact: Any) -> Site:
        given = {"path": "/srv/m.gguf", "size_bytes": size_bytes} | artifact
        return Site(host="127.0.0.1", port=40000, artifact=Artifact(**given), devices=devices, cores=cores)

    return make
