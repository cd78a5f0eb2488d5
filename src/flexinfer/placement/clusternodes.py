"""ClusterNode: what a Node of a cluster says of its GPUs, by capacity and by the labels of several discoverers.

The labels describe one kind of GPU; a node with several is described by the largest, as its labels say.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from flexinfer.api.quantity import Quantity
from flexinfer.backends.base import Vendor

RESOURCES: Mapping[Vendor, str] = {"nvidia": "nvidia.com/gpu", "amd": "amd.com/gpu", "intel": "gpu.intel.com/i915"}
"""What the device plugin of each vendor counts."""
NVIDIA_MAJOR = "nvidia.com/gpu.compute.major"
NVIDIA_MINOR = "nvidia.com/gpu.compute.minor"
NVIDIA_MEMORY = "nvidia.com/gpu.memory"
_AMD_ARCH = "gpu.amd.com/gpu-architecture"
_AMD_MEMORY = "amd.com/gpu.vram"
_AMD_FAMILY = re.compile(r"GC_(\d+)_(\d+)_(\d+)")
_SHORT_SIZE = re.compile(r"(\d+)G")


class ClusterNode(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    ready: bool = True
    labels: Mapping[str, str] = {}
    capacity: Mapping[str, int] = {}
    """Whole devices by resource name."""

    def count(self, vendor: Vendor) -> int:
        return self.capacity.get(RESOURCES.get(vendor, ""), 0)

    def matches(self, selector: Mapping[str, str]) -> bool:
        return all(self.labels.get(name) == value for name, value in selector.items())

    def arch(self, vendor: Vendor, prefix: str) -> str:
        """`sm_86`, `gfx1100`; empty where nobody says it."""
        said = self.labels.get(f"{prefix}/gpu.arch", "")
        if vendor == "nvidia":
            major, minor = self.labels.get(NVIDIA_MAJOR), self.labels.get(NVIDIA_MINOR, "0")
            return f"sm_{major}{minor}" if major else said if said.startswith("sm_") else ""
        if vendor == "amd":
            return self.labels.get(_AMD_ARCH) or (said if said.startswith("gfx") else "") or self._amd_family()
        return ""

    def vram_mib(self, vendor: Vendor, prefix: str) -> int:
        """Of one device; 0 where nobody says it."""
        if vendor == "nvidia" and (memory := self.labels.get(NVIDIA_MEMORY, "")).isdigit():
            return int(memory)
        if vendor == "amd" and (short := _SHORT_SIZE.fullmatch(self.labels.get(_AMD_MEMORY, ""))):
            return int(short[1]) * 1024
        try:
            return Quantity(self.labels.get(f"{prefix}/gpu.vram", "")).mib
        except ValueError:
            return 0

    def _amd_family(self) -> str:
        for name, value in self.labels.items():
            if "amd.com/gpu" not in name:
                continue
            if found := _AMD_FAMILY.search(value):
                major, minor, step = found.groups()
                return f"gfx{major}{minor}{int(step):x}"
            if "7900" in value:
                return "gfx1100"
        return ""
