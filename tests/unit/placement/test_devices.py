"""Which devices a model gets."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from flexinfer.api.meta import ObjectMeta
from flexinfer.api.v1alpha2.model import GPU, Model, ModelSpec
from flexinfer.backends.base import Device
from flexinfer.placement import devices, room
from flexinfer.placement.devices import Choice, Held
from flexinfer.placement.nodefacts import NodeFacts, Reading


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
                message="needs 20000 MiB; nvidia:0 (A5000) has 0 of 24000 MiB left (other holds it whole); "
                "nvidia:3 (A5000) has 0 of 24000 MiB left (other holds it whole)",
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
                mib=90000,
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


AT = datetime(2026, 11, 25, 4, 0, tzinfo=UTC)


def read(device: Device, free_mib: int | None) -> Reading:
    return Reading(vendor=device.vendor, index=device.index, free_mib=free_mib, at=AT)


H100 = card(0, 81152, "H100", "sm_90")


def test_memory_of_foreign_processes_counts_and_the_reason_has_the_numbers() -> None:
    box = NodeFacts(devices=(H100,), readings=(read(H100, 328),))
    assert devices.choose(model(vendor="nvidia"), box, [], need_mib=20480) == Choice(
        reason="VRAMInsufficient",
        wait=True,
        message="needs 20480 MiB; nvidia:0 (H100) has 328 of 81152 MiB left (80824 MiB are taken outside FlexInfer, "
        "read at 2026-11-25 04:00:00 UTC)",
    )
    later = NodeFacts(devices=(H100,), readings=(read(H100, 71680),))
    assert devices.choose(model(vendor="nvidia"), later, [], need_mib=20480).devices == (H100,)


@pytest.mark.parametrize(
    ("used_mib", "left_mib"),
    [
        pytest.param(None, 18500, id="an engine that is up has what it was promised"),
        pytest.param(0, 10000, id="while it loads, what is taken is somebody else's"),
    ],
)
def test_what_holders_use_is_not_foreign(used_mib: int | None, left_mib: int) -> None:
    one = card(0, 30000)
    box = NodeFacts(devices=(one,), readings=(read(one, 20000),))
    holding = Held(vendor="nvidia", index=0, by="other", mib=10000, used_mib=used_mib)
    assert room.of_device(one, box, [holding]).left_mib == left_mib


def test_two_cards_of_which_one_is_partly_taken_are_not_an_even_split() -> None:
    first, second = card(0, 24564, "RTX 4090"), card(1, 24564, "RTX 4090")
    box = NodeFacts(devices=(first, second), readings=(read(first, 20468), read(second, 24564)))
    choice = devices.choose(model("vllm", "HF://org/m", vendor="nvidia", count=2), box, [], need_mib=43909)
    assert (choice.devices, choice.reason, choice.wait) == ((), "VRAMInsufficient", True)
    assert choice.message == (
        "needs 21955 MiB on each of 2 GPUs; nvidia:0 (RTX 4090) has 20468 of 24564 MiB left (4096 MiB are taken "
        "outside FlexInfer, read at 2026-11-25 04:00:00 UTC); nvidia:1 (RTX 4090) has 23335 of 24564 MiB left"
    )


CPU_BOX = NodeFacts(memory_mib=16000, memory_free_mib=12000, at=AT)


@pytest.mark.parametrize(
    ("need", "holdings", "expected"),
    [
        pytest.param(8000, [], Choice(mib=8000), id="it fits"),
        pytest.param(
            15201, [],
            Choice(
                reason="MemoryInsufficient",
                message="needs 15201 MiB of memory, this machine has 16000 MiB, of which 95% can be used",
            ), id="it never fits",
        ),
        pytest.param(
            12001, [],
            Choice(
                reason="MemoryInsufficient", wait=True,
                message="needs 12001 MiB of memory; this machine has 12000 of 16000 MiB left (4000 MiB are taken "
                "outside FlexInfer, read at 2026-11-25 04:00:00 UTC)",
            ), id="other programs have it",
        ),
        pytest.param(
            9000, [Held(vendor="cpu", index=0, by="a", mib=7000, used_mib=0)],
            Choice(
                reason="MemoryInsufficient", wait=True,
                message="needs 9000 MiB of memory; this machine has 5000 of 16000 MiB left (a holds 7000 MiB; 4000 MiB "
                "are taken outside FlexInfer, read at 2026-11-25 04:00:00 UTC)",
            ), id="other models have it",
        ),
    ],
)  # fmt: skip
def test_models_on_the_cpu_need_memory(need: int, holdings: list[Held], expected: Choice) -> None:
    assert devices.choose(model(), CPU_BOX, holdings, need_mib=need) == expected


@pytest.mark.parametrize(
    ("limit", "need", "holdings", "expected"),
    [
        pytest.param(4096, 4096, [], Choice(mib=4096), id="all of the limit can be used"),
        pytest.param(
            4096, 4097, [],
            Choice(
                reason="MemoryInsufficient",
                message="needs 4097 MiB of memory, all engines together may use 4096 MiB (--memory)",
            ), id="more than the limit never fits",
        ),
        pytest.param(
            4096, 2000, [Held(vendor="cpu", index=0, by="a", mib=3000)],
            Choice(
                reason="MemoryInsufficient", wait=True,
                message="needs 2000 MiB of memory; the limit of --memory has 1096 of 4096 MiB left (a holds 3000 MiB)",
            ), id="others have it",
        ),
        pytest.param(
            13000, 12001, [],
            Choice(
                reason="MemoryInsufficient", wait=True,
                message="needs 12001 MiB of memory; this machine has 12000 of 16000 MiB left (4000 MiB are taken "
                "outside FlexInfer, read at 2026-11-25 04:00:00 UTC)",
            ), id="what the machine has left is less",
        ),
        pytest.param(
            64000, 15201, [],
            Choice(
                reason="MemoryInsufficient",
                message="needs 15201 MiB of memory, this machine has 16000 MiB, of which 95% can be used",
            ), id="a limit above what there is changes nothing",
        ),
    ],
)  # fmt: skip
def test_a_limit_for_all_engines(limit: int, need: int, holdings: list[Held], expected: Choice) -> None:
    node = msgspec.structs.replace(CPU_BOX, memory_limit_mib=limit)
    assert devices.choose(model(), node, holdings, need_mib=need) == expected


def test_auto_that_fits_nowhere_says_both_reasons() -> None:
    choice = devices.choose(model(vendor="auto", vram_estimate_mb=90000), NodeFacts(memory_mib=1000), [])
    assert choice == Choice(
        reason="MemoryInsufficient",
        message="would run on the CPU (this machine has no GPU that FlexInfer can use) and needs 90000 MiB of memory, "
        "this machine has 1000 MiB, of which 95% can be used",
    )


GB10 = Device(vendor="nvidia", index=0, product="GB10", arch="sm_121", vram_mib=128000, unified=True)


def test_unified_memory_is_counted_once() -> None:
    box = NodeFacts(devices=(GB10,), memory_mib=128000)
    on_cpu = Held(vendor="cpu", index=0, by="a", mib=100000)
    on_gpu = Held(vendor="nvidia", index=0, by="b", mib=100000)
    assert devices.choose(model(vendor="nvidia"), box, [], need_mib=40000).devices == (GB10,)
    assert devices.choose(model(vendor="nvidia"), box, [on_cpu], need_mib=40000).message == (
        "needs 40000 MiB; nvidia:0 (GB10) has 21600 of 128000 MiB left (a holds 100000 MiB)"
    )
    assert devices.choose(model(), box, [on_gpu], need_mib=40000).message == (
        "needs 40000 MiB of memory; this machine has 21600 of 128000 MiB left (b holds 100000 MiB)"
    )


def test_a_gpu_that_was_left_out_is_named_in_the_reason() -> None:
    box = NodeFacts(left_out=("Radeon 610M is left out: integrated",), memory_mib=8000)
    assert devices.choose(model(vendor="amd"), box, []).message == (
        "this machine has no amd GPU (Radeon 610M is left out: integrated)"
    )
    assert devices.choose(model(vendor="auto"), box, []).message == (
        "runs on the CPU: Radeon 610M is left out: integrated"
    )


def test_without_an_estimate_a_card_that_others_use_is_not_taken() -> None:
    box = NodeFacts(devices=(BIG, SMALL), readings=(read(BIG, 1000),))
    assert devices.choose(model(vendor="nvidia"), box, []).devices == (SMALL,)


def test_what_a_choice_holds() -> None:
    assert Choice(devices=(BIG, BIG2), mib=5).holds("m") == (
        Held(vendor="nvidia", index=0, by="m", mib=5),
        Held(vendor="nvidia", index=3, by="m", mib=5),
    )
    assert Choice(mib=5).holds("m") == (Held(vendor="cpu", index=0, by="m", mib=5),)
    assert Choice(mib=5, reason="VRAMInsufficient").holds("m") == Choice().holds("m") == ()
