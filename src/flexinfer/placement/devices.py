"""Which devices of one node a model gets, given who holds what; or the reason why it gets none.

A model without an estimate of its memory takes devices that nobody holds, and holds them whole; one
with an estimate shares a device as long as the sum fits (`room`). The tightest device that fits is
taken, so that large ones stay free for large models. Each of several devices is checked by itself.
A model on the CPU needs its memory of the machine. `vendor: auto` takes a GPU where the engine can
use one, otherwise the CPU, and says why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from flexinfer import backends
from flexinfer.api.v1alpha2.model import Model
from flexinfer.backends import compat
from flexinfer.backends.base import Device, Vendor
from flexinfer.placement import room
from flexinfer.placement.nodefacts import NodeFacts
from flexinfer.placement.room import USABLE, Held, Room

__all__ = ["USABLE", "Choice", "Held", "choose"]

Reason = Literal["", "NoMatchingNodes", "BackendUnsupported", "VRAMInsufficient", "MemoryInsufficient", "Preempted"]


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """Devices, or a reason. Neither: the model runs on the CPU."""

    devices: tuple[Device, ...] = ()
    mib: int = 0
    """What it will hold of each device, or of the machine on the CPU; 0: all of a device, nothing of the machine."""
    reason: Reason = ""
    message: str = ""
    """Why it is refused; why an `auto` model runs where it does."""
    wait: bool = False
    """It would fit if others gave memory back, models of ours or programs that FlexInfer does not know."""

    def holds(self, by: str) -> tuple[Held, ...]:
        """What the model holds once it is started."""
        if self.reason:
            return ()
        if not self.devices:
            return (Held(vendor="cpu", index=0, by=by, mib=self.mib),) if self.mib else ()
        return tuple(Held(vendor=one.vendor, index=one.index, by=by, mib=self.mib) for one in self.devices)


def choose(
    model: Model, node: NodeFacts, held: Sequence[Held], *, need_mib: int = 0, gpu_engine: bool = True
) -> Choice:
    """Devices for one replica.

    `need_mib` is the estimate of the plan; `spec.gpu.vramEstimateMB` replaces it. `gpu_engine` says
    whether an engine that can use a GPU is installed, which only matters to `vendor: auto`.
    """
    backend = backends.get(model.spec.backend)
    gpu = model.spec.gpu
    if not backend.process:
        return Choice()
    if gpu is None or gpu.vendor == "cpu":
        why = "spec.gpu is not set" if gpu is None else "spec.gpu.vendor is cpu"
        return _cpu(backend.name, backend.vendors, why, _in_memory(node, held, need_mib))
    need = gpu.vram_estimate_mb or need_mib
    count = gpu.count or 1
    if gpu.vendor != "auto":
        return _on(model, gpu.vendor, node, held, (count, need))
    in_memory = _in_memory(node, held, need)
    if not gpu_engine:
        return _auto_cpu(backend.vendors, "no engine that can use a GPU is installed", in_memory)
    able: list[Vendor] = [vendor for vendor in backend.vendors if vendor in ("nvidia", "amd")]
    choices = {vendor: _on(model, vendor, node, held, (count, need)) for vendor in able}
    return _best(choices, node, held, backend.vendors, in_memory)


def _on(model: Model, vendor: Vendor, node: NodeFacts, held: Sequence[Held], size: tuple[int, int]) -> Choice:
    """Devices of one vendor: present, able to run the backend, large enough, free."""
    count, need = size
    backend = backends.get(model.spec.backend)
    if vendor not in backend.vendors:
        message = f"{backend.name} has no kernels for {vendor} GPUs, it runs on {', '.join(backend.vendors)}"
        return Choice(reason="BackendUnsupported", message=message)
    present = [device for device in node.devices if device.vendor == vendor]
    if not present:
        known = "; ".join((*node.problems, *node.left_out))
        return Choice(
            reason="NoMatchingNodes", message=f"this machine has no {vendor} GPU" + (f" ({known})" if known else "")
        )
    refusals = {device.index: compat.refusal(backend.name, device.arch, model) for device in present}
    able = [device for device in present if refusals[device.index] is None]
    if not able:
        return Choice(reason="BackendUnsupported", message=next(why for why in refusals.values() if why is not None))
    if len(able) < count:
        message = f"needs {count} {vendor} GPUs, this machine has {len(able)} that can run it"
        return Choice(reason="NoMatchingNodes", message=message)
    each = -(-need // count)
    asked = f"needs {each} MiB" + (f" on each of {count} GPUs" if count > 1 else "")
    large = [device for device in able if each <= int(USABLE * device.vram_mib)]
    if len(large) < count:
        best = max(device.vram_mib for device in able)
        which = (
            f"the largest {vendor} GPU has" if count == 1 else f"{len(large)} of them are large enough, the largest has"
        )
        message = f"{asked}, {which} {best} MiB, of which {USABLE:.0%} can be used"
        return Choice(reason="VRAMInsufficient", message=message)
    rooms = {device.index: room.of_device(device, node, held) for device in large}
    picked = _tightest(large, rooms, count, each)
    if picked is None:
        asked = asked if each else f"needs {count} GPUs of its own" if count > 1 else "needs a GPU of its own"
        said = "; ".join(rooms[device.index].said() for device in large)
        return Choice(reason="VRAMInsufficient", message=f"{asked}; {said}", wait=True)
    return Choice(devices=picked, mib=each)


def _tightest(able: Sequence[Device], rooms: Mapping[int, Room], count: int, each: int) -> tuple[Device, ...] | None:
    """The devices with least room among those with enough; of one product where several are needed and that works."""
    left = {index: found.left_mib for index, found in rooms.items()}
    fitting = [device for device in able if _fits(rooms[device.index], each)]
    # Without an estimate the largest is safest; with one the tightest leaves most to others.
    fitting.sort(key=lambda device: (left[device.index] if each else -left[device.index], device.index))
    if len(fitting) < count:
        return None
    products = [
        [device for device in fitting if device.product == name] for name in {device.product for device in fitting}
    ]
    alike = [group[:count] for group in products if len(group) >= count]
    picked = min(alike, key=lambda group: fitting.index(group[0]), default=fitting[:count])
    return tuple(sorted(picked, key=lambda device: device.index))


def _fits(found: Room, each: int) -> bool:
    if each == 0:
        # Without an estimate: nobody of ours on it, and nobody else to speak of.
        return not found.holders and found.left_mib >= found.usable_mib // 2
    return each <= found.left_mib and not found.whole


def _best(
    choices: Mapping[Vendor, Choice],
    node: NodeFacts,
    held: Sequence[Held],
    vendors: Sequence[Vendor],
    in_memory: Choice,
) -> Choice:
    """Of the vendors that can, the one with most room; else wait for a GPU; else the CPU."""
    possible = {vendor: choice for vendor, choice in choices.items() if choice.devices}
    if possible:
        left = {
            vendor: sum(room.of_device(device, node, held).left_mib for device in choice.devices)
            for vendor, choice in possible.items()
        }
        vendor = max(possible, key=lambda vendor: left[vendor])
        others = ", ".join(other for other in possible if other != vendor)
        message = f"auto chose {vendor}: it has more room than {others}" if others else f"auto chose {vendor}"
        return msgspec.structs.replace(possible[vendor], message=message)
    waiting = next((choice for choice in choices.values() if choice.wait), None)
    if waiting is not None:
        return waiting
    present = {device.vendor for device in node.devices}
    reasons = [choice.message for vendor, choice in choices.items() if vendor in present] or list(node.left_out)
    return _auto_cpu(vendors, "; ".join(reasons) or "this machine has no GPU that FlexInfer can use", in_memory)


def _auto_cpu(vendors: Sequence[Vendor], why: str, in_memory: Choice) -> Choice:
    if "cpu" not in vendors:
        return Choice(reason="NoMatchingNodes", message=why)
    if in_memory.reason:
        return msgspec.structs.replace(in_memory, message=f"would run on the CPU ({why}) and {in_memory.message}")
    return msgspec.structs.replace(in_memory, message=f"runs on the CPU: {why}")


def _cpu(name: str, vendors: Sequence[Vendor], why: str, in_memory: Choice) -> Choice:
    if "cpu" in vendors:
        return in_memory
    reason = compat.CPU.get(name) or "it needs a GPU"
    return Choice(reason="BackendUnsupported", message=f"{name} does not run on a CPU ({reason}), and {why}")


def _in_memory(node: NodeFacts, held: Sequence[Held], need: int) -> Choice:
    """On the CPU: it needs its memory of the machine, together with all that runs there."""
    if not node.memory_mib:
        return Choice(mib=need)
    found = room.of_machine(node, held)
    if need > found.usable_mib:
        message = f"needs {need} MiB of memory, "
        if found.usable_mib == node.memory_limit_mib:
            message += f"all engines together may use {found.usable_mib} MiB (--memory)"
        else:
            message += f"this machine has {node.memory_mib} MiB, of which {USABLE:.0%} can be used"
        return Choice(reason="MemoryInsufficient", message=message)
    if need > found.left_mib:
        return Choice(reason="MemoryInsufficient", message=f"needs {need} MiB of memory; {found.said()}", wait=True)
    return Choice(mib=need)
