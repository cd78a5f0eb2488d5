"""The front of `up`: where requests come in. Here in its own process; `cli.workers` has it in several.

What each of several workers may use is its share of the whole: queues, connections, memory for bodies and
the slots of the engines, one at least of each.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Protocol

import msgspec

from flexinfer import backends
from flexinfer.api.v1alpha2.model import Model
from flexinfer.backends import external
from flexinfer.backends.base import Serving
from flexinfer.cli.session import NAMESPACE
from flexinfer.clock import Clock
from flexinfer.kube.informer import Informer
from flexinfer.kube.store import ObjectStore
from flexinfer.lifecycle.activation import Limits
from flexinfer.lifecycle.observed import Usage
from flexinfer.metrics.model import ModelMetrics
from flexinfer.metrics.proxy import ProxyMetrics
from flexinfer.metrics.registry import Collector, Registry
from flexinfer.metrics.window import Live
from flexinfer.proxy.accesslog import AccessLog
from flexinfer.proxy.activator import Activator
from flexinfer.proxy.admission import Admission
from flexinfer.proxy.app import Server
from flexinfer.proxy.endpoints import EndpointSlice
from flexinfer.proxy.gate import Gate
from flexinfer.proxy.keys import KeyRing
from flexinfer.proxy.listener import raise_limit
from flexinfer.proxy.memory import Gauge
from flexinfer.proxy.origins import Origins
from flexinfer.proxy.settings import ProxySettings


class Front(Protocol):
    def usage(self, name: str) -> Usage: ...

    def live(self, name: str) -> Live | None:
        """Throughput and latency of a model over the last 60 s; None without requests."""
        ...

    def running(self) -> AbstractAsyncContextManager[None]:
        """Requests are admitted inside the block."""
        ...

    async def listen(self, host: str, port: int) -> int:
        """The port. Raises OSError."""
        ...

    async def drain(self, delay_s: float, grace_s: float) -> int:
        """Refuse for `delay_s`, listen no more, wait for what is open; how many requests had to be cut."""
        ...

    async def stop(self) -> None: ...


class FrontSettings(msgspec.Struct, frozen=True, kw_only=True):
    proxy: ProxySettings
    queue_size: int
    queue_timeout_s: float = 60.0
    allowed_cidrs: tuple[str, ...] = ()
    api_key_file: str = ""
    """Empty: nobody has to show a key."""
    cors_origins: tuple[str, ...] = ()
    access_log: bool = False

    def gate(self, now: float) -> Gate:
        """Raises BadKeyFile."""
        keys = KeyRing(Path(self.api_key_file), now) if self.api_key_file else None
        return Gate(keys, Origins(self.cors_origins))

    def limits(self) -> Limits:
        return Limits(queue_size=self.queue_size, queue_timeout_s=self.queue_timeout_s)

    def shared(self, index: int, count: int) -> FrontSettings:
        """What the worker `index` of `count` may use."""
        whole = self.proxy
        proxy = msgspec.structs.replace(
            whole,
            max_connections=share(whole.max_connections, index, count),
            body_memory_bytes=max(whole.max_body_bytes, share(whole.body_memory_bytes, index, count)),
        )
        queue_size = share(self.queue_size, index, count) if self.queue_size else 0
        return msgspec.structs.replace(self, proxy=proxy, queue_size=queue_size)


def share(whole: int, index: int, count: int) -> int:
    """The shares of all together are the whole, unless there is less than one for each."""
    return max(1, whole // count + (index < whole % count))


class LocalFront:
    def __init__(
        self,
        settings: FrontSettings,
        store: ObjectStore,
        models: Informer[Model],
        slices: Informer[EndpointSlice],
        clock: Clock,
        *,
        serving_of: Callable[[Model], Serving] = backends.serving,
        on_timeout: Callable[[str], None] = lambda _name: None,
    ) -> None:
        """`on_timeout` is that of the Activator."""
        self._settings = settings
        self._models = models
        self._clock = clock
        self.metrics = ProxyMetrics(clock)
        self.activator = Activator(
            store, models, slices, self.metrics, clock,
            limits=settings.limits(), namespace=NAMESPACE, serving_of=serving_of,
            on_timeout=on_timeout,
        )  # fmt: skip
        self._server = self.serve(self.activator, self.metrics)

    def serve(self, admission: Admission, series: Collector) -> Server:
        """Serve with this admission, and show these series beside those of the Models."""
        registry = Registry(series, ModelMetrics(lambda: (model for _, model in self._models.items())))
        settings = self._settings
        self._access = AccessLog(write_to_stderr, self._clock) if settings.access_log else None
        self._server = Server(
            admission, settings.proxy, registry.render, self._clock,
            check_address=lambda host: external.allowed(host, settings.allowed_cidrs),
            gate=settings.gate(self._clock.monotonic()), access=self._access, memory_overload=Gauge().overload,
        )  # fmt: skip
        return self._server

    def usage(self, name: str) -> Usage:
        return self.activator.usage(name)

    def live(self, name: str) -> Live | None:
        return self.metrics.live(name)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with background(self.activator.run()):
            await self.activator.started.wait()
            yield

    async def listen(self, host: str, port: int) -> int:
        raise_limit()
        return await self._server.start(host, port)

    async def drain(self, delay_s: float, grace_s: float) -> int:
        ending_at = self._clock.monotonic()
        self.activator.drain()
        self._server.begin_drain()
        await asyncio.sleep(delay_s)
        cut = await self._server.drain(grace_s)
        self.metrics.shutdown("timeout" if cut else "drained", self._clock.monotonic() - ending_at)
        return cut

    async def stop(self) -> None:
        await self._server.stop()
        if self._access is not None:
            await self._access.close()


def write_to_stderr(block: bytes) -> None:
    """A terminal or pipe that is gone costs lines, not requests: the access log reports it."""
    while block:
        block = block[os.write(2, block) :]


@contextlib.asynccontextmanager
async def background(work: Any) -> AsyncIterator[asyncio.Task[None]]:
    """Run a coroutine beside the block; its failure ends the block, the block's end cancels it."""
    try:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(work)
            try:
                yield task
            finally:
                task.cancel()
    except BaseExceptionGroup as failed:
        # The block or the task, never both: a failure of the one cancels the other.
        raise failed.exceptions[0] from None
