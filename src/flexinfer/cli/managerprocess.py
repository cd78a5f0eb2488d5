"""A running `flexinfer manager`: informers, an election, and the controllers of REGISTRY while it leads.

Caches are kept warm by those that wait for the lead too, so that a manager that is gone is soon replaced.
It is ready once it has seen everything there is, and as long as it lacks no right.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import socket
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import uvloop

from flexinfer import logs
from flexinfer.api import codec
from flexinfer.api.meta import ObjectKey
from flexinfer.api.wellknown import LABEL_SERVICE_NAME
from flexinfer.cli.front import background
from flexinfer.clock import Clock, SystemClock
from flexinfer.controllers import wake
from flexinfer.controllers.clusterview import OURS, ClusterView
from flexinfer.controllers.external import ExternalWorkloads
from flexinfer.controllers.firstkey import FirstKey
from flexinfer.controllers.inflight import InFlight
from flexinfer.controllers.loadlogs import LoadLogs, Read, Stage, loading_in
from flexinfer.controllers.model import ModelReconciler, described
from flexinfer.controllers.modeldeployment import ModelDeploymentReconciler
from flexinfer.controllers.places import Places
from flexinfer.controllers.traffic import ProxyTraffic
from flexinfer.controllers.wake import WakeReconciler
from flexinfer.controllers.workloads import KubeWorkloads
from flexinfer.errors import Conflict, FlexInferError, LeaseLost, NotLeading
from flexinfer.http import health
from flexinfer.http.health import Bind
from flexinfer.kube import config
from flexinfer.kube.access import Access
from flexinfer.kube.controller import Controller, OnResult, Reconcile
from flexinfer.kube.denied import Denials
from flexinfer.kube.election import Election
from flexinfer.kube.events import EventRecorder
from flexinfer.kube.fence import Fenced
from flexinfer.kube.informer import Informer
from flexinfer.kube.scoped import ScopedInformer
from flexinfer.kube.store import ENDPOINT_SLICES, MODEL_DEPLOYMENTS, Object, ObjectStore, Selection
from flexinfer.local.progress import Load, read_lines
from flexinfer.metrics.controller import ControllerMetrics
from flexinfer.metrics.model import ModelMetrics
from flexinfer.metrics.process import ProcessMetrics
from flexinfer.metrics.registry import Registry
from flexinfer.metrics.rights import RightsMetrics
from flexinfer.resources.installation import Installation

log = logs.get("manager")

LEASE = "flexinfer-manager"
CONTROLLER = "flexinfer.ai/manager"
"""Who Events say that they are from."""


class ManagerOptions(msgspec.Struct, frozen=True, kw_only=True):
    controllers: tuple[str, ...]
    installation: Installation
    leader_elect: bool = True
    identity: str = ""
    """Of this process; empty: its host."""
    metrics: Bind | None = None
    health: Bind | None = None
    environment: Mapping[str, str] = {}


class Surroundings(NamedTuple):
    """What a controller is built from."""

    store: ObjectStore
    """Its writes pass only while this process leads."""
    view: ClusterView
    installation: Installation
    environment: Mapping[str, str]
    clock: Clock
    events: EventRecorder
    read_log: Read | None = None
    """Reads what a container has written; None: it cannot be read."""


class Part(NamedTuple):
    """One controller before it runs."""

    reconcile: Reconcile
    watch: Callable[[Callable[[ObjectKey], None]], None]
    """Has keys enqueued for what happens from now on, and for everything there is."""
    informers: tuple[Informer[Any] | ScopedInformer[Any], ...] = ()
    """Those that it has beside the view's."""
    workers: int = 4
    background: Callable[[], Coroutine[Any, Any, None]] | None = None
    """What runs beside the reconciles, until it is cancelled."""
    about: Callable[[ObjectKey], Object | None] = lambda _key: None
    """The object that Events are about, by its key."""


Build = Callable[[Surroundings], Part]


def _model(around: Surroundings) -> Part:
    loop = asyncio.get_running_loop()
    adds: list[Callable[[ObjectKey], None]] = []

    def look_later(key: ObjectKey, after_s: float) -> None:
        for add in adds:
            loop.call_later(after_s, add, key)

    def enqueue(key: ObjectKey) -> None:
        for add in adds:
            add(key)

    proxies = _proxies(around)
    load = InFlight(around.view.models, proxies, around.clock, enqueue)
    pods = KubeWorkloads(around.store, around.view, around.installation, around.clock, look_later, load)
    if around.read_log is not None:
        pods.load_logs = LoadLogs(
            around.read_log, _stage_of, lambda: loading_in(around.view, around.clock), around.clock, enqueue
        )
    elsewhere = ExternalWorkloads(around.store, around.view, around.installation, around.clock, enqueue)
    places = Places(pods, elsewhere)
    traffic = ProxyTraffic(around.view.models, proxies)
    reconciler = ModelReconciler(
        around.store, around.view.models, places, around.clock, traffic.of, events=around.events
    )

    def watch(add: Callable[[ObjectKey], None]) -> None:
        adds.append(add)
        reconciler.watch_names(add)
        around.view.tell(add)

    async def beside() -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(load.run())
                group.create_task(traffic.run())
                if pods.load_logs is not None:
                    group.create_task(pods.load_logs.run())
        finally:
            await elsewhere.stop()

    def about(key: ObjectKey) -> Object | None:
        model = around.view.models.get(key)
        return described(model) if model is not None else None

    return Part(reconciler.reconcile, watch, (proxies,), workers=8, background=beside, about=about)


def _stage_of(lines: Sequence[str]) -> Stage:
    load = read_lines(Load(), lines)
    return Stage(load.substage, load.progress)


def _model_deployment(around: Surroundings) -> Part:
    namespaces = around.installation.watch_namespaces
    deployments = ScopedInformer(around.store, MODEL_DEPLOYMENTS, codec.deployment_from_object, namespaces)
    image = around.environment.get("DEFAULT_BACKEND_IMAGE", "")
    reconciler = ModelDeploymentReconciler(around.store, deployments, around.view.models, around.clock, image)

    def watch(add: Callable[[ObjectKey], None]) -> None:
        deployments.add_handler(lambda key, _old, _new: add(key))
        reconciler.watch_models(add)

    return Part(reconciler.reconcile, watch, (deployments,))


def _first_key(around: Surroundings) -> Part:
    reconciler = FirstKey(around.store)
    name = around.environment.get("FLEXINFER_API_KEYS_SECRET", "")

    def watch(add: Callable[[ObjectKey], None]) -> None:
        if name:
            add(ObjectKey(around.installation.namespace, name))

    return Part(reconciler.reconcile, watch, workers=1)


def _proxies(around: Surroundings) -> Informer[wake.Seen]:
    """The slices of the proxies' Service."""
    service = {LABEL_SERVICE_NAME: around.installation.proxy_service}
    return Informer(around.store, ENDPOINT_SLICES, wake.decode, Selection(around.installation.namespace, service))


def _wake(around: Surroundings) -> Part:
    installation = around.installation
    slices = ScopedInformer(around.store, ENDPOINT_SLICES, wake.decode, installation.watch_namespaces, OURS)
    proxies = _proxies(around)
    reachable = installation.model_access != "proxies"
    reconciler = WakeReconciler(around.store, around.view.models, slices, proxies, reachable=reachable)
    return Part(reconciler.reconcile, reconciler.watch, (slices, proxies))


REGISTRY: tuple[tuple[str, Build], ...] = (
    ("model", _model),
    ("wake", _wake),
    ("modeldeployment", _model_deployment),
    ("first-key", _first_key),
)
"""Every controller of the manager, by the name that `--controllers` takes."""


def serve(options: ManagerOptions, access: Access) -> int:
    """Run until SIGTERM or SIGINT."""
    logs.configure()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(options, access))


async def _serve(options: ManagerOptions, access: Access) -> int:
    ending = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ending.set)
    async with config.connect(access) as store:
        read_log: Read = lambda key, container, lines: store.pod_log(key, container, lines=lines)  # noqa: E731
        await Manager(options, store, read_log).run(ending)
    return 0


class _Leads:
    """The lead of a manager that is the only one."""

    def __init__(self) -> None:
        self.under_way: set[asyncio.Future[Any]] = set()

    def left_s(self) -> float:
        return float("inf")


class Manager:
    def __init__(self, options: ManagerOptions, store: ObjectStore, read_log: Read | None = None) -> None:
        self._options = options
        self._clock = SystemClock()
        self._store = Denials(store, self._clock)
        host = options.identity or socket.gethostname()
        # A pod that is started again has the same name and is another process.
        identity = f"{host}_{secrets.token_hex(4)}"
        self._lease = ObjectKey(options.installation.namespace, LEASE)
        self._election = Election(self._store, self._lease, identity) if options.leader_elect else None
        self._lead: Election | _Leads = self._election or _Leads()
        fenced = Fenced(self._store, self._lead) if self._election is not None else self._store
        self._view = ClusterView(
            self._store, options.installation.watch_namespaces, policies=bool(options.installation.model_access)
        )
        self._events = EventRecorder(fenced, CONTROLLER, host)
        around = Surroundings(
            store=fenced,
            view=self._view,
            installation=options.installation,
            environment=options.environment,
            clock=self._clock,
            events=self._events,
            read_log=read_log,
        )
        parts = {name: build(around) for name, build in REGISTRY if name in options.controllers}
        self._depths: dict[str, Callable[[], int]] = {name: lambda: 0 for name in parts}
        self._metrics = ControllerMetrics(self._depths, lambda: self._lead.left_s() > 0)
        self._parts = parts
        self._controllers = {
            name: Controller(name, part.reconcile, part.workers, on_result=self._observer(name, part))
            for name, part in parts.items()
        }
        self._depths.update({name: _depth(one) for name, one in self._controllers.items()})
        self._not_ready = "the objects of the cluster have not been listed yet"

    def _observer(self, name: str, part: Part) -> OnResult:
        """What is measured of a reconcile; one that fails is told at its object too."""
        measure = self._metrics.observer(name)

        def observe(key: ObjectKey, seconds: float, error: Exception | None) -> None:
            measure(key, seconds, error)
            quiet = error is None or isinstance(error, Conflict | NotLeading)
            if not quiet and (about := part.about(key)) is not None:
                note = f"tried again with growing pauses: {error!r}"
                self._events.record(about, "ReconcileFailed", note, warning=True)

        return observe

    async def run(self, ending: asyncio.Event) -> None:
        """Raises FlexInferError where an address cannot be listened on."""
        registry = Registry(
            ModelMetrics(lambda: [model for _, model in self._view.models.items()]),
            self._metrics,
            ProcessMetrics("manager"),
            RightsMetrics(self._store.rights),
        )
        async with contextlib.AsyncExitStack() as stack:
            await _listen(stack, health.health_app(self._why_not_ready), self._options.health)
            await _listen(stack, health.metrics_app(registry.render), self._options.metrics)
            informers = [*self._view.informers, *(one for part in self._parts.values() for one in part.informers)]
            for informer in informers:
                await stack.enter_async_context(background(informer.run()))
            working = await stack.enter_async_context(background(self._work(informers)))
            await ending.wait()
            log.info("ending")
            self._not_ready = "it is ending"
            working.cancel()

    def _why_not_ready(self) -> str:
        missing = self._store.missing()
        return missing[0].said if missing else self._not_ready

    async def _work(self, informers: Sequence[Informer[Any] | ScopedInformer[Any]]) -> None:
        for informer in informers:
            await informer.wait_synced()
        self._not_ready = ""
        for name, part in self._parts.items():
            part.watch(self._controllers[name].enqueue)
        log.info("synced", controllers=list(self._parts), pid=os.getpid())
        while True:
            if self._election is None:
                await self._control()
                return
            with contextlib.suppress(LeaseLost):
                await self._election.run(self._control)

    async def _control(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._events.run())
            for controller in self._controllers.values():
                group.create_task(controller.run())
            for part in self._parts.values():
                if part.background is not None:
                    group.create_task(part.background())


def _depth(controller: Controller) -> Callable[[], int]:
    return lambda: controller.depth


async def _listen(stack: contextlib.AsyncExitStack, app: Any, bind: Bind | None) -> None:
    if bind is None:
        return
    try:
        where = await stack.enter_async_context(health.serving(app, bind))
    except OSError as error:
        raise FlexInferError(f"cannot listen on {bind}: {error.strerror or error}") from error
    log.info("listening", address=str(where), paths=sorted({route.resource.canonical for route in app.router.routes()}))
