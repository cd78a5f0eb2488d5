"""Whatever is asked for and given back, in any order: nothing is promised twice."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from flexinfer.api.meta import ObjectMeta
from flexinfer.api.v1alpha2.model import GPU, Model, ModelSpec
from flexinfer.backends.base import Device
from flexinfer.placement import devices
from flexinfer.placement.devices import USABLE, Held
from flexinfer.placement.nodefacts import NodeFacts, Reading

MEMORY_MIB = 64000


def _device(index: int, vendor: Any, kind: tuple[int, bool]) -> Device:
    size, unified = kind
    arch = {"nvidia": "sm_89", "amd": "gfx1100"}[vendor]
    mib = min(size, MEMORY_MIB) if unified else size
    return Device(vendor=vendor, index=index, product=f"P{size}", arch=arch, vram_mib=mib, unified=unified)


CARDS = st.lists(
    st.tuples(st.sampled_from(["nvidia", "amd"]), st.sampled_from([(8000, False), (24000, False), (64000, True)])),
    max_size=4,
)
ASKS = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from(["nvidia", "amd", "auto", "cpu"]),
            st.integers(1, 3),
            st.sampled_from([0, 1000, 7600, 7601, 20000, 50000]),
        ),
        st.integers(0, 20),
    ),
    max_size=25,
)


@given(CARDS, ASKS, st.lists(st.one_of(st.none(), st.integers(0, 64000)), min_size=4, max_size=4))
@settings(max_examples=150, deadline=None)
def test_never_oversubscribed(cards: list[Any], asks: list[Any], free: list[int | None]) -> None:
    found = tuple(_device(index, vendor, kind) for index, (vendor, kind) in enumerate(cards))
    readings = tuple(
        Reading(
            vendor=device.vendor, index=device.index, free_mib=min(mib, device.vram_mib) if mib is not None else None
        )
        for device, mib in zip(found, free, strict=False)
    )
    node = NodeFacts(devices=found, readings=readings, memory_mib=MEMORY_MIB)
    held: list[tuple[Held, ...]] = []
    for number, ask in enumerate(asks):
        if isinstance(ask, int):
            if held:
                held.pop(ask % len(held))
            continue
        vendor, count, need = ask
        spec = ModelSpec(backend="llamacpp", source="file:///m.gguf", gpu=GPU(vendor=vendor, count=count))
        model = Model(metadata=ObjectMeta(name=f"m{number}"), spec=spec)
        # A reading says nothing of what ours use of it here: the strict case.
        unseen = [_loading(one) for holding in held for one in holding]
        choice = devices.choose(model, node, unseen, need_mib=need)
        assert bool(choice.reason) == bool(
            choice.message and not choice.devices and not choice.message.startswith("runs")
        )
        if choice.devices:
            assert len({device.index for device in choice.devices}) == count
        if not choice.reason:
            held.append(choice.holds(f"m{number}"))
        _check(node, [one for holding in held for one in holding])


def _loading(one: Held) -> Held:
    return Held(vendor=one.vendor, index=one.index, by=one.by, mib=one.mib, used_mib=0)


def _check(node: NodeFacts, held: list[Held]) -> None:
    pool = sum(one.mib for one in held if one.vendor == "cpu")
    for device in node.devices:
        own = [one for one in held if (one.vendor, one.index) == (device.vendor, device.index)]
        promised = sum(one.mib for one in own)
        reading = node.reading(device)
        limit = int(USABLE * device.vram_mib)
        if reading is not None and reading.free_mib is not None and not device.unified:
            limit = min(limit, reading.free_mib)
        assert promised <= limit
        assert len(own) == 1 or all(one.mib for one in own)
        pool += promised if device.unified else 0
    assert pool <= int(USABLE * MEMORY_MIB)
