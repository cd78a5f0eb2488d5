"""kubernetes_asyncio under load, in its own process: python kube_peer_asyncio.py RESULT NAMESPACE OBJECTS SECONDS"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from pathlib import Path
from typing import Any

from kubernetes_asyncio import client, config  # type: ignore[import-not-found]


def kib(file: str, name: str) -> int:
    """A figure that the kernel has of this process."""
    gc.collect()
    lines = Path("/proc/self", file).read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])


async def listed(core: Any, namespace: str, cache: dict[str, Any]) -> None:
    token = None
    while True:
        page = await core.list_namespaced_pod(namespace, limit=500, _continue=token)
        for pod in page.items:
            cache[pod.metadata.name] = pod
        token = page.metadata._continue
        if not token:
            return


async def main(namespace: str, objects: int, seconds: float) -> dict[str, float]:
    await config.load_kube_config()
    async with client.ApiClient() as api:
        core = client.CoreV1Api(api)
        cache: dict[str, Any] = {}
        memory, cpu = kib("smaps_rollup", "Pss:"), time.process_time()
        await listed(core, namespace, cache)
        list_us = (time.process_time() - cpu) * 1e6 / objects
        assert len(cache) == objects
        object_kib = (kib("smaps_rollup", "Pss:") - memory) / objects
        cpu = time.process_time()
        await listed(core, namespace, cache)
        again_us = (time.process_time() - cpu) * 1e6 / objects
        peak_mib = kib("status", "VmHWM:") / 1024

        until, cpu, calls = time.monotonic() + seconds, time.process_time(), 0

        async def applying(number: int) -> None:
            nonlocal calls
            name = f"applied-{number}"
            while time.monotonic() < until:
                calls += 1
                body = {
                    "apiVersion": "v1",
                    "kind": "ConfigMap",
                    "metadata": {"name": name, "namespace": namespace},
                    "data": {"call": str(calls)},
                }
                await core.patch_namespaced_config_map(
                    name,
                    namespace,
                    body,
                    field_manager="bench",
                    force=True,
                    _content_type="application/apply-patch+yaml",
                )

        await asyncio.gather(*map(applying, range(8)))
        apply_us = (time.process_time() - cpu) * 1e6 / calls
    return {
        "list_us": list_us, "object_kib": object_kib, "again_us": again_us, "peak_mib": peak_mib, "apply_us": apply_us
    }  # fmt: skip


if __name__ == "__main__":
    measured = asyncio.run(main(sys.argv[2], int(sys.argv[3]), float(sys.argv[4])))
    Path(sys.argv[1]).write_text(json.dumps(measured))
