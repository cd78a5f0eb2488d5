"""Which vendor's nodes of a cluster a Model's pods are made for, and why; or the reason why none will do.

`nvidia` and `amd` never fall back. `auto` takes what is there: among several vendors the one with most
memory in one node, without a GPU that will do the CPU. A choice stands while replicas run, so that a node
that comes or goes restarts nothing. Which of the nodes a pod lands on is the scheduler's choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from flexinfer import backends
from flexinfer.api.v1alpha2.model import Model
from flexinfer.backends import compat
from flexinfer.backends.base import Device, Vendor
from flexinfer.placement.clusternodes import ClusterNode

Reason = Literal["", "NoMatchingNodes", "BackendUnsupported", "VRAMInsufficient"]
USABLE = 0.95
PRESSING = 0.8
_GPUS: tuple[Vendor, ...] = ("nvidia", "amd")


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """What the pods ask for. With a reason it is a refusal, or, where a node may still come, what to wait for."""

    vendor: Vendor = "cpu"
    count: int = 0
    arch: str = ""
    """Of every node that will do, empty where they differ."""
    vram_mib: int = 0
    """Of the smallest device that will do; 0: nobody says it."""
    reason: Reason = ""
    message: str = ""
    """Why it is refused; why an `auto` model runs where it does."""
    notes: tuple[tuple[str, str], ...] = ()
    """What is worth an event: (reason, sentence)."""

    @property
    def refused(self) -> bool:
        """No node that comes would change it, or pods for it must not be made."""
        return self.reason in ("BackendUnsupported", "VRAMInsufficient")

    @property
    def devices(self) -> tuple[Device, ...]:
        """As the engine in a pod sees them."""
        return tuple(
            Device(vendor=self.vendor, index=index, arch=self.arch, vram_mib=self.vram_mib)
            for index in range(self.count)
        )


def choose(model: Model, nodes: Sequence[ClusterNode], *, prefix: str, standing: Place | None = None) -> Place:
    """`model.spec` has its defaults resolved. `standing` is the choice that running replicas were made for."""
    backend = backends.get(model.spec.backend)
    gpu = model.spec.gpu
    if not backend.process:
        return Place()
    here = [node for node in nodes if node.ready and node.matches(model.spec.node_selector)]
    if gpu is None or gpu.vendor == "cpu":
        return _cpu(model, here, "spec.gpu is not set" if gpu is None else "spec.gpu.vendor is cpu")
    if standing is not None and _still_asked(standing, gpu.vendor, gpu.count or 1):
        return standing
    if gpu.vendor != "auto":
        return _on(model, gpu.vendor, here, prefix)
    offers = {vendor: _on(model, vendor, here, prefix) for vendor in _GPUS if vendor in backend.vendors}
    return _best(model, offers, here, prefix)


def _still_asked(standing: Place, vendor: str, count: int) -> bool:
    if standing.vendor == "cpu":
        return vendor == "auto"
    return vendor in ("auto", standing.vendor) and standing.count == count


def _on(model: Model, vendor: Vendor, here: Sequence[ClusterNode], prefix: str) -> Place:
    """What one vendor's nodes have for it: present, able to run the backend, enough of them, large enough."""
    backend, gpu = backends.get(model.spec.backend), model.spec.gpu
    assert gpu is not None
    count, need = gpu.count or 1, gpu.vram_estimate_mb or 0
    asked = Place(vendor=vendor, count=count)
    if vendor not in backend.vendors:
        message = f"{backend.name} has no kernels for {vendor} GPUs, it runs on {', '.join(backend.vendors)}"
        return _refuse(asked, "BackendUnsupported", message)
    present = [node for node in here if node.count(vendor)]
    if not present:
        return _refuse(asked, "NoMatchingNodes", _none_has(model, vendor, here))
    refusals = {node.name: compat.refusal(backend.name, node.arch(vendor, prefix), model) for node in present}
    able = [node for node in present if refusals[node.name] is None]
    if not able:
        why = "; ".join(dict.fromkeys(why for why in refusals.values() if why))
        return _refuse(asked, "BackendUnsupported", why)
    wide = [node for node in able if node.count(vendor) >= count]
    if not wide:
        most = max(node.count(vendor) for node in able)
        return _refuse(
            asked, "NoMatchingNodes", f"needs {count} {vendor} GPUs in one node, no Ready one has more than {most}"
        )
    sizes = {node.name: node.vram_mib(vendor, prefix) for node in wide}
    each = -(-need // count)
    large = [node for node in wide if not sizes[node.name] or each <= int(USABLE * sizes[node.name])]
    if not large:
        largest = max(sizes.values())
        on_each = f" on each of {count} GPUs" if count > 1 else ""
        message = f"needs {each} MiB{on_each}, the largest {vendor} GPU has {largest} MiB, of which {USABLE:.0%} count"
        return _refuse(asked, "VRAMInsufficient", message)
    archs = {node.arch(vendor, prefix) for node in large}
    known = [sizes[node.name] for node in large if sizes[node.name]]
    return msgspec.structs.replace(
        asked,
        arch=archs.pop() if len(archs) == 1 else "",
        vram_mib=min(known, default=0),
        notes=(*_experimental(backend.name, vendor, large, prefix), *_pressure(each, known)),
    )


def _refuse(asked: Place, reason: Reason, message: str) -> Place:
    return msgspec.structs.replace(asked, reason=reason, message=message)


def _none_has(model: Model, vendor: str, here: Sequence[ClusterNode]) -> str:
    among = " that match spec.nodeSelector" if model.spec.node_selector else ""
    return f"none of the {len(here)} Ready nodes{among} has a GPU of {vendor} that a device plugin reports"


def _best(model: Model, offers: Mapping[Vendor, Place], here: Sequence[ClusterNode], prefix: str) -> Place:
    """Of the vendors that will do the one with most memory in one node; else the CPU."""
    backend = backends.get(model.spec.backend)
    possible = {vendor: place for vendor, place in offers.items() if not place.reason}
    if possible:
        room = {vendor: _most_mib(vendor, here, prefix) for vendor in possible}
        vendor = max(possible, key=lambda vendor: room[vendor])
        others = ", ".join(f"{other} ({room[other]} MiB)" for other in possible if other != vendor)
        message = f"auto chose {vendor}"
        if others:
            message += f": a node of it has {room[vendor]} MiB of GPU memory, more than {others}"
        return msgspec.structs.replace(possible[vendor], message=message)
    present = [place.message for vendor, place in offers.items() if any(node.count(vendor) for node in here)]
    why = "; ".join(present) or f"none of the {len(here)} Ready nodes has a GPU that it can use"
    if "cpu" in backend.vendors:
        return Place(message=f"runs on the CPU: {why}")
    unsupported = next((place for place in offers.values() if place.refused), None)
    if unsupported is not None:
        return unsupported
    vendor = next(iter(offers), "cpu")
    return Place(vendor=vendor, count=offers[vendor].count if offers else 0, reason="NoMatchingNodes", message=why)


def _most_mib(vendor: Vendor, here: Sequence[ClusterNode], prefix: str) -> int:
    return max((node.count(vendor) * node.vram_mib(vendor, prefix) for node in here), default=0)


def _cpu(model: Model, here: Sequence[ClusterNode], why: str) -> Place:
    backend = backends.get(model.spec.backend)
    if "cpu" not in backend.vendors:
        reason = compat.CPU.get(backend.name) or "it needs a GPU"
        message = f"{backend.name} does not run on a CPU ({reason}), and {why}"
        return Place(reason="BackendUnsupported", message=message)
    if not here:
        among = " that matches spec.nodeSelector" if model.spec.node_selector else ""
        return Place(reason="NoMatchingNodes", message=f"there is no Ready node{among}")
    return Place()


def _experimental(
    backend: str, vendor: Vendor, nodes: Sequence[ClusterNode], prefix: str
) -> tuple[tuple[str, str], ...]:
    found = {arch: compat.judge(backend, arch) for arch in sorted({node.arch(vendor, prefix) for node in nodes})}
    return tuple(
        ("ExperimentalGPUSupport", f"{backend} on {arch}: {verdict.reason}")
        for arch, verdict in found.items()
        if verdict.level == "experimental"
    )


def _pressure(each: int, sizes: Sequence[int]) -> tuple[tuple[str, str], ...]:
    if not sizes or each <= PRESSING * max(sizes):
        return ()
    return (("VRAMPressure", f"needs {each} MiB of the {max(sizes)} MiB of its GPU, more than {PRESSING:.0%}"),)
