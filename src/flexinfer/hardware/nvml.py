"""Ask NVML and print JSON. Run as a process of its own (`python -m flexinfer.hardware.nvml`).

NVML's calls block for as long as the driver likes, and a library of the driver does not belong into
the process that serves requests; a child can be given up. Exit code 3: no binding or no library.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from typing import Any

NO_NVML = 3


def collect(nvml: Any) -> list[dict[str, Any]]:
    """What `pynvml` (or a stand-in) knows of each device. What one device does not tell is None."""
    found = []
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            found.append(_device(nvml, index, nvml.nvmlDeviceGetHandleByIndex(index)))
        except nvml.NVMLError as error:
            found.append({"index": index, "error": str(error)})
    return found


def _device(nvml: Any, index: int, handle: Any) -> dict[str, Any]:
    def ask(name: str, *arguments: Any) -> Any:
        return _ask(nvml, getattr(nvml, name, None), handle, *arguments)

    memory = ask("nvmlDeviceGetMemoryInfo")
    capability = ask("nvmlDeviceGetCudaComputeCapability")
    util = ask("nvmlDeviceGetUtilizationRates")
    mig = ask("nvmlDeviceGetMigMode")
    pci = ask("nvmlDeviceGetPciInfo")
    return {
        "index": index,
        "uuid": _text(ask("nvmlDeviceGetUUID")),
        "name": _text(ask("nvmlDeviceGetName")),
        "totalMiB": memory.total // 2**20 if memory is not None else None,
        "freeMiB": memory.free // 2**20 if memory is not None else None,
        "capability": f"{capability[0]}.{capability[1]}" if capability is not None else "",
        "util": util.gpu if util is not None else None,
        "temperature": ask("nvmlDeviceGetTemperature", 0),
        "pci": _text(getattr(pci, "busId", "")) if pci is not None else "",
        "mig": _instances(nvml, handle) if mig is not None and mig[0] == 1 else None,
    }


def _instances(nvml: Any, handle: Any) -> list[str]:
    """`name (uuid)` of the MIG instances of a device."""
    names = []
    for index in range(_ask(nvml, nvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0):
        instance = _ask(nvml, nvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, index)
        if instance is not None:
            name = _text(_ask(nvml, nvml.nvmlDeviceGetName, instance))
            names.append(f"{name} ({_text(_ask(nvml, nvml.nvmlDeviceGetUUID, instance))})")
    return names


def _ask(nvml: Any, call: Callable[..., Any] | None, *arguments: Any) -> Any:
    """The answer; None where this device, driver or binding does not have it."""
    try:
        return call(*arguments) if call is not None else None
    except nvml.NVMLError:
        return None


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value or "")


def main() -> int:
    try:
        pynvml: Any = importlib.import_module("pynvml")
    except ImportError:
        return NO_NVML
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        sys.stderr.write(f"{error}\n")
        return NO_NVML
    json.dump({"devices": collect(pynvml)}, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
