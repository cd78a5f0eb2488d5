"""NVIDIA devices, by `nvidia-smi`. A device without memory of its own (GB10) counts with the machine's."""

from __future__ import annotations

import csv

from flexinfer.backends.base import Device
from flexinfer.hardware import files, tools

QUERY = ("index", "uuid", "name", "memory.total", "compute_cap")


def read(path_env: str | None, memory_mib: int) -> tuple[tuple[Device, ...], tuple[str, ...]]:
    """Devices and problems. No tool: no devices and no problem, PCI tells whether there is a card."""
    try:
        printed = tools.output("nvidia-smi", _arguments(QUERY), path_env)
    except tools.ToolFailed as error:
        if "compute_cap" not in str(error):
            return (), (str(error),)
        # Drivers before 470 do not know the field.
        try:
            printed = tools.output("nvidia-smi", _arguments(QUERY[:-1]), path_env)
        except tools.ToolFailed as second:
            return (), (str(second),)
    return parse(printed or "", memory_mib)


def parse(printed: str, memory_mib: int) -> tuple[tuple[Device, ...], tuple[str, ...]]:
    """`index, uuid, name, MiB, compute capability` by line; lines that are not that are problems."""
    devices, problems = [], []
    for row in csv.reader(printed.splitlines(), skipinitialspace=True):
        cells = [cell.strip() for cell in row]
        if not any(cells) or cells == ["No devices were found"]:
            continue
        index = files.number(cells[0])
        if len(cells) < 4 or index is None:
            problems.append(f"nvidia-smi: a line that is no device: {','.join(cells)[:120]!r}")
            continue
        own = files.number(cells[3]) or 0
        devices.append(
            Device(
                vendor="nvidia",
                index=index,
                uuid=cells[1] if cells[1].startswith(("GPU-", "MIG-")) else "",
                product=cells[2],
                arch=_arch(cells[4]) if len(cells) > 4 else "",
                vram_mib=own or memory_mib,
                unified=own == 0,
            )
        )
    return tuple(devices), tuple(problems)


def _arguments(fields: tuple[str, ...]) -> tuple[str, ...]:
    return (f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits")


def _arch(compute_capability: str) -> str:
    major, _, minor = compute_capability.partition(".")
    known = files.number(major) is not None and files.number(minor or "0") is not None
    return f"sm_{major}{minor or 0}" if known else ""
