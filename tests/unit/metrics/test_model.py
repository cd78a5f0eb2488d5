"""What is shown of Models: one series for each, also of two that have one name."""

from __future__ import annotations

import msgspec
from tests.support.models import model

from flexinfer.api.v1alpha2.model import Model
from flexinfer.metrics.model import ModelMetrics
from flexinfer.metrics.registry import Registry


def loaded(name: str, namespace: str, node: str) -> Model:
    status = {"phase": "Ready", "gpu": {"node": node}, "metrics": {"loadTimeSeconds": "1.500"}}
    found = model(name, status=status)
    return msgspec.structs.replace(found, metadata=msgspec.structs.replace(found.metadata, namespace=namespace))


def test_load_times_go_by_name_and_by_namespace_where_the_name_is_not_enough():
    models = [loaded("llama", "a", "n1"), loaded("llama", "b", "n1"), loaded("qwen", "a", "n2")]
    text = Registry(ModelMetrics(lambda: models)).render().decode()
    shown = sorted(line for line in text.splitlines() if line.startswith("flexinfer_model_load_seconds{"))
    assert shown == [
        'flexinfer_model_load_seconds{model="a/llama",node="n1"} 1.5',
        'flexinfer_model_load_seconds{model="b/llama",node="n1"} 1.5',
        'flexinfer_model_load_seconds{model="qwen",node="n2"} 1.5',
    ]
