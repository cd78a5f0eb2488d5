"""Which devices a process may see."""

from __future__ import annotations

import pytest

from flexinfer.backends import devices
from flexinfer.backends.base import Device

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
