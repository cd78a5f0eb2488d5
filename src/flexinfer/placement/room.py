"""How much memory of a device, or of the machine, is still to be given away.

Two bounds hold at once: what our own models have been promised may not exceed the usable share of
the memory, and what the last reading shows as taken by others is not ours to promise.

    room = min(USABLE * total, total - foreign) - promised
    foreign = total - free - what our holders have of it already

Devices with unified memory and models on the CPU draw from one pool, the machine's memory; it is
counted once.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from flexinfer.backends.base import Device, Vendor
from flexinfer.placement.nodefacts import NodeFacts

USABLE = 0.95
"""Share of a memory that estimates may fill; the driver, fragments and the system take the rest."""


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """Memory in use by a model of ours: of a device, or of the machine (`vendor` "cpu", `index` 0).

    `mib` 0: the holder's need is not known. It has a GPU whole; on the CPU it counts for nothing.
    """

    vendor: Vendor
    index: int
    by: str
    mib: int = 0
    used_mib: int | None = None
    """How much of it readings show as taken already: 0 for an engine that still loads. None: all of it."""


class Room(msgspec.Struct, frozen=True, kw_only=True):
    """What is left, and where the rest is."""

    name: str
    left_mib: int
    usable_mib: int
    total_mib: int
    holders: tuple[str, ...] = ()
    foreign_mib: int = 0
    read_at: str = ""
    whole: bool = False
    """A holder has all of it."""

    def said(self) -> str:
        """`nvidia:0 (A5000) has 800 of 24000 MiB left: a holds 20000 MiB, …`"""
        parts = list(self.holders)
        if self.foreign_mib > self.total_mib - self.usable_mib:
            parts.append(f"{self.foreign_mib} MiB are taken outside FlexInfer{self.read_at}")
        text = f"{self.name} has {self.left_mib} of {self.total_mib} MiB left"
        return f"{text} ({'; '.join(parts)})" if parts else text


def of_device(device: Device, node: NodeFacts, held: Sequence[Held]) -> Room:
    own = [one for one in held if (one.vendor, one.index) == (device.vendor, device.index)]
    reading = node.reading(device)
    # The free memory of a unified device is the machine's, which the pool below counts.
    free = reading.free_mib if reading is not None and not device.unified else None
    read_at = f", read at {reading.at:%Y-%m-%d %H:%M:%S} UTC" if reading is not None and reading.at is not None else ""
    name = f"{device.vendor}:{device.index}" + (f" ({device.product})" if device.product else "")
    room = _room(name, device.vram_mib, free, own, read_at)
    if any(one.mib == 0 for one in own):
        return msgspec.structs.replace(room, left_mib=0, whole=True)
    if not device.unified or not node.memory_mib:
        return room
    pool = of_machine(node, held)
    return msgspec.structs.replace(pool, name=name) if pool.left_mib < room.left_mib else room


def of_machine(node: NodeFacts, held: Sequence[Held]) -> Room:
    """The machine's memory: models on the CPU and on devices that share it."""
    unified = {(device.vendor, device.index) for device in node.devices if device.unified}
    own = [one for one in held if one.vendor == "cpu" or (one.vendor, one.index) in unified]
    read_at = f", read at {node.at:%Y-%m-%d %H:%M:%S} UTC" if node.at is not None else ""
    found = _room("this machine", node.memory_mib, node.memory_free_mib, own, read_at)
    if node.memory_limit_mib is None or node.memory_limit_mib >= found.usable_mib:
        return found
    limited = _room("the limit of --memory", node.memory_limit_mib, None, own, "", share=1.0)
    tighter = limited if limited.left_mib <= found.left_mib else found
    return msgspec.structs.replace(tighter, usable_mib=limited.usable_mib)


def _room(name: str, total: int, free: int | None, own: Sequence[Held], read_at: str, *, share: float = USABLE) -> Room:
    promised = sum(one.mib for one in own)
    ours = sum(one.mib if one.used_mib is None else min(one.used_mib, one.mib) for one in own)
    foreign = max(total - free - ours, 0) if free is not None else 0
    usable = int(share * total)
    return Room(
        name=name,
        left_mib=max(min(usable, total - foreign) - promised, 0),
        usable_mib=usable,
        total_mib=total,
        holders=tuple(f"{one.by} holds {f'{one.mib} MiB' if one.mib else 'it whole'}" for one in own),
        foreign_mib=foreign,
        read_at=read_at,
    )
