"""NodeFacts: what one machine has, as the probes saw it."""

from __future__ import annotations

import msgspec

from flexinfer.backends.base import Device


class NodeFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Devices and memory of one machine. Sizes in MiB; `problems` name what could not be read, and why."""

    hostname: str = ""
    devices: tuple[Device, ...] = ()
    cores: int = 1
    """Cores this process may use."""
    memory_mib: int = 0
    cpu_flags: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
