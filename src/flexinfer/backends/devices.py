"""Which devices a process may see: the environment variables of each vendor's runtime.

A process without a GPU is shown none, so that an engine built for GPUs cannot take memory that
belongs to another model. Devices go by UUID where it is known. By number NVIDIA's go in PCI order,
because CUDA's own order is fastest first, and AMD's in the order of the KFD. In a pod the devices are
those that the container was given, counted from 0.
"""

from __future__ import annotations

from collections.abc import Sequence

from flexinfer.backends.base import NOBODY, ROOT, Device

_NONE = "-1"
_GFX_ENV: tuple[tuple[str, dict[str, str]], ...] = (
    (
        "gfx110",
        {
            "HSA_OVERRIDE_GFX_VERSION": "11.0.0",
            "PYTORCH_ROCM_ARCH": "gfx1100",
            "TORCH_ROCM_AOTRITON_ENABLE_EXPERIMENTAL": "1",
        },
    ),
    ("gfx906", {"HSA_ENABLE_SDMA": "0"}),
)


def visible(devices: Sequence[Device]) -> dict[str, str]:
    """The environment in which exactly `devices` can be seen."""
    nvidia = [device for device in devices if device.vendor == "nvidia"]
    amd = [device for device in devices if device.vendor == "amd"]
    env = {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": ",".join(device.uuid or str(device.index) for device in nvidia) or _NONE,
        # HIP counts among what ROCR leaves visible, so an inherited value must not narrow it further.
        "HIP_VISIBLE_DEVICES": ",".join(str(position) for position in range(len(amd))) or _NONE,
    }
    if amd:
        env["ROCR_VISIBLE_DEVICES"] = ",".join(device.uuid or str(device.index) for device in amd)
    return env


def torch(devices: Sequence[Device]) -> dict[str, str]:
    """The environment of an engine that stands on PyTorch."""
    env = visible(devices) | rocm(devices)
    if any(device.vendor == "amd" for device in devices):
        # PyTorch for ROCm reads both names, and vLLM refuses to start where they differ.
        env["CUDA_VISIBLE_DEVICES"] = env["HIP_VISIBLE_DEVICES"]
    return env


def user(devices: Sequence[Device]) -> int:
    """Who runs an engine that writes nothing but its own folders."""
    # The device files of AMD and Intel belong to a group whose number differs from node to node.
    return NOBODY if all(device.vendor == "nvidia" for device in devices) else ROOT


def rocm(devices: Sequence[Device]) -> dict[str, str]:
    """What the ROCm runtime needs to know of an architecture."""
    for device in devices:
        for prefix, env in _GFX_ENV:
            if device.vendor == "amd" and device.arch.startswith(prefix):
                return dict(env)
    return {}
