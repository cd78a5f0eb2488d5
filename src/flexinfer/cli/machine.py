"""A running `up`: one process that is store, controller, proxy and parent of the keeper.

Wiring only: a memory store instead of an API server, LocalWorkloads instead of pods; everything else
is what a cluster runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import math
import os
import random
import resource
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TextIO, cast

import aiohttp
import click
import msgspec
import uvloop
from rich.console import Console

from flexinfer import __version__, logs
from flexinfer.api import admission, codec, definitions, kinds
from flexinfer.api.hosts import literal
from flexinfer.api.v1alpha2.model import Model
from flexinfer.cli import manifests
from flexinfer.cli.front import Front, FrontSettings, LocalFront, background
from flexinfer.cli.live import LiveTable
from flexinfer.cli.session import elsewhere, key
from flexinfer.cli.terminal import Terminal
from flexinfer.cli.workers import Pool
from flexinfer.clock import SteadyClock
from flexinfer.controllers.model import ModelReconciler
from flexinfer.errors import FlexInferError
from flexinfer.hardware.live import Inventory
from flexinfer.kube import shapes
from flexinfer.kube.apiserver import build_app
from flexinfer.kube.controller import Controller
from flexinfer.kube.informer import Informer
from flexinfer.kube.memory import MemoryStore
from flexinfer.kube.shapes import Shape
from flexinfer.kube.store import ENDPOINT_SLICES, MODELS, Object, Resource
from flexinfer.lifecycle.observed import Traffic, Usage
from flexinfer.local.artifacts import Places
from flexinfer.local.control import Control, Info, ModelUse
from flexinfer.local.downloads import DEFAULT_LIMIT, Settings
from flexinfer.local.filewatch import FileWatch
from flexinfer.local.manifestfiles import ManifestFiles, Read
from flexinfer.local.ports import Ports
from flexinfer.local.process import Keeper
from flexinfer.local.replica import Machine
from flexinfer.local.state import State, default_models_dir
from flexinfer.local.workloads import LocalWorkloads
from flexinfer.local.workloads import Options as WorkloadsOptions
from flexinfer.metrics.window import Live
from flexinfer.proxy.endpoints import EndpointSlice, decode_slice
from flexinfer.proxy.settings import ProxySettings

log = logs.get("up")

RECONCILE_WORKERS = 16
DESCRIPTORS = 65_536


class Options(msgspec.Struct, frozen=True, kw_only=True):
    files: tuple[Path, ...]
    host: str
    port: int
    state_dir: Path | None
    models_dir: Path | None
    queue_size: int
    queue_timeout_s: float
    allowed_cidrs: tuple[str, ...]
    drain_delay_s: float
    grace_s: float
    proxy: ProxySettings
    workers: int = 1
    """Processes that answer requests; with one it is this one."""
    downloads: int = DEFAULT_LIMIT
    hf_token_file: Path | None = None
    memory_mib: int | None = None
    """What all engines together may use; None: what the machine has."""
    claims: Mapping[str, Path] = {}
    allowed_roots: tuple[Path, ...] = ()
    api_key_file: Path | None = None
    cors_origins: tuple[str, ...] = ()
    access_log: bool = False

    def places(self) -> Places:
        models_dir = self.models_dir.absolute() if self.models_dir else default_models_dir()
        return Places(models_dir=models_dir, claims=self.claims, allowed_roots=self.allowed_roots)


def serve(options: Options) -> int:
    """Run until a signal or `flexinfer down`; the exit code."""
    if not sys.platform.startswith("linux"):
        raise FlexInferError("`flexinfer up` needs Linux: engines are kept and ended by its process features")
    logs.configure()
    _raise_descriptor_limit()
    state = State.locate(options.state_dir)
    given = sys.stdin.buffer.read() if Path("-") in options.files else b""

    def read() -> list[Object]:
        if options.files:
            return manifests.objects(options.files, given)
        return manifests.objects(manifests.kept(state), marked=False)

    named = [file for file in options.files if file != Path("-")]
    folder = None if options.files else state.manifests_dir
    watch = FileWatch(lambda: named if options.files else manifests.kept(state), folder)
    found = read()
    state.prepare()
    with state.locked(), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(Up(options, state, Source(found, read, watch)).run())


def _raise_descriptor_limit() -> None:
    """A stream holds two descriptors; shells hand out 1,024 and allow many more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(hard, DESCRIPTORS) if hard != resource.RLIM_INFINITY else DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class Source(NamedTuple):
    """Where the Models come from."""

    found: list[Object]
    """At the start."""
    read: Read
    watch: FileWatch


class Up:
    def __init__(self, options: Options, state: State, source: Source) -> None:
        self._options = options
        self._state = state
        self._source = source
        self._terminal = Terminal()
        self._clock = SteadyClock()
        self._started_at = self._clock.now()
        self._stop = asyncio.Event()
        self._signals = 0
        self._address = ""

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        store = MemoryStore(self._clock, admit=_admit, shapes={MODELS.kind: _model_shape()})
        files = ManifestFiles(store, self._source.read)
        await files.take(self._source.found)
        keeper = Keeper(self._state.mark)
        async with contextlib.AsyncExitStack() as stack:
            session = await stack.enter_async_context(aiohttp.ClientSession())
            keeping = await stack.enter_async_context(background(keeper.run()))
            machine = Machine(
                keeper=keeper, state=self._state, ports=Ports(), session=session, clock=self._clock, env=os.environ
            )
            cut = await self._serve(store, machine, files)
            keeping.cancel()
        return 1 if cut else 0

    async def _serve(self, store: MemoryStore, machine: Machine, files: ManifestFiles) -> int:
        """Everything but the keeper; the number of requests that were cut at the end."""
        options = self._options
        models = Informer(store, MODELS, codec.from_object, rand=random.Random())
        slices = Informer(store, ENDPOINT_SLICES, decode_slice, rand=random.Random())
        front = self._front(store, models, slices, lambda name: controller.enqueue(key(name)))
        inventory = Inventory(self._clock)
        await asyncio.to_thread(inventory.refresh)
        workloads = LocalWorkloads(
            machine,
            store,
            lambda: msgspec.structs.replace(inventory.facts(), memory_limit_mib=options.memory_mib),
            workloads_options(options, front.usage),
            lambda key: controller.enqueue(key),
        )
        reconciler = ModelReconciler(store, models, workloads, self._clock, lambda key: _traffic(front.live(key.name)))
        controller = Controller("model", reconciler.reconcile, workers=RECONCILE_WORKERS)
        control = Control(
            self._state,
            info=self._info,
            engines=workloads.engines,
            uses=lambda: {model.metadata.name: _use(front.usage(model.metadata.name)) for _, model in models.items()},
            shutdown=self._stop.set,
        )
        api = build_app(store, (MODELS, ENDPOINT_SLICES))
        async with background(models.run()), background(slices.run()), control.serve(api):
            await models.wait_synced()
            await slices.wait_synced()
            async with front.running(), background(controller.run()), background(inventory.run()):
                self._address = await self._listen(front)
                workloads.endpoint = f"{self._address}/v1"
                stored = (models.get(key(obj["metadata"]["name"])) for obj in self._source.found)
                workloads.prefetch(model for model in stored if model is not None)
                reconciler.watch_names(controller.enqueue)
                models.add_handler(controller.on_change)
                async with background(files.run(self._source.watch)):
                    with self._shown(models):
                        await self._stop.wait()
                log.info("ending", drain_delay_s=options.drain_delay_s, grace_s=options.grace_s)
                cut = await front.drain(options.drain_delay_s, options.grace_s)
                controller.stop()
            await workloads.stop()
        await front.stop()
        return cut

    def _front(
        self,
        store: MemoryStore,
        models: Informer[Model],
        slices: Informer[EndpointSlice],
        on_timeout: Callable[[str], None],
    ) -> Front:
        options = self._options
        settings = FrontSettings(
            proxy=options.proxy,
            queue_size=options.queue_size,
            queue_timeout_s=options.queue_timeout_s,
            allowed_cidrs=options.allowed_cidrs,
            api_key_file=str(options.api_key_file.absolute()) if options.api_key_file else "",
            cors_origins=options.cors_origins,
            access_log=options.access_log,
        )
        # A file that cannot be used is told here, not by each worker.
        settings.gate(self._clock.monotonic())
        if options.workers == 1:
            return LocalFront(settings, store, models, slices, self._clock, on_timeout=on_timeout)
        ending = options.drain_delay_s, options.grace_s
        return Pool(
            options.workers, settings, self._state, self._clock,
            ending=ending, quiet=sys.stdout.isatty(), on_timeout=on_timeout,
        )  # fmt: skip

    async def _listen(self, front: Front) -> str:
        """The base address."""
        try:
            port = await front.listen(self._options.host, self._options.port)
        except OSError as error:
            where = f"{self._options.host}:{self._options.port}"
            if error.errno == errno.EADDRINUSE:
                raise FlexInferError(
                    f"{where} is taken by another program: choose another --port, or 0 for a free one"
                ) from error
            raise FlexInferError(f"cannot listen on {where}: {error.strerror or error}") from error
        return f"http://{literal(_reached(self._options.host))}:{port}"

    def _on_signal(self) -> None:
        self._signals += 1
        if self._signals > 1:
            # The keeper kills all engines when this process is gone.
            os._exit(1)
        self._stop.set()

    def _on_hangup(self) -> None:
        if self._terminal.controls:
            # The shell and the kernel both send it, so a second one is not a second Ctrl-C.
            self._terminal.let_go()
            self._stop.set()
        else:
            self._source.watch.look()

    def _info(self) -> Info:
        return Info(
            pid=os.getpid(),
            version=__version__,
            proxy=self._address,
            state_dir=str(self._state.root),
            models_dir=str(self._options.places().models_dir),
            started_at=self._started_at,
        )

    @contextlib.contextmanager
    def _shown(self, models: Informer[Model]) -> Iterator[None]:
        """Say where it serves; on a terminal, show the models while they are served."""
        count = len(self._source.found)
        title = f"serving {count} model{'' if count == 1 else 's'} at {self._address}/v1{elsewhere(self._options.host)}"
        if not count:
            title += "; `flexinfer run` and `flexinfer apply` add some"
        log.info("serving", address=f"{self._address}/v1", host=self._options.host, models=count, pid=os.getpid())
        if not sys.stdout.isatty():
            click.echo(title)
            yield
            return
        console = Console(file=cast(TextIO, logs.Unfailing(sys.stdout)))
        # Log lines go through the console, so that they stand above the table.
        logs.configure(console.file, logs.QUIET)
        with LiveTable(console, lambda: [model for _, model in models.items()], title) as table:
            models.add_handler(table.on_change)
            yield
        click.echo(f"ending: open requests have up to {self._options.grace_s:g} s; Ctrl-C ends at once")


def workloads_options(options: Options, usage: Callable[[str], Usage]) -> WorkloadsOptions:
    return WorkloadsOptions(
        places=options.places(),
        downloads=Settings(limit=options.downloads, token_file=options.hf_token_file),
        allowed_cidrs=options.allowed_cidrs,
        usage=usage,
        grace_s=options.grace_s,
    )


def _use(usage: Usage) -> ModelUse:
    idle_s = usage.idle_s if math.isfinite(usage.idle_s) else None
    return ModelUse(open=usage.open, waiting=usage.waiting, idle_seconds=idle_s)


def _traffic(live: Live | None) -> Traffic | None:
    if live is None:
        return None
    return Traffic(tokens_per_second=live.tokens_per_second, latency_avg_s=live.latency_avg_s)


def _model_shape() -> Shape:
    """Which lists of a Model have keys, for server-side apply."""
    return shapes.from_schema(definitions.root(kinds.MODEL))


def _admit(resource: Resource, obj: Object) -> list[Any]:
    return list(admission.admit_stored(obj)) if resource == MODELS else []


def _reached(host: str) -> str:
    """Where clients of this machine find what listens on `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
