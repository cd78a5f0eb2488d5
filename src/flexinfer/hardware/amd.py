"""AMD devices from sysfs: memory from the amdgpu driver, the architecture from the KFD topology.

`index` counts in the order of the KFD, which is the order in which ROCm numbers devices. A small
integrated GPU is left out and named; a large one counts with the memory that it may use.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from flexinfer.backends.base import Device
from flexinfer.hardware import files

VENDOR_ID = 0x1002
MIB = 2**20
DISCRETE_VRAM_MIB = 4096
UNIFIED_MIN_SIMD = 16
"""Eight compute units: below that a GPU is for a desktop, whatever memory it may borrow."""


class _Node(msgspec.Struct, frozen=True, kw_only=True):
    render_minor: int
    gfx: str
    simd_count: int


def read(root: Path) -> tuple[tuple[Device, ...], tuple[str, ...]]:
    """Devices and problems."""
    nodes = _kfd_nodes(root)
    order = {node.render_minor: position for position, node in enumerate(nodes)}
    devices: list[Device] = []
    problems: list[str] = []
    for card in files.folders(root / "sys/class/drm", "card*"):
        folder = card / "device"
        vram = files.integer(folder / "mem_info_vram_total") // MIB
        # `card0-HDMI-A-1` is a connector of card0.
        if "-" in card.name or files.integer(folder / "vendor") != VENDOR_ID or vram == 0:
            continue
        position = order.get(_render_minor(folder))
        node = nodes[position] if position is not None else None
        product = files.text(folder / "product_name") or f"AMD 1002:{files.integer(folder / 'device'):04x}"
        gtt = files.integer(folder / "mem_info_gtt_total") // MIB
        unified = vram < DISCRETE_VRAM_MIB
        if node is None:
            problems.append(f"{product} ({card.name}) is not in the KFD topology: ROCm cannot use it")
        if unified and (node is None or node.simd_count < UNIFIED_MIN_SIMD or gtt < DISCRETE_VRAM_MIB):
            problems.append(f"{product} ({card.name}) is left out: integrated, {vram} MiB of memory, {gtt} MiB of GTT")
            continue
        devices.append(
            Device(
                vendor="amd",
                index=position if position is not None else len(nodes) + len(devices),
                product=product,
                arch=node.gfx if node is not None else "",
                vram_mib=gtt if unified else vram,
                unified=unified,
            )
        )
    return tuple(sorted(devices, key=lambda device: device.index)), tuple(problems)


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
            found.append(
                _Node(
                    render_minor=properties.get("drm_render_minor", -1),
                    gfx=gfx_name(properties.get("gfx_target_version", 0)),
                    simd_count=properties["simd_count"],
                )
            )
    return found


def _render_minor(folder: Path) -> int:
    for entry in files.folders(folder / "drm", "renderD*"):
        number = files.number(entry.name.removeprefix("renderD"))
        if number is not None:
            return number
    return -2
