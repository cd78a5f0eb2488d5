"""One worker of `up --workers N`: informers by the control socket, an activator, a server on the shared port.

It tells `up` at once when a model gets its first request, and within REPORT_S when that has changed;
an idle worker says nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import random
import signal
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import uvloop

from flexinfer import backends, logs
from flexinfer.api import codec
from flexinfer.api.v1alpha2.model import Model
from flexinfer.backends.base import Serving
from flexinfer.cli.front import LocalFront, background, share
from flexinfer.cli.session import key
from flexinfer.cli.workers import Drain, Ended, Report, Serves, Use, WorkerSettings, bind_shared, series_dir
from flexinfer.clock import Clock, SteadyClock
from flexinfer.kube import config
from flexinfer.kube.informer import Informer
from flexinfer.kube.store import ENDPOINT_SLICES, MODELS
from flexinfer.lifecycle.observed import Usage
from flexinfer.local.state import State
from flexinfer.metrics.shared import SharedSeries
from flexinfer.proxy.activator import Activator, QueueTicket
from flexinfer.proxy.admission import ListedModel, Waiter
from flexinfer.proxy.app import Server
from flexinfer.proxy.endpoints import decode_slice
from flexinfer.proxy.listener import raise_limit
from flexinfer.proxy.targets import ModelTarget

log = logs.get("worker")

REPORT_S = 0.05
"""While a request is open. Far below the time that a model's endpoints are withdrawn before it stops."""
SERIES_S = 1.0
HANDOVER_S = 1.0

Say = Callable[[Serves | Report | Ended], None]


def serve() -> int:
    """Run until told to end; 0 unless a request was cut or `up` has gone."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve())


async def _serve() -> int:
    orders = await _reader(0)
    line = await orders.readline()
    if not line:
        return 1
    settings = msgspec.json.decode(line, type=WorkerSettings)
    if settings.quiet:
        logs.configure(level=logs.QUIET)
    else:
        logs.configure()
    worker = Worker(settings, await _writer(1))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.leave)
    work = asyncio.create_task(worker.run())
    reading = asyncio.create_task(_read(orders, worker.end))
    await asyncio.wait({work, reading}, return_when=asyncio.FIRST_COMPLETED)
    if not work.done():
        # `up` is gone, and the engines with it.
        work.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await work
        return 1
    reading.cancel()
    return 1 if work.result() else 0


async def _read(orders: asyncio.StreamReader, end: Callable[[], None]) -> None:
    """Until the input ends."""
    while line := await orders.readline():
        msgspec.json.decode(line, type=Drain)
        end()


class Worker:
    def __init__(self, settings: WorkerSettings, say: Say) -> None:
        self._settings = settings
        self._say = say
        self._clock = SteadyClock(settings.booted_at)
        self._going = asyncio.Event()
        self._ending = asyncio.Event()

    def leave(self) -> None:
        """End for itself: the others go on, and nobody is to notice."""
        self._going.set()

    def end(self) -> None:
        """End together with `up`."""
        self._ending.set()
        self._going.set()

    async def run(self) -> int:
        """How many requests were cut."""
        settings, state = self._settings, State(self._settings.state_dir)
        async with config.unix_socket(state.socket_path) as store:
            models = Informer(store, MODELS, codec.from_object, rand=random.Random())
            slices = Informer(store, ENDPOINT_SLICES, decode_slice, rand=random.Random())
            front = LocalFront(settings.front, store, models, slices, self._clock, serving_of=self._serving)
            exists = _exists(models)
            series = SharedSeries(series_dir(state), str(settings.index), front.metrics, exists)
            told = Told(front, series, self._say, self._clock)
            server = front.serve(told, series)
            try:
                async with background(models.run()), background(slices.run()):
                    await models.wait_synced()
                    await slices.wait_synced()
                    async with front.running():
                        raise_limit()
                        await server.start(sock=bind_shared(settings.host, settings.port))
                        self._say(Serves())
                        await self._going.wait()
                        delay_s = settings.drain_delay_s
                        if not self._ending.is_set():
                            await self._hand_over(server)
                            delay_s = 0.0
                        cut = await front.drain(delay_s, settings.grace_s)
            finally:
                await front.stop()
            self._say(Ended(cut))
            await asyncio.sleep(0)
            return cut

    async def _hand_over(self, server: Server) -> None:
        """New connections go to the others; those that were taken are served a while longer, not refused."""
        log.info("leaving", index=self._settings.index)
        server.stop_listening()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ending.wait(), HANDOVER_S)

    def _serving(self, model: Model) -> Serving:
        """With this worker's share of the engine's slots."""
        serving = backends.serving(model)
        slots = share(serving.slots, self._settings.index, self._settings.count)
        return msgspec.structs.replace(serving, slots=slots)


def _exists(models: Informer[Model]) -> Callable[[str], bool]:
    return lambda name: models.get(key(name)) is not None


class Told:
    """An Admission whose use is told to `up`."""

    def __init__(self, front: LocalFront, series: SharedSeries, say: Say, clock: Clock) -> None:
        self._front = front
        self._activator: Activator = front.activator
        self._series = series
        self._say = say
        self._clock = clock
        self._said = Report({}, {})
        self._busy: set[str] = set()
        self._timer: asyncio.Handle | None = None
        self._series_at = -math.inf

    def resolve(self, name: str) -> ModelTarget:
        return self._activator.resolve(name)

    def admit(self, target: Any, waiter: Waiter) -> QueueTicket:
        ticket = self._activator.admit(target, waiter)
        if target.name not in self._busy:
            self._busy.add(target.name)
            if self._timer is not None:
                self._timer.cancel()
            self._timer = asyncio.get_running_loop().call_soon(self._tell)
        return ticket

    def models(self) -> Sequence[ListedModel]:
        return self._activator.models()

    def listed(self, name: str) -> ListedModel:
        return self._activator.listed(name)

    def draining(self) -> bool:
        return self._activator.draining()

    def _tell(self) -> None:
        """Again soon while anything is open, and each second while there is a rate to be told."""
        now, loop = self._clock.monotonic(), asyncio.get_running_loop()
        usages = self._activator.usages()
        self._busy = {name for name, usage in usages.items() if usage.busy}
        lives, due = self._said.lives, now - self._series_at >= SERIES_S
        if due:
            lives = {name: live for name in usages if (live := self._front.live(name)) is not None}
            self._publish(now)
        report = Report(_uses(usages, now), lives)
        if due or not _same(report.uses, self._said.uses):
            self._said = report
            self._say(report)
        # Once more when nothing is open: what has been counted since is yet to be published.
        again_s = REPORT_S if self._busy else SERIES_S if lives or not due else None
        self._timer = None if again_s is None else loop.call_later(again_s, self._tell)

    def _publish(self, now: float) -> None:
        self._series_at = now
        try:
            self._series.publish()
        except OSError as error:
            log.warning("metrics not shared", error=error.strerror or str(error))


def _uses(usages: dict[str, Usage], now: float) -> dict[str, Use]:
    return {
        name: Use(
            usage.open,
            usage.waiting,
            now - usage.idle_s if math.isfinite(usage.idle_s) else None,
            dict(usage.silences),
        )
        for name, usage in usages.items()
        if usage.busy or math.isfinite(usage.idle_s)
    }


def _same(uses: dict[str, Use], said: dict[str, Use]) -> bool:
    """Whether as many requests run and wait and timed out; when the last one ended is told with the next change."""
    return {name: (use.open, use.waiting, use.timeouts) for name, use in uses.items()} == {
        name: (use.open, use.waiting, use.timeouts) for name, use in said.items()
    }


async def _reader(descriptor: int) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb", 0))
    return reader


async def _writer(descriptor: int) -> Say:
    """What is said goes to `up`; whatever else would print goes to the log."""
    pipe = os.fdopen(os.dup(descriptor), "wb", 0)
    os.dup2(2, descriptor)
    transport, _ = await asyncio.get_running_loop().connect_write_pipe(asyncio.BaseProtocol, pipe)

    def say(what: Serves | Report | Ended) -> None:
        transport.write(msgspec.json.encode(what) + b"\n")

    return say
