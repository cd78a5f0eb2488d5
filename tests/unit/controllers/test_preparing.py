"""From a Model to what its pods would be: the image, the processors, and why there can be no pods."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.support.models import T0, model

from flexinfer.api import defaults
from flexinfer.controllers.preparing import Prepared, Surroundings, prepare
from flexinfer.placement.clusternodes import ClusterNode
from flexinfer.resources.installation import Installation
from flexinfer.resources.model.cachefacts import CacheFacts

NODES = (ClusterNode(name="plain"), ClusterNode(name="amd", capacity={"amd.com/gpu": 1}))
DIGEST = "sha256:" + "0" * 64


def prepared(images: dict[str, str] | None = None, **spec: Any) -> Prepared:
    found = model(**spec)
    found = msgspec.structs.replace(found, spec=defaults.resolve(found.spec))
    installation = Installation(image="registry.lan/flexinfer:1", images=images or {})
    facts = CacheFacts(now=T0, installation=installation)
    return prepare(found, Surroundings(NODES, frozenset(), facts, installation))


@pytest.mark.parametrize(
    ("spec", "images", "image", "own"),
    [
        pytest.param({}, {}, "registry.lan/flexinfer:1", True, id="the simulator is FlexInfer itself"),
        pytest.param(
            {"backend": "llamacpp"},
            {"DEFAULT_LLAMACPP_IMAGE_CPU": "mine:1"},
            "mine:1",
            False,
            id="an installation's",
        ),
        pytest.param(
            {"backend": "llamacpp", "image": "theirs:2", "imageDigest": DIGEST},
            {"DEFAULT_LLAMACPP_IMAGE_CPU": "mine:1"},
            f"theirs:2@{DIGEST}",
            False,
            id="a Model's own, by digest",
        ),
        pytest.param(
            {"backend": "llamacpp", "gpu": {"vendor": "amd"}},
            {"DEFAULT_LLAMACPP_IMAGE_AMD": "rocm:1", "DEFAULT_LLAMACPP_IMAGE": "cuda:1"},
            "rocm:1",
            False,
            id="that of the vendor",
        ),
    ],
)
def test_image(spec, images, image, own):
    found = prepared(images, **spec)
    assert found.engine is not None
    assert (found.engine.image, found.engine.own_image) == (image, own)


@pytest.mark.parametrize(
    ("resources", "threads"),
    [
        pytest.param({}, "3", id="nothing said: four processors, of which one is left free"),
        pytest.param({"requests": {"cpu": "8"}}, "7", id="what is requested"),
        pytest.param({"requests": {"cpu": "2"}, "limits": {"cpu": "6"}}, "5", id="what it may use at most"),
        pytest.param({"limits": {"cpu": "500m"}}, "1", id="less than one"),
    ],
)
def test_threads_follow_the_processors_of_the_pod(resources, threads):
    found = prepared(backend="llamacpp", resources=resources)
    assert found.engine is not None
    args = found.engine.plan.args
    assert args[args.index("--threads") + 1] == threads


@pytest.mark.parametrize(
    ("spec", "reason", "words"),
    [
        pytest.param({"config": {"slots": "many"}}, "ConfigInvalid", "spec.config.slots", id="a value of a wrong type"),
        pytest.param({"backend": "comfyui"}, "BackendUnsupported", "does not run on a CPU", id="no CPU kernels"),
        pytest.param(
            {"backend": "diffusers", "gpu": {"vendor": "amd"}}, "ConfigInvalid", "has no official image", id="no image"
        ),
    ],
)
def test_why_there_can_be_no_pods(spec, reason, words):
    found = prepared(**spec)
    assert found.engine is None
    assert found.fault is not None
    assert (found.fault.reason, words in found.fault.message) == (reason, True)
