"""Models for tests: the shortest way to write one that differs in the fields a test is about."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from flexinfer.api import codec
from flexinfer.api.v1alpha2.model import Model

T0 = datetime(2026, 1, 1, tzinfo=UTC)


def manifest(name: str = "m", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "ai.flexinfer/v1alpha2",
        "kind": "Model",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"backend": "simulator", "source": "file:///models/m.gguf", **spec},
    }


def model(name: str = "m", status: dict[str, Any] | None = None, **spec: Any) -> Model:
    obj = manifest(name, **spec)
    obj["metadata"] |= {"uid": f"uid-{name}", "generation": 1, "resourceVersion": "1"}
    obj["status"] = status or {}
    return codec.from_object(obj)
