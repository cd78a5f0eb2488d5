"""`flexinfer devices`."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from flexinfer.backends.base import Device
from flexinfer.cli import devices
from flexinfer.placement.nodefacts import NodeFacts, NumaNode, Reading

AT = datetime(2026, 11, 25, tzinfo=UTC)
RTX = Device(
    vendor="nvidia", index=0, uuid="GPU-aa", product="NVIDIA RTX 4090", arch="sm_89", vram_mib=24564, numa=1,
    pci="0000:01:00.0",
)  # fmt: skip
STRIX = Device(
    vendor="amd", index=0, product="AMD Radeon 8060S", arch="gfx1151", vram_mib=110592, unified=True, own_mib=512
)
MAXWELL = Device(vendor="nvidia", index=1, product="NVIDIA Quadro K620", arch="sm_50", vram_mib=2000)
BOX = NodeFacts(
    hostname="box",
    devices=(RTX, STRIX, MAXWELL),
    readings=(Reading(vendor="nvidia", index=0, free_mib=20000, util=0.35, temperature_c=61.0, at=AT),),
    cores=16,
    memory_mib=128000,
    memory_free_mib=90000,
    at=AT,
    cpu_name="Some CPU",
    cpu_flags=("amx_int8", "amx_tile", "avx2", "avx512_vnni", "avx512f", "fpu"),
    numa_nodes=(NumaNode(index=0, cpus="0-7", memory_mib=64000), NumaNode(index=1, cpus="8-15", memory_mib=64000)),
    left_out=("AMD Raphael (card1) is left out: integrated",),
    problems=("NVIDIA L4 (10de:27b8 at 0000:02:00.0) cannot be used: install NVIDIA's driver",),
)


def row(found: dict[str, Any], backend: str) -> dict[str, str]:
    return next(one["on"] for one in found["backends"] if one["backend"] == backend)


@pytest.fixture
def tools(tmp_path: Path) -> str:
    for name in ("llama-server", "ollama"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    return str(tmp_path)


def test_described(tools: str) -> None:
    found = devices.described(BOX, AT.timestamp() + 12, tools)
    assert found["devices"][0] == {
        "device": "nvidia:0", "vendor": "nvidia", "index": 0, "uuid": "GPU-aa", "pci": "0000:01:00.0",
        "product": "NVIDIA RTX 4090", "arch": "sm_89", "memoryMiB": 24564, "unified": False, "ownMemoryMiB": 24564,
        "numa": 1, "freeMiB": 20000, "util": 0.35, "temperatureC": 61.0, "ageSeconds": 12.0,
    }  # fmt: skip
    assert (found["devices"][1]["ownMemoryMiB"], found["devices"][1]["ageSeconds"]) == (512, None)
    assert found["cpu"]["features"] == ["amx_int8", "amx_tile", "avx2", "avx512_vnni", "avx512f"]
    assert found["memory"] == {"totalMiB": 128000, "freeMiB": 90000}
    assert (found["leftOut"], found["problems"]) == (list(BOX.left_out), list(BOX.problems))
    assert row(found, "llamacpp") == dict.fromkeys(("nvidia:0", "amd:0", "nvidia:1", "cpu"), "yes")


def test_what_is_missing_is_said_for_each_device(tools: str) -> None:
    vllm = row(devices.described(BOX, 0, tools), "vllm")
    assert vllm["nvidia:1"] == "no: Maxwell (compute capability 5.x) has no kernels for it"
    assert vllm["nvidia:0"].startswith("missing: vllm is not installed: install vLLM")
    without = row(devices.described(BOX, 0, "/nowhere"), "llamacpp")
    assert without["cpu"] == "yes"
    assert "built for CUDA" in without["nvidia:0"]
    assert "built for ROCm" in without["amd:0"]


def test_for_people(capsys: pytest.CaptureFixture[str], tools: str) -> None:
    devices._print(devices.described(BOX, AT.timestamp() + 12, tools))
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines[1].split("  ")[0] == "nvidia:0"
    assert "20000 MiB  35%" in lines[1]
    assert "110592 MiB of the machine's, 512 set aside" in lines[2]
    assert lines[4] == "  AMD Raphael (card1) is left out: integrated"
    assert "cpu     Some CPU; 16 cores; avx2, avx512 (vnni, f), amx (int8, tile)" in lines
    assert "memory  128000 MiB, 90000 MiB free" in lines
    assert "numa    node 0: cores 0-7, 64000 MiB; node 1: cores 8-15, 64000 MiB" in lines
    assert ["llamacpp", "nvidia:0, amd:0, nvidia:1, cpu"] in [line.split(maxsplit=1) for line in lines]
    assert lines[-1] == "problem: NVIDIA L4 (10de:27b8 at 0000:02:00.0) cannot be used: install NVIDIA's driver"


def test_the_command_on_this_machine() -> None:
    done = CliRunner().invoke(devices.command, ["-o", "json"])
    assert done.exit_code == 0
    assert json.loads(done.stdout)["cpu"]["cores"] >= 1
    assert CliRunner().invoke(devices.command, []).exit_code == 0
