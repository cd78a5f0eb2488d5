"""Our proxy in front of one engine that somebody else runs: what `flexinfer up` wires, less controllers and keeper.

Usage: python -m benchmarks.gateway PORT UPSTREAM_PORT [--keys FILE] [--access-log FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import random
from pathlib import Path

import uvloop

from flexinfer import logs
from flexinfer.api import codec
from flexinfer.backends import external
from flexinfer.clock import SystemClock
from flexinfer.kube.informer import Informer
from flexinfer.kube.memory import MemoryStore
from flexinfer.kube.store import ENDPOINT_SLICES, MODELS
from flexinfer.lifecycle.activation import Limits
from flexinfer.metrics.model import ModelMetrics
from flexinfer.metrics.proxy import ProxyMetrics
from flexinfer.metrics.registry import Registry
from flexinfer.proxy.accesslog import AccessLog
from flexinfer.proxy.activator import Activator
from flexinfer.proxy.app import Server
from flexinfer.proxy.endpoints import decode_slice
from flexinfer.proxy.gate import Gate
from flexinfer.proxy.keys import KeyRing
from flexinfer.proxy.memory import Gauge
from flexinfer.proxy.settings import ProxySettings
from flexinfer.resources import endpointslice

MODEL = {
    "apiVersion": "ai.flexinfer/v1alpha2",
    "kind": "Model",
    "metadata": {"name": "bench", "namespace": "default"},
    # More slots than any figure opens streams: what is measured is forwarding, not waiting.
    "spec": {"backend": "simulator", "source": "file:///models/none", "config": {"slots": 1024}},
}


async def serve(port: int, upstream: int, keys: Path | None, access_log: Path | None) -> None:
    clock = SystemClock()
    store = MemoryStore(clock)
    await store.create(MODELS, MODEL)
    model = codec.from_object((await store.list(MODELS)).items[0])
    await store.create(ENDPOINT_SLICES, endpointslice.build(model, 0, "127.0.0.1", upstream, ready=True))
    models = Informer(store, MODELS, codec.from_object, rand=random.Random())
    slices = Informer(store, ENDPOINT_SLICES, decode_slice, rand=random.Random())
    metrics = ProxyMetrics(clock)
    registry = Registry(metrics, ModelMetrics(lambda: (model for _, model in models.items())))
    activator = Activator(store, models, slices, metrics, clock, limits=Limits(queue_size=1000))
    server = Server(
        activator, ProxySettings(), registry.render, clock,
        check_address=lambda host: external.allowed(host, ()),
        gate=Gate(KeyRing(keys, clock.monotonic()) if keys is not None else None),
        access=AccessLog(access_log.open("ab", 0).write, clock) if access_log is not None else None,
        memory_overload=Gauge().overload,
    )  # fmt: skip
    async with asyncio.TaskGroup() as group:
        group.create_task(models.run())
        group.create_task(slices.run())
        await models.synced.wait()
        await slices.synced.wait()
        group.create_task(activator.run())
        await activator.started.wait()
        await server.start("127.0.0.1", port)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("upstream", type=int)
    parser.add_argument("--keys", type=Path)
    parser.add_argument("--access-log", type=Path)
    options = parser.parse_args()
    logs.configure()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(options.port, options.upstream, options.keys, options.access_log))


if __name__ == "__main__":
    main()
