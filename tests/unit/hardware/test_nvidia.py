"""NVIDIA devices: by NVML, by the text of old and new drivers, MIG and unified memory."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.support.machines import Machine

from flexinfer.backends.base import Device
from flexinfer.hardware import detect, nvidia, nvml
from flexinfer.hardware.nvidia import Memory
from flexinfer.placement.nodefacts import Reading

AT = datetime(2026, 11, 25, tzinfo=UTC)
MEMORY = Memory(total_mib=128000, free_mib=90000)
NEW = "0, GPU-aa, NVIDIA RTX 4090, 24564, 8.9, 20000, 35, 61, 00000000:01:00.0, [N/A]"


def device(**other: Any) -> Device:
    known: dict[str, Any] = {
        "uuid": "GPU-aa", "product": "NVIDIA RTX 4090", "arch": "sm_89", "vram_mib": 24564, "pci": "0000:01:00.0"
    }  # fmt: skip
    return Device(vendor="nvidia", index=0, **(known | other))


def reading(free_mib: int | None, util: float | None, temperature_c: float | None) -> Reading:
    return Reading(vendor="nvidia", index=0, free_mib=free_mib, util=util, temperature_c=temperature_c, at=AT)


@pytest.mark.parametrize(
    ("printed", "found", "live"),
    [
        pytest.param(NEW, device(), reading(20000, 0.35, 61.0), id="a card"),
        pytest.param(
            "0, GPU-aa, NVIDIA GB10, [N/A], 12.1, [N/A], 3, 50, 0000000F:01:00.0, [N/A]",
            device(product="NVIDIA GB10", arch="sm_121", vram_mib=128000, unified=True, pci="000f:01:00.0"),
            reading(90000, 0.03, 50.0), id="memory that the driver does not count is the machine's",
        ),
        pytest.param(
            "0, GPU-aa, NVIDIA RTX 4090, 24564, 8.9, [Unknown Error], 900, [N/A], x, Disabled",
            device(pci=""), reading(None, None, None), id="nonsense beside the memory",
        ),
    ],
)  # fmt: skip
def test_a_line_of_nvidia_smi(printed: str, found: Device, live: Reading) -> None:
    probe = nvidia.parse(printed, MEMORY, AT)
    assert (probe.devices, probe.readings, probe.status) == ((found,), (live,), "ok")


def test_a_gpu_that_is_lost_is_not_one_with_unified_memory() -> None:
    probe = nvidia.parse("0, GPU-aa, NVIDIA RTX 4090, [GPU is lost], 8.9", MEMORY, AT)
    assert (probe.devices, probe.status) == ((), "failed")
    assert probe.problems == ("nvidia-smi: GPU 0 (NVIDIA RTX 4090) says of its memory: '[GPU is lost]'",)


def test_a_gpu_cut_up_by_mig_is_left_out_with_its_instances(machine: Machine) -> None:
    line = "0, GPU-aa, NVIDIA A100-SXM4-40GB, 40960, 8.0, 40000, [N/A], 30, 00000000:01:00.0, Enabled"
    listing = "GPU 0: NVIDIA A100 (UUID: GPU-aa)\\n  MIG 1g.5gb     Device  0: (UUID: MIG-11)"
    machine.tool("nvidia-smi", f'case "$1" in -L) printf "{listing}\\n";; *) echo "{line}";; esac')
    facts = detect.detect(machine.root, machine.path_env)
    assert (facts.devices, facts.problems) == ((), ())
    assert facts.left_out == (
        "NVIDIA A100-SXM4-40GB (GPU 0) is left out: MIG has cut it up",
        "MIG 1g.5gb Device 0: (UUID: MIG-11) is an instance of a GPU that MIG has cut up",
    )


@pytest.mark.parametrize("unknown", ["compute_cap", "mig.mode.current", "temperature.gpu"])
def test_a_driver_that_does_not_know_a_field(machine: Machine, unknown: str) -> None:
    place = nvidia.QUERY.index(unknown)
    cells = NEW.split(", ")
    rest = ", ".join(cells[:place] + cells[place + 1 :])
    machine.tool(
        "nvidia-smi",
        f'case "$1" in *{unknown}*) echo \'Field "{unknown}" is not a valid field to query.\'; exit 2;; '
        f"*) echo '{rest}';; esac",
    )
    (found,) = detect.detect(machine.root, machine.path_env).devices
    assert (found.vram_mib, found.uuid, found.arch) == (24564, "GPU-aa", "" if unknown == "compute_cap" else "sm_89")


class NoAnswer(Exception):
    pass


def library(**other: Any) -> SimpleNamespace:
    """What `pynvml` offers, with answers; a value that is an exception class is raised."""

    def answer(value: Any) -> Any:
        def call(*_: Any) -> Any:
            if value is NoAnswer:
                raise NoAnswer("Not Supported")
            return value

        return call

    answers: dict[str, Any] = {
        "nvmlDeviceGetCount": 1, "nvmlDeviceGetHandleByIndex": object(),
        "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=24564 * 2**20, free=20000 * 2**20),
        "nvmlDeviceGetCudaComputeCapability": (8, 9), "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=35),
        "nvmlDeviceGetMigMode": NoAnswer, "nvmlDeviceGetPciInfo": SimpleNamespace(busId=b"00000000:01:00.0"),
        "nvmlDeviceGetUUID": "GPU-aa", "nvmlDeviceGetName": b"NVIDIA RTX 4090", "nvmlDeviceGetTemperature": 61,
    }  # fmt: skip
    return SimpleNamespace(NVMLError=NoAnswer, **{name: answer(value) for name, value in (answers | other).items()})


def by_nvml(**other: Any) -> Any:
    return nvidia.parse_nvml(json.dumps({"devices": nvml.collect(library(**other))}), MEMORY, AT)


def test_nvml_tells_the_same_as_the_text() -> None:
    assert by_nvml() == nvidia.parse(NEW, MEMORY, AT)


def test_nvml_without_memory_means_unified() -> None:
    probe = by_nvml(nvmlDeviceGetMemoryInfo=NoAnswer, nvmlDeviceGetCudaComputeCapability=(12, 1))
    assert probe.devices == (device(arch="sm_121", vram_mib=128000, unified=True),)
    assert probe.readings == (reading(90000, 0.35, 61.0),)


def test_nvml_names_mig_instances() -> None:
    probe = by_nvml(
        nvmlDeviceGetMigMode=(1, 1), nvmlDeviceGetMaxMigDeviceCount=1, nvmlDeviceGetMigDeviceHandleByIndex=object()
    )
    assert probe.left_out == ("NVIDIA RTX 4090 (GPU 0) is left out: MIG has cut it up into NVIDIA RTX 4090 (GPU-aa)",)


def test_a_device_that_nvml_cannot_open_is_a_problem() -> None:
    probe = by_nvml(nvmlDeviceGetHandleByIndex=NoAnswer)
    assert (probe.devices, probe.problems, probe.status) == ((), ("NVML: GPU 0: Not Supported",), "failed")


@pytest.mark.parametrize("junk", ["", "[]", "{", '{"devices": 5}', '{"device": []}', '{"devices": [5]}'])
def test_an_answer_of_nvml_that_is_none(junk: str) -> None:
    assert nvidia.parse_nvml(junk, MEMORY).status == "failed"


def command(script: str) -> tuple[str, ...]:
    return (sys.executable, "-c", script)


@pytest.mark.parametrize(
    ("script", "problems"),
    [
        pytest.param("raise SystemExit(3)", (), id="no library: nvidia-smi answers and nothing is wrong"),
        pytest.param("import time; time.sleep(60)", (), id="a library that hangs: nvidia-smi answers"),
    ],
)
def test_nvidia_smi_answers_where_nvml_does_not(machine: Machine, script: str, problems: tuple[str, ...]) -> None:
    machine.tool("nvidia-smi", f"echo '{NEW}'")
    probe = nvidia.read(machine.path_env, MEMORY, AT, command(script), timeout_s=0.5)
    assert (probe.devices, probe.problems) == ((device(),), problems)


def test_both_silent_is_a_problem_that_names_both(machine: Machine) -> None:
    machine.tool("nvidia-smi", "echo driver mismatch; exit 18")
    probe = nvidia.read(machine.path_env, MEMORY, AT, command("print('boom'); raise SystemExit(1)"))
    assert probe.status == "failed"
    assert probe.problems == (
        f"NVML: {Path(sys.executable).name} failed with exit code 1: boom",
        "nvidia-smi failed with exit code 18: driver mismatch",
    )


def test_the_real_command_ends_without_a_library_or_with_devices() -> None:
    probe = nvidia.read("", MEMORY, AT, nvidia.NVML)
    assert probe.status in ("absent", "ok")
