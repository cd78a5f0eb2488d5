"""rocm-smi and rocminfo of several releases, and how they complete what sysfs has."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.machines import Machine, amd_card, kfd_node

from flexinfer.backends.base import Device
from flexinfer.hardware import detect, rocm
from flexinfer.hardware.rocm import Card
from flexinfer.hardware.tools import ToolFailed
from flexinfer.placement.nodefacts import Reading

FOLDER = Path(__file__).parents[2] / "data/hardware"
CAT = "/usr/bin/cat" if Path("/usr/bin/cat").exists() else "/bin/cat"


def printed(name: str) -> str:
    return (FOLDER / name).read_text()


@pytest.mark.parametrize(
    ("name", "cards"),
    [
        pytest.param(
            "rocm-smi-5.7.json",
            (
                Card(
                    number=0, product="Radeon RX 7900 XTX", uuid="GPU-3d4595974090853c", pci="0000:03:00.0",
                    total_mib=24560, gtt_mib=32000, used_mib=1024, util=0.07, temperature_c=52.0,
                ),
            ), id="5.7",
        ),
        pytest.param(
            "rocm-smi-6.2.json",
            (
                Card(
                    number=0, product="AMD Instinct MI210", gfx="gfx90a", uuid="GPU-9e0c1a2b3c4d5e6f",
                    pci="0000:83:00.0", total_mib=65520, used_mib=10, util=0.0, temperature_c=44.0,
                ),
                Card(
                    number=1, product="Phoenix3", gfx="gfx1103", pci="0000:c4:00.0", util=0.19, temperature_c=31.0
                ),
            ), id="6.2",
        ),
        pytest.param(
            "rocm-smi-6.4.json",
            (
                Card(
                    number=0, product="AMD Radeon PRO W7900", gfx="gfx1100", uuid="GPU-0000000000000001",
                    pci="0000:0a:00.0", total_mib=46064, used_mib=26,
                ),
            ), id="6.4",
        ),
        pytest.param(
            "rocm-smi-7.0.json",
            (
                Card(
                    number=0, product="AMD Instinct MI300X", gfx="gfx942", uuid="GPU-7d6a1b2c3d4e5f60",
                    pci="0000:05:00.0", total_mib=196592, used_mib=98296, util=1.0, temperature_c=51.0,
                ),
            ), id="7.0",
        ),
    ],
)  # fmt: skip
def test_parse(name: str, cards: tuple[Card, ...]) -> None:
    assert rocm.parse(printed(name)) == cards


@pytest.mark.parametrize(
    "junk",
    [
        "",
        "ERROR: no GPU",
        "{",
        "{}",
        '{"card0": 5}',
        '{"cardX": {}}',
        '{"card\u00b2": {}}',
        "[" * 5000,
        '{"a": ' * 5000,
    ],
)
def test_junk_is_a_failure_with_its_text(junk: str) -> None:
    with pytest.raises(ToolFailed, match="rocm-smi printed no card"):
        rocm.parse(junk)


def test_rocminfo() -> None:
    assert rocm.parse_info(printed("rocminfo.txt")) == ("gfx90a", "gfx1103")
    assert rocm.parse_info("Name: gfx;rm\nDevice Type: GPU") == ()


def test_without_sysfs_the_tool_alone_is_enough(machine: Machine) -> None:
    machine.tool("rocm-smi", f"{CAT} {FOLDER}/rocm-smi-5.7.json").tool(
        "rocminfo", "echo Name: gfx1100; echo Device Type: GPU"
    )
    facts = detect.detect(machine.root, machine.path_env)
    assert facts.devices == (
        Device(
            vendor="amd", index=0, uuid="GPU-3d4595974090853c", product="Radeon RX 7900 XTX", arch="gfx1100",
            vram_mib=24560, pci="0000:03:00.0",
        ),
    )  # fmt: skip
    assert facts.problems == ()


def sysfs_card(vram_mib: int = 24560, pci: str = "") -> dict[str, str | int]:
    folder = "sys/class/drm/card0/device"
    known = {f"{folder}/mem_info_vram_used": 512 * 2**20} | (
        {f"{folder}/uevent": f"DRIVER=amdgpu\nPCI_SLOT_NAME={pci}"} if pci else {}
    )
    return amd_card(0, "0x744c", vram_mib, 0, 128) | kfd_node(1, 110000, 192, 128) | known


@pytest.mark.parametrize(
    ("files", "util"),
    [
        pytest.param(sysfs_card(), 0.07, id="by memory"),
        pytest.param(sysfs_card(24560 - 64), 0.07, id="by memory that differs a little"),
        pytest.param(sysfs_card(24560 - 65), None, id="not by memory that differs more"),
        pytest.param(sysfs_card(8000, "0000:03:00.0"), 0.07, id="by the address on the bus"),
        pytest.param(sysfs_card(24560, "0000:04:00.0"), None, id="not when the addresses differ"),
    ],
)
def test_rocm_smi_completes_sysfs(machine: Machine, files: dict[str, str | int], util: float | None) -> None:
    machine.files(files).tool("rocm-smi", f"{CAT} {FOLDER}/rocm-smi-5.7.json")
    (reading,) = detect.detect(machine.root, machine.path_env).readings
    assert reading.util == util


def test_a_whole_sysfs_does_not_ask_the_tool(machine: Machine) -> None:
    folder = "sys/class/drm/card0/device"
    machine.files(sysfs_card() | {f"{folder}/gpu_busy_percent": 40, f"{folder}/hwmon/hwmon3/temp1_input": 45000})
    machine.files({f"{folder}/hwmon/hwmon3/temp2_input": 51000, f"{folder}/numa_node": 1})
    machine.tool("rocm-smi", "exit 9")
    facts = detect.detect(machine.root, machine.path_env)
    assert facts.problems == ()
    assert facts.devices[0].numa == 1
    assert facts.readings == (
        Reading(vendor="amd", index=0, free_mib=24048, util=0.4, temperature_c=51.0, at=facts.at),
    )


def test_a_broken_tool_does_not_hide_the_cards(machine: Machine) -> None:
    machine.files(sysfs_card()).tool("rocm-smi", "echo Traceback; exit 1")
    facts = detect.detect(machine.root, machine.path_env)
    assert [device.vram_mib for device in facts.devices] == [24560]
    assert facts.problems == ("rocm-smi failed with exit code 1: Traceback",)


def test_rocminfo_names_what_an_old_kernel_does_not(machine: Machine) -> None:
    machine.files(amd_card(0, "0x738c", 32752, 0, 128) | kfd_node(1, 0, 480, 128))
    machine.tool("rocminfo", "echo Name: gfx908; echo Device Type: GPU")
    (device,) = detect.detect(machine.root, machine.path_env).devices
    assert (device.product, device.arch) == ("AMD Instinct MI100", "gfx908")


def test_the_unique_id_of_the_kfd_is_the_uuid(machine: Machine) -> None:
    machine.files(sysfs_card())
    path = machine.root / "sys/class/kfd/kfd/topology/nodes/1/properties"
    path.write_text(path.read_text() + "unique_id 4415185069284394300\n")
    (device,) = detect.detect(machine.root, machine.path_env).devices
    assert device.uuid == f"GPU-{4415185069284394300:016x}"


@pytest.mark.parametrize(
    ("setting", "devices", "left_out", "problems"),
    [
        pytest.param("2048", [2048], 0, 0, id="a lower limit takes it"),
        pytest.param("", [], 1, 0, id="the limit leaves a small card out"),
        pytest.param("lots", [], 1, 1, id="a limit that is no number is a problem"),
    ],
)
def test_the_limit_for_cards(machine: Machine, setting: str, devices: list[int], left_out: int, problems: int) -> None:
    machine.files(amd_card(0, "0x7340", 2048, 64000, 128) | kfd_node(1, 101200, 88, 128))
    scan = detect.scan(
        detect.Machine(
            root=machine.root, path_env=machine.path_env, env={"FLEXINFER_AMD_MIN_DISCRETE_VRAM_MB": setting}
        )
    )
    facts = scan.facts()
    assert [device.vram_mib for device in facts.devices] == devices
    assert (len(facts.left_out), len(facts.problems)) == (left_out, problems)
