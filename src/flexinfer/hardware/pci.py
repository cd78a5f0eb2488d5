"""Cards on the PCI bus, whether or not a driver knows them: a card without one is reported, not overlooked."""

from __future__ import annotations

from pathlib import Path

import msgspec

from flexinfer.backends.base import Vendor
from flexinfer.hardware import files, intel, pciids

_DISPLAY, _ACCELERATOR = 0x03, 0x12
_VENDORS: dict[int, Vendor] = {0x10DE: "nvidia", 0x1002: "amd", 0x8086: "intel"}


class Card(msgspec.Struct, frozen=True, kw_only=True):
    vendor: Vendor
    address: str
    ids: str
    product: str
    driver: str = ""


def read(root: Path) -> tuple[Card, ...]:
    """Graphics cards and accelerators of NVIDIA and AMD, and Intel's discrete ones."""
    cards = []
    for folder in files.folders(root / "sys/bus/pci/devices", "*"):
        vendor_id, device_id = files.integer(folder / "vendor"), files.integer(folder / "device")
        kind = files.integer(folder / "class") >> 16
        if vendor_id not in _VENDORS or kind not in (_DISPLAY, _ACCELERATOR):
            continue
        if vendor_id == intel.VENDOR_ID and not intel.discrete(device_id):
            continue
        driver = folder / "driver"
        cards.append(
            Card(
                vendor=_VENDORS[vendor_id],
                address=folder.name,
                ids=f"{vendor_id:04x}:{device_id:04x}",
                product=pciids.name(vendor_id, device_id),
                driver=driver.resolve().name if driver.exists() else "",
            )
        )
    return tuple(cards)
