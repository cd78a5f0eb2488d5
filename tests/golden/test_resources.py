"""The objects that a cluster is to hold for a Model: `tests/golden/resources/<case>/{model.yaml,expected.yaml}`.

Every case stands on the same nodes: one with eight L40S, one with two RX 7900 XTX, one with an old GTX 980 Ti.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
import yaml

from flexinfer.api import codec, defaults, documents
from flexinfer.controllers.preparing import Surroundings, prepare
from flexinfer.placement.clusternodes import ClusterNode
from flexinfer.resources import model as resources
from flexinfer.resources.installation import Installation
from flexinfer.resources.model.cachefacts import CacheFacts

CASES = Path(__file__).parent / "resources"
INSTALLATION = Installation(image="ghcr.io/flexinfer/flexinfer:1.0.0", model_access="namespace")
NODES = (
    ClusterNode(
        name="ada",
        capacity={"nvidia.com/gpu": 8},
        labels={
            "nvidia.com/gpu.compute.major": "8",
            "nvidia.com/gpu.compute.minor": "9",
            "nvidia.com/gpu.memory": "46068",
        },
    ),
    ClusterNode(
        name="radeon",
        capacity={"amd.com/gpu": 2},
        labels={"gpu.amd.com/gpu-architecture": "gfx1100", "amd.com/gpu.vram": "24G"},
    ),
    ClusterNode(
        name="old",
        capacity={"nvidia.com/gpu": 1},
        labels={
            "nvidia.com/gpu.compute.major": "5",
            "nvidia.com/gpu.compute.minor": "2",
            "nvidia.com/gpu.memory": "6144",
        },
    ),
)


@pytest.mark.parametrize("case", sorted(path.name for path in CASES.iterdir()))
def test_children(case: str, golden):
    file = CASES / case / "model.yaml"
    [document] = documents.parse(file.read_bytes(), str(file))
    model = codec.from_object(document.object)
    model = msgspec.structs.replace(model, spec=defaults.resolve(model.spec))
    installation = INSTALLATION
    facts = CacheFacts(now=datetime(2026, 1, 1, tzinfo=UTC), installation=installation)
    prepared = prepare(model, Surroundings(NODES, frozenset({"nvidia"}), facts, installation))
    assert prepared.fault is None
    assert prepared.engine is not None
    pods = resources.pods(model, prepared.engine, prepared.data, installation)
    children = resources.build(model, 1, pods, prepared.engine.plan.port, installation)
    text = yaml.safe_dump_all(json.loads(json.dumps(children)), sort_keys=False, width=120)
    golden(CASES / case / "expected.yaml", text)
