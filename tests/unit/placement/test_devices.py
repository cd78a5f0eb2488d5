"""Which devices a model gets."""

from __future__ import annotations

from typing import Any

import pytest

from flexinfer.api.meta import ObjectMeta
from flexinfer.api.v1alpha2.model import GPU, Model, ModelSpec
from flexinfer.backends.base import Device
from flexinfer.placement import devices
from flexinfer.placement.devices import Choice, Held
from flexinfer.placement.nodefacts import NodeFacts


def card(index: int, vram_mib: int, product: str = "", arch: str = "sm_89", vendor: Any = "nvidia") -> Device:
    return Device(vendor=vendor, index=index, vram_mib=vram_mib, product=product, arch=arch)


def model(backend: str = "llamacpp", source: str = "file:///models/m.gguf", **gpu: Any) -> Model:
    spec = ModelSpec(backend=backend, source=source, gpu=GPU(**gpu) if gpu else None)
    return Model(metadata=ObjectMeta(name="m"), spec=spec)


BIG, SMALL, OLD = card(0, 24000, "A5000"), card(1, 8000, "T4"), card(2, 2000, "K620", "sm_50")
BIG2 = card(3, 24000, "A5000")
AMD = card(0, 32000, "W7800", "gfx1100", "amd")
NVIDIA_BOX = NodeFacts(devices=(BIG, SMALL, OLD, BIG2))
BOTH = NodeFacts(devices=(SMALL, AMD))
NONE = NodeFacts(problems=("nvidia card 10de:2684 at 0000:01:00.0 cannot be used: install NVIDIA's driver",))


def held(device: Device, mib: int = 0) -> Held:
    return Held(vendor=device.vendor, index=device.index, by="other", mib=mib)


@pytest.mark.parametrize(
    ("wanted", "node", "holdings", "expected"),
    [
        pytest.param(model(), NVIDIA_BOX, [], Choice(), id="no gpu in the spec means CPU"),
        pytest.param(model(vendor="cpu"), NVIDIA_BOX, [], Choice(), id="vendor cpu means CPU"),
        pytest.param(
            model(vendor="nvidia", vram_estimate_mb=6000), NVIDIA_BOX, [], Choice(devices=(SMALL,), mib=6000),
            id="the tightest card that fits",
        ),
        pytest.param(
            model(vendor="nvidia"), NVIDIA_BOX, [], Choice(devices=(BIG,)), id="without an estimate the largest card"
        ),
        pytest.param(
            model(vendor="nvidia"), NVIDIA_BOX, [held(BIG, 1000)], Choice(devices=(BIG2,)),
            id="without an estimate a card that nobody holds",
        ),
        pytest.param(
            model(vendor="nvidia", vram_estimate_mb=6000), NVIDIA_BOX, [held(SMALL, 1601)],
            Choice(devices=(BIG,), mib=6000), id="one MiB short goes to the next card",
        ),
        pytest.param(
            model(vendor="nvidia", vram_estimate_mb=6000), NVIDIA_BOX, [held(SMALL, 1600)],
            Choice(devices=(SMALL,), mib=6000), id="two models share a card that has room for both",
        ),
        pytest.param(
            model(vendor="nvidia", count=2, vram_estimate_mb=20000), NVIDIA_BOX, [],
            Choice(devices=(BIG, BIG2), mib=10000), id="two cards of one product, never the small one",
        ),
        pytest.param(
            model(vendor="nvidia", count=5), NVIDIA_BOX, [],
            Choice(
                reason="NoMatchingNodes", message="needs 5 nvidia GPUs, this machine has 4 that can run it"
            ), id="more cards than there are",
        ),
        pytest.param(
            model(vendor="nvidia", vram_estimate_mb=22801), NVIDIA_BOX, [],
            Choice(
                reason="VRAMInsufficient",
                message="needs 22801 MiB, the largest nvidia GPU has 24000 MiB, of which 95% can be used",
            ), id="more memory than any card has",
        ),
        pytest.param(
            model(vendor="nvidia", vram_estimate_mb=20000), NVIDIA_BOX, [held(BIG), held(BIG2)],
            Choice(
                reason="VRAMInsufficient", wait=True,
                message="needs 20000 MiB; the GPUs that could do are held by other",
            ), id="held by others: it may wait",
        ),
        pytest.param(
            model(vendor="amd"), NVIDIA_BOX, [],
            Choice(reason="NoMatchingNodes", message="this machine has no amd GPU"), id="no card of that vendor",
        ),
        pytest.param(
            model(vendor="nvidia"), NONE, [],
            Choice(
                reason="NoMatchingNodes",
                message="this machine has no nvidia GPU (nvidia card 10de:2684 at 0000:01:00.0 cannot be used: "
                "install NVIDIA's driver)",
            ), id="a card without a driver is named",
        ),
        pytest.param(
            model("vllm", "HF://org/m", vendor="nvidia"), NodeFacts(devices=(OLD,)), [],
            Choice(
                reason="BackendUnsupported",
                message="vllm does not run on sm_50: Maxwell (compute capability 5.x) has no kernels for it",
            ), id="vllm on Maxwell",
        ),
        pytest.param(
            model("vllm", "HF://org/m", vendor="nvidia", count=2), NodeFacts(devices=(BIG, OLD)), [],
            Choice(
                reason="NoMatchingNodes", message="needs 2 nvidia GPUs, this machine has 1 that can run it"
            ), id="a Maxwell card does not count for vllm",
        ),
        pytest.param(
            model("diffusers", "HF://org/m"), NVIDIA_BOX, [],
            Choice(
                reason="BackendUnsupported",
                message="diffusers does not run on a CPU (an image would take minutes), and spec.gpu is not set",
            ), id="a backend that needs a GPU and was given none",
        ),
        pytest.param(
            model(vendor="auto"), BOTH, [],
            Choice(devices=(AMD,), message="auto chose amd: it has more room than nvidia"),
            id="auto with two vendors chooses and says why",
        ),
        pytest.param(
            model(vendor="auto"), NodeFacts(), [],
            Choice(message="runs on the CPU: this machine has no GPU that FlexInfer can use"),
            id="auto without a card takes the CPU and says why",
        ),
        pytest.param(
            model(vendor="auto", vram_estimate_mb=90000), BOTH, [],
            Choice(
                message="runs on the CPU: needs 90000 MiB, the largest nvidia GPU has 8000 MiB, of which 95% can be "
                "used; needs 90000 MiB, the largest amd GPU has 32000 MiB, of which 95% can be used",
            ), id="auto with cards that are too small",
        ),
        pytest.param(
            model("external", "http://127.0.0.1:1", vendor="nvidia"), NONE, [], Choice(),
            id="a server that runs elsewhere takes nothing here",
        ),
    ],
)  # fmt: skip
def test_choose(wanted: Model, node: NodeFacts, holdings: list[Held], expected: Choice) -> None:
    assert devices.choose(wanted, node, holdings) == expected


def test_auto_takes_the_cpu_where_no_engine_can_use_a_gpu() -> None:
    assert devices.choose(model(vendor="auto"), BOTH, [], gpu_engine=False) == Choice(
        message="runs on the CPU: no engine that can use a GPU is installed"
    )


def test_the_plans_estimate_counts_where_the_manifest_has_none() -> None:
    assert devices.choose(model(vendor="nvidia"), NVIDIA_BOX, [], need_mib=6000).devices == (SMALL,)
