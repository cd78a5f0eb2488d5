"""What clients get from the Models of a cluster, read from the metrics of the proxies for `status.metrics`.

Proxies are asked while a Model is Ready, and not otherwise: what sleeps has no traffic.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

import aiohttp

from flexinfer.api.meta import ObjectKey
from flexinfer.controllers.inflight import METRICS_PORT, Models, Proxies, addresses, fetch, labelled
from flexinfer.lifecycle.observed import Traffic

EVERY_S: Final = 15.0

_TOKENS, _SECONDS, _COUNT = (
    "flexinfer_tokens_per_second",
    "flexinfer_proxy_request_duration_seconds_sum",
    "flexinfer_proxy_request_duration_seconds_count",
)
_SERIES = re.compile(rf"^({_TOKENS}|{_SECONDS}|{_COUNT})\{{([^}}]*)\}} (\d+(?:\.\d+)?(?:e[+-]?\d+)?)$", re.MULTILINE)


class Told(NamedTuple):
    """What one proxy tells of a Model."""

    tokens_per_second: float = 0.0
    seconds: float = 0.0
    """Of all its requests together, since it started."""
    requests: float = 0.0


class ProxyTraffic:
    def __init__(self, models: Models, proxies: Proxies, *, port: int = METRICS_PORT) -> None:
        """`proxies` are the slices of their Service."""
        self._models = models
        self._proxies = proxies
        self._port = port
        self._told: dict[str, dict[ObjectKey, Told]] = {}
        """By the proxy's address."""
        self._traffic: dict[ObjectKey, Traffic] = {}

    def of(self, key: ObjectKey) -> Traffic | None:
        """None where no request was answered between the last two looks."""
        return self._traffic.get(key)

    async def run(self) -> None:
        """Until cancelled."""
        async with aiohttp.ClientSession(trust_env=False) as session:
            while True:
                await self.look(session)
                await asyncio.sleep(EVERY_S)

    async def look(self, session: aiohttp.ClientSession) -> None:
        self._traffic = {}
        if not any(model.status.phase == "Ready" for _, model in self._models.items()):
            return
        before, self._told = self._told, {}
        for address in addresses(self._proxies):
            answer = await fetch(session, address, self._port)
            # One that is silent for once is compared with what it told last.
            self._told[address] = told(answer) if answer is not None else before.get(address, {})
        self._traffic = traffic(before, self._told)


def told(metrics: str) -> dict[ObjectKey, Told]:
    found: dict[ObjectKey, dict[str, float]] = {}
    for name, labels, value in _SERIES.findall(metrics):
        series = found.setdefault(labelled(labels), {})
        # A Model has a series for each node that its replicas are on.
        series[name] = series.get(name, 0.0) + float(value)
    return {
        key: Told(series.get(_TOKENS, 0.0), series.get(_SECONDS, 0.0), series.get(_COUNT, 0.0))
        for key, series in found.items()
    }


def traffic(
    before: Mapping[str, Mapping[ObjectKey, Told]], now: Mapping[str, Mapping[ObjectKey, Told]]
) -> dict[ObjectKey, Traffic]:
    """Of all proxies together, from the requests that ended between two looks at each."""
    rows: dict[ObjectKey, list[tuple[Told, Told]]] = {}
    for address, models in now.items():
        for key, one in models.items():
            earlier = before.get(address, {}).get(key, Told())
            # One that was started anew counts from nothing.
            rows.setdefault(key, []).append((Told() if one.requests < earlier.requests else earlier, one))
    found = {key: _summed(pairs) for key, pairs in rows.items()}
    return {key: one for key, one in found.items() if one is not None}


def _summed(pairs: Iterable[tuple[Told, Told]]) -> Traffic | None:
    pairs = list(pairs)
    requests = sum(now.requests - earlier.requests for earlier, now in pairs)
    if not requests:
        return None
    seconds = sum(now.seconds - earlier.seconds for earlier, now in pairs)
    return Traffic(tokens_per_second=sum(now.tokens_per_second for _, now in pairs), latency_avg_s=seconds / requests)
