"""Machines to probe: a folder for the files of /proc and /sys, and a folder for the tools."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


class Machine:
    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        self.tools = folder / "bin"
        self.root.mkdir()
        self.tools.mkdir()

    def files(self, contents: Mapping[str, str | int]) -> Machine:
        for name, text in contents.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{text}\n")
        return self

    def tool(self, name: str, script: str) -> Machine:
        path = self.tools / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return self

    @property
    def path_env(self) -> str:
        return str(self.tools)


def amd_card(number: int, device: str, vram_mib: int, gtt_mib: int, minor: int) -> dict[str, str | int]:
    folder = f"sys/class/drm/card{number}/device"
    return {
        f"{folder}/vendor": "0x1002",
        f"{folder}/device": device,
        f"{folder}/mem_info_vram_total": vram_mib * 2**20,
        f"{folder}/mem_info_gtt_total": gtt_mib * 2**20,
        f"{folder}/drm/renderD{minor}/dev": f"226:{minor}",
    }


def kfd_node(number: int, gfx: int, simds: int, minor: int) -> dict[str, str | int]:
    properties = f"cpu_cores_count 0\nsimd_count {simds}\ngfx_target_version {gfx}\ndrm_render_minor {minor}"
    return {f"sys/class/kfd/kfd/topology/nodes/{number}/properties": properties}


def pci_card(address: str, vendor: str, device: str, kind: str = "0x030000") -> dict[str, str | int]:
    folder = f"sys/bus/pci/devices/{address}"
    return {f"{folder}/vendor": vendor, f"{folder}/device": device, f"{folder}/class": kind}
