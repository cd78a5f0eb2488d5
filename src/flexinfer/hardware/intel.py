"""Intel's discrete GPUs from sysfs. Integrated ones have no memory of their own and are passed over."""

from __future__ import annotations

from pathlib import Path

from flexinfer.backends.base import Device
from flexinfer.hardware import files

VENDOR_ID = 0x8086
MIB = 2**20
_FAMILIES = {
    0x56: ("Arc A-series", "xe-hpg"),
    0xE2: ("Arc B-series", "xe2-hpg"),
    0x0B: ("Data Center GPU Max", "xe-hpc"),
}
"""By the high byte of the PCI device id."""


def discrete(device_id: int) -> bool:
    return device_id >> 8 in _FAMILIES


def read(root: Path) -> tuple[Device, ...]:
    devices: list[Device] = []
    for card in files.folders(root / "sys/class/drm", "card*"):
        device_id = files.integer(card / "device/device")
        if "-" in card.name or files.integer(card / "device/vendor") != VENDOR_ID:
            continue
        if discrete(device_id):
            product, arch = _FAMILIES[device_id >> 8]
            memory = files.integer(card / "lmem_total_bytes") or files.integer(
                card / "device/tile0/physical_vram_size_bytes"
            )
            devices.append(
                Device(
                    vendor="intel",
                    index=len(devices),
                    product=f"Intel {product}",
                    arch=arch,
                    vram_mib=memory // MIB,
                )
            )
    return tuple(devices)
