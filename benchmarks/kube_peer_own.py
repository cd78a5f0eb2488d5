"""Our client under load, in a process of its own: python kube_peer_own.py RESULT NAMESPACE OBJECTS SECONDS"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

from flexinfer.errors import Gone
from flexinfer.kube import config, typed
from flexinfer.kube.client import HttpStore
from flexinfer.kube.informer import Informer
from flexinfer.kube.store import CONFIG_MAPS, EVERYTHING, PODS, Resource, Selection, WatchEvent


class Forgetful:
    """A store whose watch of a list is `Gone` when the test says so: the informer lists again."""

    def __init__(self, store: HttpStore) -> None:
        self._store = store
        self.forget = asyncio.Event()
        self.lists = 0

    async def watch_list(
        self, resource: Resource, selection: Selection = EVERYTHING
    ) -> AsyncGenerator[WatchEvent, None]:
        async with aclosing(self._store.watch_list(resource, selection)) as events:
            async for event in events:
                if event.is_initial_end:
                    self.lists += 1
                yield event
                if event.is_initial_end:
                    break
        await self.forget.wait()
        self.forget.clear()
        raise Gone("the figure wants another list")


def kib(file: str, name: str) -> int:
    """A figure that the kernel has of this process."""
    gc.collect()
    lines = Path("/proc/self", file).read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])


async def main(namespace: str, objects: int, seconds: float) -> dict[str, float]:
    async with config.from_environment() as store:
        forgetful = Forgetful(store)
        pods = Informer(forgetful, PODS, typed.reader(typed.Pod), Selection(namespace))  # type: ignore[arg-type]
        memory, cpu = kib("smaps_rollup", "Pss:"), time.process_time()
        running = asyncio.create_task(pods.run())
        await pods.wait_synced()
        list_us = (time.process_time() - cpu) * 1e6 / objects
        assert len(pods.items()) == objects
        object_kib = (kib("smaps_rollup", "Pss:") - memory) / objects
        cpu = time.process_time()
        forgetful.forget.set()
        while forgetful.lists < 2:
            await asyncio.sleep(0.01)
        again_us = (time.process_time() - cpu) * 1e6 / objects
        peak_mib = kib("status", "VmHWM:") / 1024
        running.cancel()

        until, cpu, calls = time.monotonic() + seconds, time.process_time(), 0

        async def applying(number: int) -> None:
            nonlocal calls
            while time.monotonic() < until:
                calls += 1
                obj = {"metadata": {"name": f"applied-{number}", "namespace": namespace}, "data": {"call": str(calls)}}
                await store.apply(CONFIG_MAPS, obj, field_manager="bench", force=True)

        await asyncio.gather(*map(applying, range(8)))
        apply_us = (time.process_time() - cpu) * 1e6 / calls
    return {
        "list_us": list_us, "object_kib": object_kib, "again_us": again_us, "peak_mib": peak_mib, "apply_us": apply_us
    }  # fmt: skip


if __name__ == "__main__":
    measured = asyncio.run(main(sys.argv[2], int(sys.argv[3]), float(sys.argv[4])))
    Path(sys.argv[1]).write_text(json.dumps(measured))
