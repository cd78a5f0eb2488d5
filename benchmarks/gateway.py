"""Our proxy in front of one engine that somebody else runs: what `flexinfer up` wires, less controllers and keeper.

Usage: python -m benchmarks.gateway PORT UPSTREAM_PORT [--keys FILE] [--access-log FILE] [--slots N] [--queue-size N]
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
}


async def serve(options: argparse.Namespace) -> None:
    clock = SystemClock()
    store = MemoryStore(clock)
    spec = {"backend": "simulator", "source": "file:///models/none", "config": {"slots": options.slots}}
    await store.create(MODELS, {**MODEL, "spec": spec})
    model = codec.from_object((await store.list(MODELS)).items[0])
    await store.create(ENDPOINT_SLICES, endpointslice.build(model, 0, "127.0.0.1", options.upstream, ready=True))
    models = Informer(store, MODELS, codec.from_object, rand=random.Random())
    slices = Informer(store, ENDPOINT_SLICES, decode_slice, rand=random.Random())
    metrics = ProxyMetrics(clock)
    registry = Registry(metrics, ModelMetrics(lambda: (model for _, model in models.items())))
    activator = Activator(store, models, slices, metrics, clock, limits=Limits(queue_size=options.queue_size))
    server = Server(
        activator, ProxySettings(), registry.render, clock,
        check_address=lambda host: external.allowed(host, ()),
        gate=Gate(KeyRing(options.keys, clock.monotonic()) if options.keys is not None else None),
        access=AccessLog(options.access_log.open("ab", 0).write, clock) if options.access_log is not None else None,
        memory_overload=Gauge().overload,
    )  # fmt: skip
    async with asyncio.TaskGroup() as group:
        group.create_task(models.run())
        group.create_task(slices.run())
        await models.synced.wait()
        await slices.synced.wait()
        group.create_task(activator.run())
        await activator.started.wait()
        await server.start("127.0.0.1", options.port)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("upstream", type=int)
    parser.add_argument("--keys", type=Path)
    parser.add_argument("--access-log", type=Path)
    # More slots than most figures open streams: what they measure is forwarding, not waiting.
    parser.add_argument("--slots", type=int, default=1024)
    parser.add_argument("--queue-size", type=int, default=1000)
    options = parser.parse_args()
    logs.configure()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(options))


if __name__ == "__main__":
    main()
