"""Whole machines: devices and problems."""

from __future__ import annotations

import pytest
from tests.support.machines import Machine, amd_card, kfd_node, pci_card

from flexinfer.backends.base import Device
from flexinfer.hardware import nvidia, tools
from flexinfer.hardware.amd import gfx_name
from flexinfer.hardware.detect import detect

MEMINFO: dict[str, str | int] = {"proc/meminfo": "MemTotal: 131072000 kB"}
RTX4090 = Device(vendor="nvidia", index=0, uuid="GPU-aa", product="NVIDIA RTX 4090", arch="sm_89", vram_mib=24564)
RX7900 = Device(vendor="amd", index=0, product="AMD Radeon RX 7900", arch="gfx1100", vram_mib=24560)
STRIX_HALO, LIMIT = "AMD Radeon 8050S/8060S (Strix Halo)", "FLEXINFER_AMD_MIN_DISCRETE_VRAM_MB"
ASKS = f"{LIMIT} asks for 4096 MiB of its own"
DRIVER = "cannot be used: install NVIDIA's driver, which brings nvidia-smi"
SMI_4090 = "0, GPU-aa, NVIDIA RTX 4090, 24564, 8.9"


def test_cards_of_two_vendors_are_both_found(machine: Machine) -> None:
    machine.files(MEMINFO | pci_card("0000:01:00.0", "0x10de", "0x2684") | pci_card("0000:03:00.0", "0x1002", "0x744c"))
    machine.files(amd_card(1, "0x744c", 24560, 64000, 129) | kfd_node(0, 0, 0, 0) | kfd_node(1, 110000, 192, 129))
    machine.tool("nvidia-smi", f"echo '{SMI_4090}'")
    facts = detect(machine.root, machine.path_env)
    assert (facts.devices, facts.problems) == ((RTX4090, RX7900), ())


def test_index_follows_the_order_of_the_kfd(machine: Machine) -> None:
    machine.files(amd_card(0, "0x744c", 24560, 0, 128) | amd_card(1, "0x73bf", 16368, 0, 129))
    machine.files(kfd_node(1, 100300, 160, 129) | kfd_node(2, 110000, 192, 128))
    found = detect(machine.root, machine.path_env).devices
    assert [(device.index, device.arch, device.vram_mib) for device in found] == [
        (0, "gfx1030", 16368),
        (1, "gfx1100", 24560),
    ]


@pytest.mark.parametrize(
    ("simds", "gtt_mib", "devices", "left_out"),
    [
        pytest.param(
            80, 110592, [("gfx1151", 110592, True, 512)], (), id="a large one counts with the memory it may borrow"
        ),
        pytest.param(
            4, 15360, [],
            (
                f"{STRIX_HALO} (card0) is left out: integrated, 512 MiB of memory, 15360 MiB of GTT; {ASKS}",
            ),
            id="a small one is left out by name",
        ),
    ],
)  # fmt: skip
def test_integrated(
    machine: Machine, simds: int, gtt_mib: int, devices: list[tuple[str, int, bool, int]], left_out: tuple[str, ...]
) -> None:
    machine.files(amd_card(0, "0x1586", 512, gtt_mib, 128) | kfd_node(1, 110501, simds, 128))
    facts = detect(machine.root, machine.path_env)
    assert [(device.arch, device.vram_mib, device.unified, device.own_mib) for device in facts.devices] == devices
    assert (facts.left_out, facts.problems) == (left_out, ())


def test_unified_memory_of_nvidia_counts_with_the_machines(machine: Machine) -> None:
    machine.files(MEMINFO).tool("nvidia-smi", "echo '0, GPU-aa, NVIDIA GB10, [N/A], 12.1'")
    assert detect(machine.root, machine.path_env).devices == (
        Device(
            vendor="nvidia", index=0, uuid="GPU-aa", product="NVIDIA GB10", arch="sm_121", vram_mib=128000, unified=True
        ),
    )


def test_a_card_without_a_driver_is_a_problem(machine: Machine) -> None:
    machine.files(pci_card("0000:01:00.0", "0x10de", "0x2684") | pci_card("0000:02:00.0", "0x8086", "0x46a6"))
    facts = detect(machine.root, machine.path_env)
    assert facts.devices == ()
    assert facts.problems == (f"NVIDIA GeForce RTX 4090 (10de:2684 at 0000:01:00.0) {DRIVER}",)


def test_an_old_driver_without_compute_capability(machine: Machine) -> None:
    answer = "0, GPU-aa, Tesla K80, 11441"
    machine.tool(
        "nvidia-smi",
        f'case "$1" in *compute_cap*) echo \'Field "compute_cap" is not a valid field to query.\'; exit 2;; '
        f"*) echo '{answer}';; esac",
    )
    assert detect(machine.root, machine.path_env).devices == (
        Device(vendor="nvidia", index=0, uuid="GPU-aa", product="Tesla K80", vram_mib=11441),
    )


def test_a_tool_that_fails_is_a_problem(machine: Machine) -> None:
    machine.files(pci_card("0000:01:00.0", "0x10de", "0x2684"))
    machine.tool("nvidia-smi", 'echo "NVIDIA-SMI has failed because it couldn\'t communicate"; exit 9')
    facts = detect(machine.root, machine.path_env)
    assert facts.problems == (
        "nvidia-smi failed with exit code 9: NVIDIA-SMI has failed because it couldn't communicate",
    )


def test_a_tool_that_hangs_is_given_up(machine: Machine) -> None:
    machine.tool("nvidia-smi", "exec sleep 60")
    with pytest.raises(tools.ToolFailed, match=r"no answer within 0\.2 s"):
        tools.output("nvidia-smi", (), f"{machine.path_env}:/usr/bin:/bin", timeout_s=0.2)


@pytest.mark.parametrize(
    ("printed", "devices", "problems"),
    [
        pytest.param(SMI_4090, (RTX4090,), 0, id="a card"),
        pytest.param("No devices were found", (), 0, id="none"),
        pytest.param(f"\n{SMI_4090}\nwarning: ²³\n", (RTX4090,), 1, id="junk beside a card"),
        pytest.param(f"{'9' * 5000}, GPU-aa, X, 1, 8.9", (), 1, id="a number that is none"),
    ],
)
def test_parse(printed: str, devices: tuple[Device, ...], problems: int) -> None:
    found = nvidia.parse(printed, nvidia.Memory(total_mib=0))
    assert (found.devices, len(found.problems)) == (devices, problems)
    assert found.status == ("failed" if problems else "ok")


@pytest.mark.parametrize(
    ("version", "name"),
    [(110000, "gfx1100"), (90010, "gfx90a"), (90006, "gfx906"), (110501, "gfx1151"), (120001, "gfx1201"), (0, "")],
)
def test_gfx_name(version: int, name: str) -> None:
    assert gfx_name(version) == name
