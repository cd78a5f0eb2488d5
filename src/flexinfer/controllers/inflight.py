"""Requests in flight, read from the metrics of the proxies, for Models that the built-in scaler may scale.

Only `serverless.maxReplicas` above 1 turns it on; where no Model has that, no proxy is asked. Each answer has its
time and its size; a proxy that gives none in time counts as unknown.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Final, Protocol

import aiohttp

from flexinfer import logs
from flexinfer.api.hosts import literal
from flexinfer.api.meta import ObjectKey
from flexinfer.api.v1alpha2.model import Model
from flexinfer.clock import Clock
from flexinfer.controllers.wake import Seen
from flexinfer.lifecycle import load
from flexinfer.lifecycle.load import Sample

log = logs.get("controller.inflight")

METRICS_PORT: Final = 8081
"""Of every proxy of an installation."""
TIMEOUT_S: Final = 3.0
MAX_BYTES: Final = 16 * 2**20
AT_ONCE: Final = 8

_SERIES = re.compile(r"^flexinfer_proxy_(?:active_connections|queue_depth)\{([^}]*)\} ([0-9]+)(?:\.0)?$", re.MULTILINE)
_LABEL = re.compile(r'(model|namespace)="([^"]*)"')


class Models(Protocol):
    def items(self) -> list[tuple[ObjectKey, Model]]: ...


class Proxies(Protocol):
    def items(self) -> list[tuple[ObjectKey, Seen]]: ...


class InFlight:
    def __init__(
        self,
        models: Models,
        proxies: Proxies,
        clock: Clock,
        enqueue: Callable[[ObjectKey], None],
        *,
        port: int = METRICS_PORT,
    ) -> None:
        """`proxies` are the slices of their Service; `enqueue` hears of Models for which the answer has changed."""
        self._models = models
        self._proxies = proxies
        self._clock = clock
        self._enqueue = enqueue
        self._port = port
        self._samples: dict[ObjectKey, list[Sample]] = {}
        self._told: dict[ObjectKey, int] = {}
        self._silent: frozenset[str] = frozenset()

    def replicas(self, key: ObjectKey, target: int, running: int) -> int:
        """How many replicas the load asks for; those that run where nothing is known."""
        return load.replicas(self._samples.get(key, ()), target, running, self._clock.monotonic())

    async def run(self) -> None:
        """Until cancelled."""
        async with aiohttp.ClientSession(trust_env=False) as session:
            while True:
                await self.look(session)
                await asyncio.sleep(load.EVERY_S)

    async def look(self, session: aiohttp.ClientSession) -> None:
        scaled = {key: model for key, model in self._models.items() if (model.spec.serverless.max_replicas or 0) > 1}
        self._samples = {key: self._samples.get(key, []) for key in scaled}
        self._told = {key: asked for key, asked in self._told.items() if key in scaled}
        if not scaled:
            return
        answers = await self._ask(session, addresses(self._proxies))
        complete = bool(answers) and None not in answers
        counts: dict[ObjectKey, int] = {}
        for answer in answers:
            for key, count in in_flight(answer or "").items():
                counts[key] = counts.get(key, 0) + count
        now_s = self._clock.monotonic()
        for key, model in scaled.items():
            samples = [*self._samples[key], Sample(now_s, counts.get(key, 0), complete)]
            self._samples[key] = load.kept(samples, now_s)
            asked = self.replicas(key, model.spec.serverless.target_in_flight, model.status.replicas)
            if self._told.get(key) != asked:
                self._told[key] = asked
                self._enqueue(key)

    async def _ask(self, session: aiohttp.ClientSession, addresses: list[str]) -> list[str | None]:
        at_once = asyncio.Semaphore(AT_ONCE)

        async def ask(address: str) -> str | None:
            async with at_once:
                return await fetch(session, address, self._port)

        answers = await asyncio.gather(*map(ask, addresses))
        silent = frozenset(address for address, answer in zip(addresses, answers, strict=True) if answer is None)
        if silent != self._silent:
            log.info("proxies that do not tell their load", addresses=sorted(silent))
            self._silent = silent
        return answers


def in_flight(metrics: str) -> dict[ObjectKey, int]:
    """Requests that are answered or wait, by Model."""
    found: dict[ObjectKey, int] = {}
    for labels, value in _SERIES.findall(metrics):
        key = labelled(labels)
        found[key] = found.get(key, 0) + int(value)
    return found


def labelled(labels: str) -> ObjectKey:
    """The Model that a series with these labels is about."""
    named = dict(_LABEL.findall(labels))
    return ObjectKey(named.get("namespace", ""), named.get("model", ""))


def addresses(proxies: Proxies) -> list[str]:
    """Of the proxies that are ready."""
    return sorted({one for _, seen in proxies.items() if not seen.ours for one in seen.what.addresses})


async def fetch(session: aiohttp.ClientSession, address: str, port: int) -> str | None:
    """What a proxy tells; None where it does not, not in time, or too much."""
    url = f"http://{literal(address)}:{port}/metrics"
    try:
        async with session.get(url, timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)) as answer:
            if answer.status != 200:
                return None
            body = bytearray()
            async for chunk in answer.content.iter_any():
                body += chunk
                if len(body) > MAX_BYTES:
                    return None
            return body.decode("utf-8", "replace")
    except (aiohttp.ClientError, TimeoutError, OSError):
        return None
