"""What a backend starts on one machine for a manifest: argv, environment, health path, slots, memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from flexinfer import backends
from flexinfer.api import codec, documents
from flexinfer.api.v1alpha2.model import Model
from flexinfer.backends.base import Artifact, Device, Site

CASES = sorted(path.parent for path in Path(__file__).parent.glob("backends/*/model.yaml"))

NVIDIA = Device(vendor="nvidia", index=0, uuid="GPU-11111111", product="RTX 3090", arch="sm_86", vram_mib=24576)
AMD = Device(vendor="amd", index=0, product="RX 7900 XTX", arch="gfx1100", vram_mib=24560)


def load(case: Path) -> Model:
    (document,) = documents.parse((case / "model.yaml").read_text(), "model.yaml")
    return codec.from_object(document.object)


def artifact(model: Model) -> Artifact:
    reads = backends.get(model.spec.backend).reads
    name = model.spec.source.partition("://")[2]
    if reads == "gguf":
        return Artifact(path=f"/srv/{name.lstrip('/')}", size_bytes=4 * 2**30)
    if reads == "checkpoint":
        return Artifact(path=f"/srv/models/{name}", model_id=name, size_bytes=14 * 2**30)
    return Artifact(model_id=name if reads == "registry" else "")


def devices(model: Model) -> tuple[Device, ...]:
    gpu = model.spec.gpu
    if gpu is None or gpu.vendor in ("auto", "cpu"):
        return ()
    first = NVIDIA if gpu.vendor == "nvidia" else AMD
    return tuple(msgspec.structs.replace(first, index=index) for index in range(gpu.count or 1))


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.name)
def test_the_plan_of_a_manifest_is_as_written(case: Path, golden: Callable[[Path, str], None]):
    model = load(case)
    site = Site(
        host="127.0.0.1",
        port=40000,
        artifact=artifact(model),
        devices=devices(model),
        cores=8,
        state_dir="/state/engine",
    )
    plan = backends.get(model.spec.backend).plan(model, site)
    text = msgspec.json.format(msgspec.json.encode(plan, order="deterministic"), indent=2).decode() + "\n"
    golden(case / "plan.json", text)
