"""Which devices a process may see."""

from __future__ import annotations

import pytest

from flexinfer.backends import devices
from flexinfer.backends.base import NOBODY, ROOT, Device

NVIDIA = Device(vendor="nvidia", index=2, uuid="GPU-aa")
NVIDIA_UNNAMED = Device(vendor="nvidia", index=1)
AMD = Device(vendor="amd", index=1, uuid="GPU-00d1f5b6c8c4a3e2", arch="gfx1100")
AMD_UNNAMED = Device(vendor="amd", index=3, arch="gfx906")


@pytest.mark.parametrize(
    ("shown", "cuda", "rocr", "hip"),
    [
        pytest.param((), "-1", None, "-1", id="none"),
        pytest.param((NVIDIA,), "GPU-aa", None, "-1", id="an NVIDIA device by UUID"),
        pytest.param((NVIDIA_UNNAMED,), "1", None, "-1", id="an NVIDIA device by number"),
        pytest.param((NVIDIA, NVIDIA_UNNAMED), "GPU-aa,1", None, "-1", id="two NVIDIA devices"),
        pytest.param(
            (AMD,), "-1", "GPU-00d1f5b6c8c4a3e2", "0", id="an AMD device by UUID, the first of what is visible"
        ),
        pytest.param((AMD_UNNAMED,), "-1", "3", "0", id="an AMD device by number"),
        pytest.param((AMD, AMD_UNNAMED), "-1", "GPU-00d1f5b6c8c4a3e2,3", "0,1", id="two AMD devices"),
    ],
)
def test_visible(shown: tuple[Device, ...], cuda: str, rocr: str | None, hip: str) -> None:
    expected = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": cuda, "HIP_VISIBLE_DEVICES": hip}
    assert devices.visible(shown) == (expected if rocr is None else expected | {"ROCR_VISIBLE_DEVICES": rocr})


@pytest.mark.parametrize(
    ("shown", "cuda", "rocm"),
    [
        pytest.param((NVIDIA,), "GPU-aa", {}, id="an NVIDIA device"),
        pytest.param(
            (AMD,), "0",
            {
                "HSA_OVERRIDE_GFX_VERSION": "11.0.0",
                "PYTORCH_ROCM_ARCH": "gfx1100",
                "ROCR_VISIBLE_DEVICES": "GPU-00d1f5b6c8c4a3e2",
                "TORCH_ROCM_AOTRITON_ENABLE_EXPERIMENTAL": "1",
            },
            id="an AMD device: both names say the same",
        ),
        pytest.param((AMD_UNNAMED,), "0", {"HSA_ENABLE_SDMA": "0", "ROCR_VISIBLE_DEVICES": "3"}, id="gfx906"),
    ],
)  # fmt: skip
def test_pytorch(shown: tuple[Device, ...], cuda: str, rocm: dict[str, str]) -> None:
    hip = "0" if shown[0].vendor == "amd" else "-1"
    common = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": cuda, "HIP_VISIBLE_DEVICES": hip}
    assert devices.torch(shown) == common | rocm


@pytest.mark.parametrize(
    ("shown", "user"),
    [
        pytest.param((), NOBODY, id="the CPU"),
        pytest.param((NVIDIA,), NOBODY, id="NVIDIA's device files are open to all"),
        pytest.param((AMD,), ROOT, id="AMD's belong to a group"),
    ],
)
def test_who_may_use_the_devices(shown: tuple[Device, ...], user: int) -> None:
    assert devices.user(shown) == user
