"""What a pod is like because of where its bytes are."""

from __future__ import annotations

import msgspec
from tests.support.bytes_of_models import COPY, OURS, claim_for, facts, hub_model

from flexinfer.api import defaults
from flexinfer.controllers.preparing import Surroundings, prepare
from flexinfer.resources.model import pod


def test_files_in_memory_come_on_top_of_what_the_engine_is_given():
    asked = {"limits": {"memory": "1Gi", "cpu": "2"}, "requests": {"memory": "512Mi"}}
    one = hub_model(cache={"strategy": "Memory"}, resources=asked)
    one = msgspec.structs.replace(one, spec=defaults.resolve(one.spec))
    around = Surroundings((), frozenset(), facts(one, claims=(claim_for(one, copy=COPY),)), OURS)
    prepared = prepare(one, around)
    assert prepared.engine is not None
    spec = pod.template(one, prepared.engine, prepared.data, OURS)["spec"]
    assert spec["containers"][0]["resources"] == {
        "limits": {"memory": str(2**30 + 1000), "cpu": "2"},
        "requests": {"memory": str(2**29 + 1000)},
    }
    assert [one["name"] for one in spec["initContainers"]] == ["stage"]
