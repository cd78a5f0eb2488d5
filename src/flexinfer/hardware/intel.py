"""Intel's GPUs from sysfs. Integrated ones have no memory of their own; they are named and left out."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from flexinfer.backends.base import Device
from flexinfer.hardware import files, pciids
from flexinfer.hardware.probe import ABSENT, Probe, celsius
from flexinfer.placement.nodefacts import Reading

VENDOR_ID = 0x8086
MIB = 2**20
_ARCHITECTURES = {0x56: "xe-hpg", 0xE2: "xe2-hpg", 0x0B: "xe-hpc"}
"""By the high byte of the PCI device id: Arc A and Flex, Arc B, Data Center GPU Max."""


def discrete(device_id: int) -> bool:
    return device_id >> 8 in _ARCHITECTURES


def read(root: Path, at: datetime | None = None) -> Probe:
    devices: list[Device] = []
    readings, left_out, problems = [], [], []
    for card in files.folders(root / "sys/class/drm", "card*"):
        folder = card / "device"
        device_id = files.integer(folder / "device")
        if "-" in card.name or files.integer(folder / "vendor") != VENDOR_ID:
            continue
        product = pciids.name(VENDOR_ID, device_id)
        if not discrete(device_id):
            left_out.append(f"{product} ({card.name}) is left out: integrated, without memory of its own")
            continue
        total = files.integer(card / "lmem_total_bytes") or files.integer(folder / "tile0/physical_vram_size_bytes")
        free = files.integer(card / "lmem_avail_bytes", -1)
        if total == 0:
            problems.append(f"{product} ({card.name}): its driver does not tell how much memory it has")
        index = len(devices)
        devices.append(
            Device(
                vendor="intel",
                index=index,
                product=product,
                arch=_ARCHITECTURES[device_id >> 8],
                vram_mib=total // MIB,
                pci=files.pci_address(folder),
                numa=files.numa(folder),
            )
        )
        readings.append(
            Reading(
                vendor="intel",
                index=index,
                free_mib=free // MIB if free >= 0 else None,
                temperature_c=celsius(files.temperature(folder)),
                at=at,
            )
        )
    if not devices and not left_out:
        return ABSENT
    return Probe(devices=tuple(devices), readings=tuple(readings), left_out=tuple(left_out), problems=tuple(problems))
