"""NodeFacts: what one machine has, as the probes saw it."""

from __future__ import annotations

from datetime import datetime

import msgspec

from flexinfer.backends.base import Device, Vendor


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What changes of a device. None: the probe does not tell."""

    vendor: Vendor
    index: int
    free_mib: int | None = None
    util: float | None = None
    """0 to 1."""
    temperature_c: float | None = None
    at: datetime | None = None
    """When it was read; an old one is the last good value of a probe that fails since."""


class NumaNode(msgspec.Struct, frozen=True, kw_only=True):
    index: int
    cpus: str
    """A list of ranges, as the kernel writes it (`0-15,32-47`)."""
    memory_mib: int


class NodeFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Devices and memory of one machine. Sizes in MiB; `problems` name what could not be read, and why."""

    hostname: str = ""
    devices: tuple[Device, ...] = ()
    readings: tuple[Reading, ...] = ()
    """At most one for each device."""
    cores: int = 1
    """Cores this process may use."""
    memory_mib: int = 0
    memory_free_mib: int | None = None
    """What programs could still get, the page cache counted as free."""
    memory_limit_mib: int | None = None
    """What all engines together may use of it, where somebody has said."""
    at: datetime | None = None
    """When `memory_free_mib` was read."""
    cpu_name: str = ""
    cpu_flags: tuple[str, ...] = ()
    numa_nodes: tuple[NumaNode, ...] = ()
    left_out: tuple[str, ...] = ()
    """GPUs that are there and not used, by name and with the rule."""
    problems: tuple[str, ...] = ()

    def reading(self, device: Device) -> Reading | None:
        found = (one for one in self.readings if (one.vendor, one.index) == (device.vendor, device.index))
        return next(found, None)
