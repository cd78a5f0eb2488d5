"""All probes -> one NodeFacts. A probe that fails is a problem with its reason, never an error."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path

from flexinfer.backends.base import Device
from flexinfer.hardware import amd, cpu, files, intel, nvidia, pci
from flexinfer.placement.nodefacts import NodeFacts

_DRIVER = {
    "nvidia": "install NVIDIA's driver, which brings nvidia-smi",
    "amd": "load the amdgpu driver",
    "intel": "load the xe or i915 driver",
}
_NO_GPU_DRIVERS = ("vfio-pci", "pci-stub")


def detect(root: Path = Path("/"), path_env: str | None = None) -> NodeFacts:
    """What this machine has. `root` and `path_env` (default: the process's PATH) are for recorded machines."""
    processor = cpu.read(root)
    nvidia_devices, nvidia_problems = nvidia.read(path_env, processor.memory_mib)
    amd_devices, amd_problems = amd.read(root)
    devices = (*nvidia_devices, *amd_devices, *intel.read(root))
    named = {"amd"} if amd_problems else set()
    if nvidia_problems:
        named.add("nvidia")
    return NodeFacts(
        hostname=files.text(root / "proc/sys/kernel/hostname") or socket.gethostname(),
        devices=devices,
        cores=processor.cores,
        memory_mib=processor.memory_mib,
        cpu_flags=processor.flags,
        problems=(*nvidia_problems, *amd_problems, *_without_driver(pci.read(root), devices, named)),
    )


def _without_driver(cards: Sequence[pci.Card], devices: Sequence[Device], named: set[str]) -> tuple[str, ...]:
    """Cards that no probe found. Vendors in `named` have said what is wrong themselves."""
    problems = []
    for vendor, what in _DRIVER.items():
        present = [card for card in cards if card.vendor == vendor]
        if vendor in named or len([device for device in devices if device.vendor == vendor]) >= len(present):
            continue
        for card in present:
            if card.driver in _NO_GPU_DRIVERS:
                problems.append(
                    f"{vendor} card {card.ids} at {card.address} belongs to {card.driver}, not to this machine"
                )
            elif not card.driver or not any(device.vendor == vendor for device in devices):
                problems.append(f"{vendor} card {card.ids} at {card.address} cannot be used: {what}")
    return tuple(problems)
