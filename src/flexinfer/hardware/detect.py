"""All probes -> one NodeFacts. A probe that fails is a problem with its reason, never an error."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

import msgspec

from flexinfer.backends.base import Device, Vendor
from flexinfer.clock import SystemClock
from flexinfer.hardware import amd, cpu, files, intel, nvidia, pci, tools
from flexinfer.hardware.probe import ABSENT, Probe
from flexinfer.placement.nodefacts import NodeFacts

_DRIVER: dict[Vendor, str] = {
    "nvidia": "install NVIDIA's driver, which brings nvidia-smi",
    "amd": "load the amdgpu driver",
    "intel": "load the xe or i915 driver",
}
_NO_GPU_DRIVERS = ("vfio-pci", "pci-stub")


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Where to look: the real machine, or a recorded one with its tools."""

    root: Path = Path("/")
    path_env: str | None = None
    """None: the process's PATH."""
    nvml: Sequence[str] | None = None
    """The command that asks NVML; None: do not. `detect` asks it on the real machine only."""
    env: Mapping[str, str] = {}
    timeout_s: float = tools.TIMEOUT_S


class Scan(msgspec.Struct, frozen=True, kw_only=True):
    """One look at the machine, by vendor, so that a later failure of one probe can be bridged."""

    processor: cpu.CPU
    hostname: str
    probes: Mapping[Vendor, Probe]
    cards: tuple[pci.Card, ...]
    problems: tuple[str, ...] = ()
    at: datetime | None = None

    def facts(self) -> NodeFacts:
        probes = self.probes.values()
        devices = tuple(device for probe in probes for device in probe.devices)
        said = tuple(problem for probe in probes for problem in probe.problems)
        return NodeFacts(
            hostname=self.hostname,
            devices=devices,
            readings=tuple(reading for probe in probes for reading in probe.readings),
            cores=self.processor.cores,
            memory_mib=self.processor.memory_mib,
            memory_free_mib=self.processor.memory_free_mib,
            at=self.at,
            cpu_name=self.processor.name,
            cpu_flags=self.processor.flags,
            numa_nodes=self.processor.numa_nodes,
            left_out=tuple(line for probe in probes for line in probe.left_out),
            problems=(*self.problems, *said, *_without_driver(self.cards, self.probes)),
        )


def detect(root: Path = Path("/"), path_env: str | None = None) -> NodeFacts:
    """What this machine has. `root` and `path_env` (default: the process's PATH) are for recorded machines."""
    return scan(this_machine() if root == Path("/") else Machine(root=root, path_env=path_env)).facts()


def this_machine() -> Machine:
    return Machine(nvml=nvidia.NVML, env=os.environ)


def scan(machine: Machine, at: datetime | None = None) -> Scan:
    """Runs for as long as its slowest tools may take: 10 s each at most."""
    at = at or SystemClock().now()
    processor = cpu.read(machine.root)
    cards = pci.read(machine.root)
    limit, problems = _min_discrete(machine.env)
    ask = amd.Ask(
        path_env=machine.path_env,
        timeout_s=machine.timeout_s,
        min_discrete_mib=limit,
        memory_mib=processor.memory_mib,
        memory_free_mib=processor.memory_free_mib,
        at=at,
    )
    memory = nvidia.Memory(total_mib=processor.memory_mib, free_mib=processor.memory_free_mib)
    nvml = machine.nvml if _nvidia_in_sight(machine.root, cards) else None
    probes: dict[Vendor, Probe] = {
        "nvidia": _near(nvidia.read(machine.path_env, memory, at, nvml, machine.timeout_s), machine.root),
        "amd": amd.read(machine.root, ask),
        "intel": intel.read(machine.root, at),
    }
    return Scan(
        processor=processor,
        hostname=files.text(machine.root / "proc/sys/kernel/hostname") or socket.gethostname(),
        probes=probes,
        cards=cards,
        problems=problems,
        at=at,
    )


def _nvidia_in_sight(root: Path, cards: Sequence[pci.Card]) -> bool:
    """Asking NVML takes a process; under WSL there is no PCI card, but a paravirtual device."""
    nodes = ("dev/nvidiactl", "dev/dxg")
    return any(card.vendor == "nvidia" for card in cards) or any((root / node).exists() for node in nodes)


def _near(probe: Probe, root: Path) -> Probe:
    """With the NUMA node that the kernel states for each address."""
    return msgspec.structs.replace(probe, devices=tuple(_with_numa(device, root) for device in probe.devices))


def _with_numa(device: Device, root: Path) -> Device:
    node = files.numa(root / "sys/bus/pci/devices" / device.pci) if device.pci else None
    return msgspec.structs.replace(device, numa=node)


def _min_discrete(env: Mapping[str, str]) -> tuple[int, tuple[str, ...]]:
    text = env.get(amd.MIN_DISCRETE_ENV, "")
    limit = files.number(text)
    if text and limit is None:
        said = f"{amd.MIN_DISCRETE_ENV} is {text[:40]!r}, expected a number of MiB; {amd.MIN_DISCRETE_MIB} is used"
        return amd.MIN_DISCRETE_MIB, (said,)
    return limit if limit is not None else amd.MIN_DISCRETE_MIB, ()


def _without_driver(cards: Sequence[pci.Card], probes: Mapping[Vendor, Probe]) -> tuple[str, ...]:
    """Cards that no probe found. A vendor's probe that has a problem has said what is wrong itself."""
    problems = []
    for vendor, what in _DRIVER.items():
        probe = probes.get(vendor, ABSENT)
        present = [card for card in cards if card.vendor == vendor]
        known = len(probe.devices) + len(probe.left_out)
        if probe.problems or known >= len(present):
            continue
        for card in present:
            named = f"{card.product} ({card.ids} at {card.address})"
            if card.driver in _NO_GPU_DRIVERS:
                problems.append(f"{named} belongs to {card.driver}, not to this machine")
            elif not card.driver or not probe.devices:
                problems.append(f"{named} cannot be used: {what}")
    return tuple(problems)
