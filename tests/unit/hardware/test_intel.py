"""Intel's GPUs, from recorded sysfs trees of both drivers."""

from __future__ import annotations

import pytest
from tests.support.machines import Machine

from flexinfer.hardware import intel
from flexinfer.hardware.probe import Probe

A770, B580, UHD = "0x56a0", "0xe20b", "0x46a6"
GIB = 2**30


def card(number: int, device: str, **more: str | int) -> dict[str, str | int]:
    folder = f"sys/class/drm/card{number}"
    named = {f"{folder}/{name.replace('__', '/')}": value for name, value in more.items()}
    return {f"{folder}/device/vendor": "0x8086", f"{folder}/device/device": device, **named}


def seen(probe: Probe) -> list[tuple[int, str, int, int | None]]:
    free = [reading.free_mib for reading in probe.readings]
    return [
        (device.index, device.arch, device.vram_mib, left) for device, left in zip(probe.devices, free, strict=True)
    ]


@pytest.mark.parametrize(
    ("files", "devices", "left_out", "problems"),
    [
        pytest.param(
            card(1, A770, lmem_total_bytes=16 * GIB, lmem_avail_bytes=15 * GIB),
            [(0, "xe-hpg", 16384, 15360)], 0, 0, id="an Arc A770 with the i915 driver",
        ),
        pytest.param(
            card(0, B580, device__tile0__physical_vram_size_bytes=12 * GIB),
            [(0, "xe2-hpg", 12288, None)], 0, 0, id="an Arc B580 with the xe driver, which does not tell what is free",
        ),
        pytest.param(
            card(0, UHD) | card(1, A770, lmem_total_bytes=16 * GIB), [(0, "xe-hpg", 16384, None)], 1, 0,
            id="beside an integrated one, which is named and left out",
        ),
        pytest.param(card(0, A770), [(0, "xe-hpg", 0, None)], 0, 1, id="a driver that does not tell the memory"),
        pytest.param(card(0, UHD), [], 1, 0, id="an integrated one alone"),
        pytest.param({"sys/class/drm/card0-HDMI-A-1/status": "connected"}, [], 0, 0, id="an outlet is no card"),
        pytest.param(
            card(0, A770, lmem_total_bytes="junk", lmem_avail_bytes="²"), [(0, "xe-hpg", 0, None)], 0, 1,
            id="junk in the files",
        ),
        pytest.param(
            {"sys/class/drm/card0/device/vendor": "0x1002", "sys/class/drm/card0/device/device": A770}, [], 0, 0,
            id="another vendor's",
        ),
    ],
)  # fmt: skip
def test_read(
    machine: Machine,
    files: dict[str, str | int],
    devices: list[tuple[int, str, int, int | None]],
    left_out: int,
    problems: int,
):
    probe = intel.read(machine.files(files).root)
    assert (seen(probe), len(probe.left_out), len(probe.problems)) == (devices, left_out, problems)
