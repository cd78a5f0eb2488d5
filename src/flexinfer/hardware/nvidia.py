"""NVIDIA devices: NVML where its binding and library are there, else `nvidia-smi`.

A device without memory of its own (GB10) counts with the machine's. One that is cut up by MIG is
left out and its instances are named.
"""

from __future__ import annotations

import csv
import os
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from flexinfer.backends.base import Device
from flexinfer.hardware import files, tools
from flexinfer.hardware.probe import ABSENT, Probe, celsius, decimal, percent
from flexinfer.placement.nodefacts import Reading

NVML = (sys.executable, "-P", "-m", "flexinfer.hardware.nvml")
QUERY = (
    "index", "uuid", "name", "memory.total", "compute_cap", "memory.free", "utilization.gpu", "temperature.gpu",
    "pci.bus_id", "mig.mode.current",
)  # fmt: skip
_NEEDED = frozenset({"index", "name", "memory.total"})
_NOT_VALID = re.compile(r'Field "([a-z_.]+)" is not a valid field')
_NONE = frozenset({"N/A", "[N/A]", "Not Supported", "[Not Supported]"})
"""Memory that the driver does not count: the device has none of its own. An error reads otherwise."""


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """The machine's, for devices that share it."""

    total_mib: int
    free_mib: int | None = None


def read(
    path_env: str | None,
    memory: Memory,
    at: datetime | None = None,
    nvml: Sequence[str] | None = None,
    timeout_s: float = tools.TIMEOUT_S,
) -> Probe:
    """`nvml`: the command that asks NVML; None: do not."""
    problems: tuple[str, ...] = ()
    if nvml is not None:
        try:
            printed = tools.run(nvml, os.environ, timeout_s)
            return parse_nvml(printed, memory, at)
        except tools.ToolFailed as error:
            # Without the binding or the library (exit code 3) there is nothing to report.
            if "exit code 3:" not in str(error):
                problems = (f"NVML: {error}",)
    try:
        found = _smi(path_env, timeout_s)
    except tools.ToolFailed as error:
        return Probe(status="failed", problems=(*problems, str(error)))
    if found is None:
        return Probe(status="failed", problems=problems) if problems else ABSENT
    fields, printed = found
    probe = parse(printed, memory, at, fields)
    return msgspec.structs.replace(probe, left_out=_named(probe.left_out, path_env, timeout_s))


def _smi(path_env: str | None, timeout_s: float) -> tuple[tuple[str, ...], str] | None:
    """Fields and output. Fields that a driver does not know are dropped: compute_cap came with 470."""
    fields: tuple[str, ...] = QUERY
    while True:
        try:
            arguments = (f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits")
            printed = tools.output("nvidia-smi", arguments, path_env, timeout_s)
        except tools.ToolFailed as error:
            unknown = _NOT_VALID.search(str(error))
            if unknown is None or unknown[1] not in fields or unknown[1] in _NEEDED:
                raise
            fields = tuple(field for field in fields if field != unknown[1])
            continue
        return (fields, printed) if printed is not None else None


def parse(printed: str, memory: Memory, at: datetime | None = None, fields: Sequence[str] = QUERY) -> Probe:
    """One device a line, in the order of `fields`; lines that are not that are problems."""
    devices: list[dict[str, Any]] = []
    problems: list[str] = []
    for row in csv.reader(printed.splitlines(), skipinitialspace=True):
        cells = [cell.strip() for cell in row]
        if not any(cells) or cells == ["No devices were found"]:
            continue
        known = dict(zip(fields, cells, strict=False))
        index = files.number(known["index"])
        if len(cells) < 4 or index is None:
            problems.append(f"nvidia-smi: a line that is no device: {','.join(cells)[:120]!r}")
            continue
        total = known["memory.total"]
        if files.number(total) is None and total not in _NONE:
            problems.append(f"nvidia-smi: GPU {index} ({known['name'][:60]}) says of its memory: {total[:60]!r}")
            continue
        devices.append(
            {
                "index": index,
                "uuid": known.get("uuid", ""),
                "name": known["name"],
                "totalMiB": files.number(total),
                "freeMiB": files.number(known.get("memory.free", "")),
                "capability": known.get("compute_cap", ""),
                "util": decimal(known.get("utilization.gpu", "")),
                "temperature": decimal(known.get("temperature.gpu", "")),
                "pci": known.get("pci.bus_id", ""),
                "mig": [] if known.get("mig.mode.current") == "Enabled" else None,
            }
        )
    return _probe(devices, problems, memory, at)


def parse_nvml(printed: str, memory: Memory, at: datetime | None = None) -> Probe:
    try:
        found = msgspec.json.decode(printed, type=dict[str, list[dict[str, Any]]])["devices"]
    except (msgspec.MsgspecError, RecursionError, KeyError):
        return Probe(status="failed", problems=(f"NVML: an answer that is none: {printed[:120]!r}",))
    broken = [f"NVML: GPU {one.get('index')}: {one['error']}" for one in found if "error" in one]
    return _probe([one for one in found if "error" not in one], broken, memory, at)


def _probe(found: Sequence[Mapping[str, Any]], problems: Sequence[str], memory: Memory, at: datetime | None) -> Probe:
    devices, readings, left_out = [], [], []
    for one in found:
        own = one["totalMiB"] or 0
        if one["mig"] is not None:
            cut = f" into {', '.join(one['mig'])}" if one["mig"] else ""
            left_out.append(f"{one['name']} (GPU {one['index']}) is left out: MIG has cut it up{cut}")
            continue
        device = Device(
            vendor="nvidia",
            index=one["index"],
            uuid=one["uuid"] if one["uuid"].startswith(("GPU-", "MIG-")) else "",
            product=one["name"],
            arch=_arch(one["capability"]),
            vram_mib=own or memory.total_mib,
            unified=own == 0,
            pci=_address(one["pci"]),
        )
        devices.append(device)
        readings.append(
            Reading(
                vendor="nvidia",
                index=device.index,
                free_mib=one["freeMiB"] if own else memory.free_mib,
                util=percent(one["util"]),
                temperature_c=celsius(one["temperature"]),
                at=at,
            )
        )
    return Probe(
        devices=tuple(devices),
        readings=tuple(readings),
        left_out=tuple(left_out),
        problems=tuple(problems),
        status="failed" if problems else "ok",
    )


def _named(left_out: tuple[str, ...], path_env: str | None, timeout_s: float) -> tuple[str, ...]:
    """With the MIG instances that `nvidia-smi -L` lists."""
    if not left_out:
        return ()
    try:
        printed = tools.output("nvidia-smi", ("-L",), path_env, timeout_s) or ""
    except tools.ToolFailed:
        return left_out
    instances = [" ".join(line.split()) for line in printed.splitlines() if line.strip().startswith("MIG ")]
    return (*left_out, *(f"{line[:120]} is an instance of a GPU that MIG has cut up" for line in instances[:64]))


def _address(bus_id: str) -> str:
    """`00000000:01:00.0` as the kernel writes it; empty for what is none."""
    found = re.fullmatch(r"(?:0000)?([0-9A-Fa-f]{4}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.[0-7])", bus_id)
    return found[1].lower() if found else ""


def _arch(compute_capability: str) -> str:
    major, _, minor = compute_capability.partition(".")
    known = files.number(major) is not None and files.number(minor or "0") is not None
    return f"sm_{major}{minor or 0}" if known else ""
