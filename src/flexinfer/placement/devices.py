"""Which devices of one node a model gets, given who holds what; or the reason why it gets none.

A model without an estimate of its memory takes devices that nobody holds, and holds them whole; one
with an estimate shares a device as long as the sum fits. The tightest device that fits is taken, so
that large ones stay free for large models. `vendor: auto` takes a GPU where the engine can use one,
otherwise the CPU, and says why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from flexinfer import backends
from flexinfer.api.v1alpha2.model import Model
from flexinfer.backends import compat
from flexinfer.backends.base import Device, Vendor
from flexinfer.placement.nodefacts import NodeFacts

USABLE = 0.95
"""Share of a device's memory that an estimate may fill; the driver and fragments take the rest."""

Reason = Literal["", "NoMatchingNodes", "BackendUnsupported", "VRAMInsufficient"]


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """A device in use. `mib` 0: the holder's need is not known, it has the device whole."""

    vendor: Vendor
    index: int
    by: str
    mib: int = 0


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """Devices, or a reason. Neither: the model runs on the CPU."""

    devices: tuple[Device, ...] = ()
    mib: int = 0
    """What it will hold of each device; 0: all of it."""
    reason: Reason = ""
    message: str = ""
    """Why it is refused; why an `auto` model runs where it does."""
    wait: bool = False
    """It would fit if other models gave their devices back."""


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
        return _cpu(backend.name, backend.vendors, "spec.gpu is not set" if gpu is None else "spec.gpu.vendor is cpu")
    need = gpu.vram_estimate_mb or need_mib
    count = gpu.count or 1
    if gpu.vendor != "auto":
        return _on(model, gpu.vendor, node, held, (count, need))
    if not gpu_engine:
        return _auto_cpu(backend.vendors, "no engine that can use a GPU is installed")
    able: list[Vendor] = [vendor for vendor in backend.vendors if vendor in ("nvidia", "amd")]
    choices = {vendor: _on(model, vendor, node, held, (count, need)) for vendor in able}
    return _best(choices, node, held, backend.vendors)


def _on(model: Model, vendor: Vendor, node: NodeFacts, held: Sequence[Held], size: tuple[int, int]) -> Choice:
    """Devices of one vendor: present, able to run the backend, large enough, free."""
    count, need = size
    backend = backends.get(model.spec.backend)
    if vendor not in backend.vendors:
        message = f"{backend.name} has no kernels for {vendor} GPUs, it runs on {', '.join(backend.vendors)}"
        return Choice(reason="BackendUnsupported", message=message)
    present = [device for device in node.devices if device.vendor == vendor]
    if not present:
        known = f" ({'; '.join(node.problems)})" if node.problems else ""
        return Choice(reason="NoMatchingNodes", message=f"this machine has no {vendor} GPU{known}")
    refusals = {device.index: compat.refusal(backend.name, device.arch, model) for device in present}
    able = [device for device in present if refusals[device.index] is None]
    if not able:
        return Choice(reason="BackendUnsupported", message=next(why for why in refusals.values() if why is not None))
    if len(able) < count:
        message = f"needs {count} {vendor} GPUs, this machine has {len(able)} that can run it"
        return Choice(reason="NoMatchingNodes", message=message)
    each = -(-need // count)
    large = [device for device in able if each <= USABLE * device.vram_mib]
    if len(large) < count:
        best = max(device.vram_mib for device in able)
        each_of = f"{each} MiB on each of {count} GPUs" if count > 1 else f"{each} MiB"
        message = f"needs {each_of}, the largest {vendor} GPU has {best} MiB, of which {USABLE:.0%} can be used"
        return Choice(reason="VRAMInsufficient", message=message)
    picked = _tightest(large, held, count, each)
    if picked is None:
        return Choice(reason="VRAMInsufficient", message=_held_by(large, held, each), wait=True)
    return Choice(devices=picked, mib=each)


def _tightest(able: Sequence[Device], held: Sequence[Held], count: int, each: int) -> tuple[Device, ...] | None:
    """The devices with least room among those with enough; of one product where several are needed and that works."""
    room = {device.index: free_mib(device, held) for device in able}
    fitting = [device for device in able if _fits(device, held, room[device.index], each)]
    # Without an estimate the largest is safest; with one the tightest leaves most to others.
    fitting.sort(key=lambda device: (room[device.index] if each else -room[device.index], device.index))
    if len(fitting) < count:
        return None
    products = [
        [device for device in fitting if device.product == name] for name in {device.product for device in fitting}
    ]
    alike = [group[:count] for group in products if len(group) >= count]
    picked = min(alike, key=lambda group: fitting.index(group[0]), default=fitting[:count])
    return tuple(sorted(picked, key=lambda device: device.index))


def _fits(device: Device, held: Sequence[Held], room: int, each: int) -> bool:
    if each == 0:
        return not any(_same(device, holding) for holding in held)
    return each <= room


def free_mib(device: Device, held: Sequence[Held]) -> int:
    """Usable memory that nobody holds; 0 when a holder has the device whole."""
    holdings = [holding for holding in held if _same(device, holding)]
    if any(holding.mib == 0 for holding in holdings):
        return 0
    return max(int(USABLE * device.vram_mib) - sum(holding.mib for holding in holdings), 0)


def _same(device: Device, holding: Held) -> bool:
    return device.vendor == holding.vendor and device.index == holding.index


def _held_by(devices: Sequence[Device], held: Sequence[Held], each: int) -> str:
    what = f"{each} MiB" if each else "a GPU of its own"
    holders = sorted({holding.by for holding in held for device in devices if _same(device, holding)})
    return f"needs {what}; the GPUs that could do are held by {', '.join(holders)}"


def _best(choices: Mapping[Vendor, Choice], node: NodeFacts, held: Sequence[Held], vendors: Sequence[Vendor]) -> Choice:
    """Of the vendors that can, the one with most room; else wait for a GPU; else the CPU."""
    possible = {vendor: choice for vendor, choice in choices.items() if choice.devices}
    if possible:
        vendor = max(possible, key=lambda vendor: sum(free_mib(device, held) for device in possible[vendor].devices))
        others = ", ".join(other for other in possible if other != vendor)
        message = f"auto chose {vendor}: it has more room than {others}" if others else f"auto chose {vendor}"
        return msgspec.structs.replace(possible[vendor], message=message)
    waiting = next((choice for choice in choices.values() if choice.wait), None)
    if waiting is not None:
        return waiting
    present = {device.vendor for device in node.devices}
    reasons = [choice.message for vendor, choice in choices.items() if vendor in present]
    return _auto_cpu(vendors, "; ".join(reasons) or "this machine has no GPU that FlexInfer can use")


def _auto_cpu(vendors: Sequence[Vendor], why: str) -> Choice:
    if "cpu" in vendors:
        return Choice(message=f"runs on the CPU: {why}")
    return Choice(reason="NoMatchingNodes", message=why)


def _cpu(name: str, vendors: Sequence[Vendor], why: str) -> Choice:
    if "cpu" in vendors:
        return Choice()
    reason = compat.CPU.get(name) or "it needs a GPU"
    return Choice(reason="BackendUnsupported", message=f"{name} does not run on a CPU ({reason}), and {why}")
