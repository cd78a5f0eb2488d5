"""A running `flexinfer proxy`: informers of a cluster, an activator, the API's port and the one that wakes.

It is ready once it has seen every Model and its replicas, and stays so while the API server is away: what is
known is served, and a wish to wake a Model that cannot be written is told to whoever waits. On SIGTERM it is
ready no more, serves on while the cluster forgets its address, then waits for what is open.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import signal
from collections.abc import Sequence
from types import MappingProxyType
from typing import NamedTuple

import msgspec
import uvloop

from flexinfer import backends, logs
from flexinfer.api import codec
from flexinfer.api.v1alpha2.model import Model
from flexinfer.backends import external
from flexinfer.backends.base import Serving
from flexinfer.cli.front import FrontSettings, background, share, write_to_stderr
from flexinfer.clock import Clock, SystemClock
from flexinfer.errors import FlexInferError
from flexinfer.http import health
from flexinfer.http.health import Bind
from flexinfer.kube import config
from flexinfer.kube.access import Access
from flexinfer.kube.denied import Denials
from flexinfer.kube.scoped import ScopedInformer
from flexinfer.kube.store import ENDPOINT_SLICES, MODELS, ObjectStore
from flexinfer.metrics.namespaced import Namespaced
from flexinfer.metrics.process import ProcessMetrics
from flexinfer.metrics.proxy import ProxyMetrics
from flexinfer.metrics.registry import Registry
from flexinfer.metrics.rights import RightsMetrics
from flexinfer.proxy.accesslog import AccessLog
from flexinfer.proxy.activator import Activator
from flexinfer.proxy.app import Server
from flexinfer.proxy.byhost import HostAtLast, OnlyByHost
from flexinfer.proxy.endpoints import decode_slice
from flexinfer.proxy.gate import Gate
from flexinfer.proxy.listener import raise_limit
from flexinfer.proxy.memory import Gauge
from flexinfer.proxy.settings import ProxySettings
from flexinfer.routing.base import Endpoint

log = logs.get("proxy")

API_TIMEOUT_S = 10.0
"""For one call: who waits for a Model to be woken is told so much later that it could not be."""
OF_MODELS = MappingProxyType({"app.kubernetes.io/managed-by": "flexinfer"})
"""Slices have the labels of their Service; a cluster has many that are none of a Model."""
WAKE_SHARE = 4
"""The port without keys may hold the fourth part of the connections and of the memory for bodies, on top."""
_ANYWHERE = ("0.0.0.0/0", "::/0")


class Ports(NamedTuple):
    """0: not at all, and any free one for the API."""

    host: str
    api: int
    metrics: int
    wake: int


class ProxyOptions(msgspec.Struct, frozen=True, kw_only=True):
    ports: Ports
    namespaces: tuple[str, ...]
    """Empty: all."""
    front: FrontSettings
    drain_delay_s: float
    grace_s: float


def serve(options: ProxyOptions, access: Access) -> int:
    """Run until SIGTERM or SIGINT; 0 unless a request was cut."""
    logs.configure()
    raise_limit()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(options, access))


async def _serve(options: ProxyOptions, access: Access) -> int:
    ending = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ending.set)
    async with config.connect(access, timeout_s=API_TIMEOUT_S) as store:
        proxy = ClusterProxy(options, store)
        try:
            return 1 if await proxy.run(ending) else 0
        except OSError as error:
            raise FlexInferError(f"cannot listen on {options.ports.host}: {error.strerror or error}") from error


class ClusterProxy:
    def __init__(self, options: ProxyOptions, store: ObjectStore) -> None:
        self._options = options
        self._clock: Clock = SystemClock()
        self._denials = store = Denials(store, self._clock)
        self._models = ScopedInformer(store, MODELS, codec.from_object, options.namespaces)
        self._slices = ScopedInformer(store, ENDPOINT_SLICES, decode_slice, options.namespaces, OF_MODELS)
        self._metrics = ProxyMetrics(self._clock)
        settings = options.front
        self._activator = Activator(
            store, self._models, self._slices, self._metrics, self._clock,
            limits=settings.limits(), namespace=None, serving_of=serving,
            may_dial=lambda endpoint: may_dial(endpoint, settings.allowed_cidrs),
        )  # fmt: skip
        self._access = AccessLog(write_to_stderr, self._clock) if settings.access_log else None
        self._api = self._server(settings.proxy, settings.gate(self._clock.monotonic()), HostAtLast)
        self._wake = self._server(_part(settings.proxy), Gate(), OnlyByHost)
        self._not_ready = "the Models and their replicas have not been listed yet"

    def _server(self, settings: ProxySettings, gate: Gate, by_host: type[HostAtLast | OnlyByHost]) -> Server:
        return Server(
            self._activator, settings, None, self._clock, check_address=_check_address, gate=gate,
            access=self._access, by_host=by_host(self._activator, self._activator.targets),
            memory_overload=Gauge().overload,
        )  # fmt: skip

    async def run(self, ending: asyncio.Event) -> int:
        """How many requests were cut. Raises OSError where a port is taken."""
        registry = Registry(Namespaced(self._metrics), ProcessMetrics("proxy"), RightsMetrics(self._denials.rights))
        app = health.health_app(self._why_not_ready)
        app.add_routes([health.metrics_route(registry.render)])
        ports = self._options.ports
        async with contextlib.AsyncExitStack() as stack:
            if ports.metrics:
                await stack.enter_async_context(health.serving(app, Bind(ports.host, ports.metrics)))
            await stack.enter_async_context(background(self._models.run()))
            await stack.enter_async_context(background(self._slices.run()))
            if not await self._synced(ending):
                return 0
            await stack.enter_async_context(background(self._activator.run()))
            await self._activator.started.wait()
            api = await self._api.start(ports.host, ports.api)
            if ports.wake:
                await self._wake.start(ports.host, ports.wake)
            self._not_ready = ""
            log.info("serving", host=ports.host, port=api, wake_port=ports.wake, models=len(self._models.items()))
            await ending.wait()
            return await self._end()

    def _why_not_ready(self) -> str:
        """A right that turns out to be missing later takes no proxy away: awake Models are served all the same."""
        if not self._not_ready:
            return ""
        return "; ".join([self._not_ready, *(one.said for one in self._denials.missing())])

    async def _synced(self, ending: asyncio.Event) -> bool:
        """False: told to end before."""

        async def listed() -> None:
            await self._models.wait_synced()
            await self._slices.wait_synced()

        async with background(listed()) as listing, background(ending.wait()) as told:
            await asyncio.wait({listing, told}, return_when=asyncio.FIRST_COMPLETED)
            return listing.done()

    async def _end(self) -> int:
        options, began_at = self._options, self._clock.monotonic()
        self._not_ready = "it is ending"
        log.info("ending", drain_delay_s=options.drain_delay_s, grace_s=options.grace_s)
        for server in (self._api, self._wake):
            server.begin_leaving()
        await asyncio.sleep(options.drain_delay_s)
        self._activator.drain()
        cut = sum(await asyncio.gather(self._api.drain(options.grace_s), self._wake.drain(options.grace_s)))
        took_s = self._clock.monotonic() - began_at
        self._metrics.shutdown("timeout" if cut else "drained", took_s)
        log.info("ended", took_s=round(took_s, 3), cut=cut)
        for server in (self._api, self._wake):
            await server.stop()
        return cut


def serving(model: Model) -> Serving:
    """Of a Model on a cluster: whoever writes one must not have files of this process sent to a server of theirs."""
    return msgspec.structs.replace(backends.serving(model), api_key_file="")


def _part(whole: ProxySettings) -> ProxySettings:
    return msgspec.structs.replace(
        whole,
        max_connections=share(whole.max_connections, 0, WAKE_SHARE),
        body_memory_bytes=max(whole.max_body_bytes, share(whole.body_memory_bytes, 0, WAKE_SHARE)),
    )


def may_dial(endpoint: Endpoint, external_cidrs: Sequence[str]) -> bool:
    """What an external Model names is in the cluster's network or beyond: only where the installation allows it."""
    if not endpoint.authority:
        return True
    address = ipaddress.ip_address(endpoint.host)
    return any(address in ipaddress.ip_network(cidr, strict=False) for cidr in external_cidrs)


def _check_address(host: str) -> str | None:
    """Pods may be anywhere; metadata services and the like are none."""
    return external.allowed(host, _ANYWHERE)
