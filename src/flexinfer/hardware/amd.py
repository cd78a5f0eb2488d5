"""AMD devices: memory and load from sysfs, the architecture from the KFD topology, the rest from ROCm's tools.

`index` counts in the order of the KFD, which is the order in which ROCm numbers devices. A card
with less than 4096 MiB of its own (FLEXINFER_AMD_MIN_DISCRETE_VRAM_MB) is integrated or too small:
one with many compute units and a large share of the machine's memory (GTT) counts with that share,
the others are left out and named.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import msgspec

from flexinfer.backends.base import Device
from flexinfer.hardware import files, pciids, rocm, tools
from flexinfer.hardware.probe import ABSENT, Probe, Status, celsius, percent
from flexinfer.placement.nodefacts import Reading

VENDOR_ID = 0x1002
MIB = 2**20
MIN_DISCRETE_MIB = 4096
MIN_DISCRETE_ENV = "FLEXINFER_AMD_MIN_DISCRETE_VRAM_MB"
MERGE_TOLERANCE_MIB = 64
"""Two sources that differ by less speak of the same card."""
UNIFIED_MIN_SIMD = 16
"""Eight compute units: below that a GPU is for a desktop, whatever memory it may borrow."""


class _Node(msgspec.Struct, frozen=True, kw_only=True):
    render_minor: int
    gfx: str
    simd_count: int
    uuid: str = ""


class _Found(msgspec.Struct, frozen=True, kw_only=True):
    """One card, from whichever source."""

    name: str
    device_id: int = 0
    product: str
    vram_mib: int
    gtt_mib: int
    node: _Node | None
    index: int
    used_mib: int | None = None
    util: float | None = None
    temperature_c: float | None = None
    pci: str = ""
    numa: int | None = None

    @property
    def whole(self) -> bool:
        return self.util is not None and self.temperature_c is not None and self.used_mib is not None


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """How the tools are asked."""

    path_env: str | None = ""
    timeout_s: float = tools.TIMEOUT_S
    min_discrete_mib: int = MIN_DISCRETE_MIB
    memory_mib: int = 0
    memory_free_mib: int | None = None
    at: datetime | None = None


def read(root: Path, ask: Ask) -> Probe:
    nodes = _kfd_nodes(root)
    if any(not node.gfx for node in nodes):
        nodes = _with_names(nodes, rocm.info(ask.path_env, ask.timeout_s))
    cards = _sysfs(root, nodes)
    status: Status = "ok"
    problems: list[str] = []
    if not cards or not all(card.whole for card in cards):
        try:
            told = rocm.smi(ask.path_env, ask.timeout_s) or ()
            cards = _merged(cards, told) if cards else _of_rocm(told, nodes, ask)
        except tools.ToolFailed as error:
            # Without a card of AMD's in sight its tool may be as it likes.
            if cards or nodes:
                problems.append(str(error))
                status = "ok" if cards else "failed"
    if not cards:
        return ABSENT if status == "ok" else Probe(status=status, problems=tuple(problems))
    return _probe(cards, ask, problems, status)


def _probe(cards: Sequence[_Found], ask: Ask, problems: list[str], status: Status) -> Probe:
    devices, readings, left_out = [], [], []
    for card in cards:
        if card.node is None:
            problems.append(f"{card.product} ({card.name}) is not in the KFD topology: ROCm cannot use it")
        unified = card.vram_mib < ask.min_discrete_mib
        why = _why_left_out(card, ask) if unified else ""
        if why:
            left_out.append(f"{card.product} ({card.name}) is left out: {why}")
            continue
        # A device that borrows can never have more than the machine.
        budget = min(card.gtt_mib, ask.memory_mib or card.gtt_mib) if unified else card.vram_mib
        devices.append(
            Device(
                vendor="amd",
                index=card.index,
                uuid=card.node.uuid if card.node is not None else "",
                product=card.product,
                arch=card.node.gfx if card.node is not None else "",
                vram_mib=budget,
                unified=unified,
                own_mib=card.vram_mib if unified else 0,
                pci=card.pci,
                numa=card.numa,
            )
        )
        free = max(card.vram_mib - card.used_mib, 0) if card.used_mib is not None else None
        readings.append(
            Reading(
                vendor="amd",
                index=card.index,
                free_mib=ask.memory_free_mib if unified else free,
                util=card.util,
                temperature_c=card.temperature_c,
                at=ask.at,
            )
        )
    return Probe(
        devices=tuple(sorted(devices, key=lambda device: device.index)),
        readings=tuple(sorted(readings, key=lambda reading: reading.index)),
        left_out=tuple(left_out),
        problems=tuple(problems),
        status=status,
    )


def _why_left_out(card: _Found, ask: Ask) -> str:
    """Of a card below the limit; empty for one that borrows enough memory to count."""
    if pciids.amd_discrete(card.device_id):
        return f"{card.vram_mib} MiB of memory, {MIN_DISCRETE_ENV} asks for {ask.min_discrete_mib}"
    small = card.node is None or card.node.simd_count < UNIFIED_MIN_SIMD
    if small or card.gtt_mib < ask.min_discrete_mib:
        return (
            f"integrated, {card.vram_mib} MiB of memory, {card.gtt_mib} MiB of GTT; {MIN_DISCRETE_ENV} asks for "
            f"{ask.min_discrete_mib} MiB of its own"
        )
    return ""


def _sysfs(root: Path, nodes: Sequence[_Node]) -> list[_Found]:
    order = {node.render_minor: position for position, node in enumerate(nodes)}
    found: list[_Found] = []
    for card in files.folders(root / "sys/class/drm", "card*"):
        folder = card / "device"
        vram = files.integer(folder / "mem_info_vram_total") // MIB
        # `card0-HDMI-A-1` is a connector of card0.
        if "-" in card.name or files.integer(folder / "vendor") != VENDOR_ID or vram == 0:
            continue
        position = order.get(_render_minor(folder))
        device_id = files.integer(folder / "device")
        used, busy = files.integer(folder / "mem_info_vram_used", -1), files.integer(folder / "gpu_busy_percent", -1)
        found.append(
            _Found(
                name=card.name,
                device_id=device_id,
                product=files.text(folder / "product_name") or pciids.name(VENDOR_ID, device_id),
                vram_mib=vram,
                gtt_mib=files.integer(folder / "mem_info_gtt_total") // MIB,
                node=nodes[position] if position is not None else None,
                index=position if position is not None else len(nodes) + len(found),
                used_mib=used // MIB if used >= 0 else None,
                util=percent(busy),
                temperature_c=celsius(files.temperature(folder)),
                pci=files.pci_address(folder),
                numa=files.numa(folder),
            )
        )
    return found


def _merged(cards: Sequence[_Found], told: Sequence[rocm.Card]) -> list[_Found]:
    """Cards of sysfs with what only rocm-smi knows, matched by bus address, else by memory."""
    left = list(told)
    merged = []
    for card in cards:
        match = next((one for one in left if card.pci and one.pci == card.pci), None) or next(
            (one for one in left if not (card.pci and one.pci) and _alike(one.total_mib, card.vram_mib)), None
        )
        if match is None:
            merged.append(card)
            continue
        left.remove(match)
        merged.append(
            msgspec.structs.replace(
                card,
                used_mib=card.used_mib if card.used_mib is not None else match.used_mib,
                util=card.util if card.util is not None else match.util,
                temperature_c=card.temperature_c if card.temperature_c is not None else match.temperature_c,
            )
        )
    return merged


def _alike(one_mib: int, other_mib: int) -> bool:
    return abs(one_mib - other_mib) <= MERGE_TOLERANCE_MIB


def _of_rocm(told: Sequence[rocm.Card], nodes: Sequence[_Node], ask: Ask) -> list[_Found]:
    """Where sysfs shows no card (a container, an old driver): what rocm-smi has."""
    names = rocm.info(ask.path_env, ask.timeout_s) if any(not card.gfx for card in told) else ()
    found = []
    for position, card in enumerate(told):
        gfx = card.gfx or (names[position] if len(names) == len(told) else "")
        simds = nodes[position].simd_count if len(nodes) == len(told) else 0
        node = _Node(render_minor=-1, gfx=gfx, simd_count=simds, uuid=card.uuid)
        found.append(
            _Found(
                name=f"card{card.number}",
                product=card.product or f"AMD {gfx or 'GPU'}",
                vram_mib=card.total_mib,
                gtt_mib=card.gtt_mib,
                node=node,
                index=position,
                used_mib=card.used_mib,
                util=card.util,
                temperature_c=card.temperature_c,
                pci=card.pci,
            )
        )
    return found


def gfx_name(target_version: int) -> str:
    """110001 is gfx1101, 90010 is gfx90a: minor and stepping are hexadecimal digits."""
    major, minor, stepping = target_version // 10000, target_version // 100 % 100, target_version % 100
    return f"gfx{major}{minor:x}{stepping:x}" if target_version > 0 else ""


def _kfd_nodes(root: Path) -> list[_Node]:
    """The GPUs of the KFD topology; CPUs are nodes too and have no SIMDs."""
    found = []
    for folder in files.folders(root / "sys/class/kfd/kfd/topology/nodes", "*"):
        properties: dict[str, int] = {}
        for line in files.text(folder / "properties").splitlines():
            name, _, value = line.partition(" ")
            properties[name] = files.number(value.strip()) or 0
        if properties.get("simd_count", 0) > 0:
            unique = properties.get("unique_id", 0)
            found.append(
                _Node(
                    render_minor=properties.get("drm_render_minor", -1),
                    gfx=gfx_name(properties.get("gfx_target_version", 0)),
                    simd_count=properties["simd_count"],
                    uuid=f"GPU-{unique:016x}" if 0 < unique < 2**64 else "",
                )
            )
    return found


def _with_names(nodes: Sequence[_Node], names: Sequence[str]) -> list[_Node]:
    """Old kernels do not tell the architecture; rocminfo lists the same nodes in the same order."""
    if len(names) != len(nodes):
        return list(nodes)
    return [
        node if node.gfx else msgspec.structs.replace(node, gfx=name) for node, name in zip(nodes, names, strict=True)
    ]


def _render_minor(folder: Path) -> int:
    for entry in files.folders(folder / "drm", "renderD*"):
        number = files.number(entry.name.removeprefix("renderD"))
        if number is not None:
            return number
    return -2
