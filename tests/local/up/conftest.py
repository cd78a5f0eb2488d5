"""Models with real weights, and the way to start `flexinfer up` on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from flexinfer.engine import demo_model

OTHER_SENTENCE = "a second model speaks other words and goes to sleep as well"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """The --models-dir, with two real models: demo.gguf and other.gguf."""
    folder = tmp_path / "models"
    folder.mkdir()
    demo_model.write(folder / "demo.gguf")
    demo_model.write(folder / "other.gguf", sentence=OTHER_SENTENCE)
    return folder


@pytest.fixture
def manifest() -> Callable[..., dict]:
    def manifest(
        name: str, backend: str = "llamacpp", source: str = "file:///models/demo.gguf", **spec: object
    ) -> dict:
        return {
            "apiVersion": "ai.flexinfer/v1alpha2",
            "kind": "Model",
            "metadata": {"name": name},
            "spec": {"backend": backend, "source": source, **spec},
        }

    return manifest
