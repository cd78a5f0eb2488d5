"""Reports on GPUs: not seen, taken for too small, counted twice, mixed up, split although one is half full.

The `up` under test sees recorded cards: sysfs and /proc/meminfo are bound over those of the machine, in a mount
namespace of its own, and the vendor's tools are stubs on its PATH.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.support import stub_engines
from tests.support.asking import ask, client
from tests.support.commands import call
from tests.support.machines import Machine, amd_card, kfd_node, pci_card
from tests.support.running import Running, running, write

MEMORY: Mapping[str, str | int] = {"proc/meminfo": "MemTotal: 134217728 kB\nMemAvailable: 130000000 kB"}


def nvidia(*lines: str) -> str:
    """A nvidia-smi that says this; index, uuid, product, MiB, capability, free MiB, then what does not matter here."""
    rest = ", 1, 40, 00000000:01:00.0, [N/A]"
    return "\n".join(f"echo '{line}{rest}'" for line in lines)


class Box:
    """The recorded machine, as `running` takes it."""

    def __init__(self, folder: Path) -> None:
        self.machine = Machine(folder)
        self.machine.files(MEMORY)
        (self.machine.root / "sys").mkdir()
        stub_engines.install(self.machine.tools, "llama-server", layers="gpu")
        self.env = {"PATH": f"{self.machine.tools}:/usr/bin:/bin"}

    @property
    def mounts(self) -> str:
        root = self.machine.root
        return f"mount --bind {root}/sys /sys\nmount --bind {root}/proc/meminfo /proc/meminfo"


@pytest.fixture
def box(tmp_path: Path) -> Box:
    (tmp_path / "box").mkdir()
    return Box(tmp_path / "box")


async def visible(up: Running, model: str) -> tuple[str, dict[str, str]]:
    """The device of the model's engine, and which devices its environment lets it see."""
    (engine,) = (engine for engine in await up.control.engines() if engine.model == model)
    raw = environment(engine.pid)
    names = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "ROCR_VISIBLE_DEVICES")
    return engine.device, dict(line.split("=", 1) for line in raw if line.startswith(names))


def environment(pid: int | None) -> list[str]:
    return Path(f"/proc/{pid}/environ").read_text().split("\0")


async def explained(up: Running, folder: Path, model: str) -> str:
    return (await call("explain", model, "--state-dir", up.info.state_dir, folder=folder)).stdout


def on(vendor: str, mib: int, **gpu: Any) -> dict[str, Any]:
    return {"gpu": {"vendor": vendor, "vramEstimateMB": mib, **gpu}}


async def test_fr_023_cards_of_two_vendors_each_serve_their_models(tmp_path, models, manifest, box):
    cards = pci_card("0000:01:00.0", "0x10de", "0x2684") | pci_card("0000:03:00.0", "0x1002", "0x744c")
    box.machine.files(cards | amd_card(1, "0x744c", 24560, 64000, 129) | kfd_node(1, 110000, 192, 129))
    box.machine.tool("nvidia-smi", nvidia("0, GPU-aa, NVIDIA RTX 4090, 24564, 8.9, 24000"))
    specs = [manifest(name, **on(name, 2000)) for name in ("amd", "nvidia", "auto")]
    file = write(tmp_path / "m.yaml", *specs)
    async with running(tmp_path, [file], env=box.env, mounts=box.mounts) as up, client() as session:
        for name in ("amd", "nvidia", "auto"):
            assert (await ask(session, up.url, name)).served
        device, env = await visible(up, "nvidia")
        assert (device, env["CUDA_VISIBLE_DEVICES"]) == ("nvidia:0", "GPU-aa")
        device, env = await visible(up, "amd")
        assert (device, env["CUDA_VISIBLE_DEVICES"], env["ROCR_VISIBLE_DEVICES"]) == ("amd:0", "-1", "0")
        assert (await visible(up, "auto"))[0] in ("amd:0", "nvidia:0")
        assert "auto chose" in await explained(up, tmp_path, "auto")


async def test_fr_024_a_gpu_with_unified_memory_is_used_and_its_memory_counted_once(tmp_path, models, manifest, box):
    box.machine.tool("nvidia-smi", nvidia("0, GPU-aa, NVIDIA GB10, [N/A], 12.1, [N/A]"))
    specs = [manifest("gpu", **on("nvidia", 40_000)), manifest("more", **on("nvidia", 95_000))]
    file = write(tmp_path / "m.yaml", *specs)
    async with running(tmp_path, [file], env=box.env, mounts=box.mounts) as up, client() as session:
        assert (await ask(session, up.url, "gpu")).served
        assert (await visible(up, "gpu"))[0] == "nvidia:0"
        model = await up.phase("gpu", "Ready")
        assert (model.status.gpu.memory_mb, model.status.gpu.architecture) == (131072, "sm_121")
        # 40,000 and 95,000 MiB are more than the 131,072 there are, wherever they are counted.
        assert (await ask(session, up.url, "more")).served
        await up.phase("gpu", "Idle")


@pytest.mark.parametrize("vendor", ["amd", "auto"])
async def test_fr_025_an_apu_counts_with_the_memory_that_it_may_borrow(tmp_path, models, manifest, box, vendor):
    box.machine.files(amd_card(0, "0x1586", 512, 110_592, 128) | kfd_node(1, 110501, 80, 128))
    file = write(tmp_path / "m.yaml", manifest("m", **on(vendor, 30_000)))
    async with running(tmp_path, [file], env=box.env, mounts=box.mounts) as up, client() as session:
        assert (await ask(session, up.url, "m")).served
        assert (await visible(up, "m"))[0] == "amd:0"
        allocated = (await up.model("m")).status.gpu
        assert (allocated.architecture, allocated.memory_mb) == ("gfx1151", 110_592)


async def test_fr_028_devices_are_handed_over_by_what_names_them_in_any_order(tmp_path, models, manifest, box):
    """nvidia-smi counts by PCI address, CUDA by speed: the small card between the two is never the second."""
    box.machine.tool(
        "nvidia-smi",
        nvidia(
            "0, GPU-a, NVIDIA RTX A5000, 24564, 8.6, 24000",
            "1, GPU-b, Quadro K620, 2000, 5.0, 2000",
            "2, GPU-c, NVIDIA RTX A5000, 24564, 8.6, 24000",
        ),
    )
    file = write(tmp_path / "m.yaml", manifest("m", **on("nvidia", 20_000, count=2)))
    async with running(tmp_path, [file], env=box.env, mounts=box.mounts) as up, client() as session:
        assert (await ask(session, up.url, "m")).served
        _, env = await visible(up, "m")
        assert (env["CUDA_VISIBLE_DEVICES"], env["CUDA_DEVICE_ORDER"]) == ("GPU-a,GPU-c", "PCI_BUS_ID")
        said = await explained(up, tmp_path, "m")
        assert [uuid in said for uuid in ("GPU-a", "GPU-b", "GPU-c")] == [True, False, True], said


async def test_fr_032_two_cards_of_which_one_is_partly_taken_are_not_split_evenly(tmp_path, models, manifest, box):
    box.machine.tool(
        "nvidia-smi",
        nvidia(
            "0, GPU-a, NVIDIA RTX 4090, 24564, 8.9, 20468",
            "1, GPU-b, NVIDIA RTX 4090, 24564, 8.9, 24564",
        ),
    )
    spec = manifest("m", gpu={"vendor": "nvidia", "count": 2, "vramEstimateMB": 43_909})
    spec["spec"]["serverless"] = {"coldStartTimeout": "1s"}
    file = write(tmp_path / "m.yaml", spec)
    async with running(tmp_path, [file], env=box.env, mounts=box.mounts) as up, client() as session:
        assert (await ask(session, up.url, "m")).status == 503
        status = (await up.model("m")).status
        assert "needs 21955 MiB on each of 2 GPUs" in status.message
        assert "nvidia:0 (NVIDIA RTX 4090) has 20468 of 24564 MiB left (4096 MiB are taken outside" in status.message
        assert await up.control.engines() == []
