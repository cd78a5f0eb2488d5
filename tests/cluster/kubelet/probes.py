"""Probes and hooks: what one asks, asking it, and what a row of answers means."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import aiohttp

Run = Callable[[Sequence[str]], Awaitable[int]]
"""Runs a command in the container; its exit code."""


class Http(NamedTuple):
    scheme: str
    host: str
    port: int
    path: str
    headers: tuple[tuple[str, str], ...]


class Tcp(NamedTuple):
    host: str
    port: int


class Exec(NamedTuple):
    argv: tuple[str, ...]


class Sleep(NamedTuple):
    seconds: float


Action = Http | Tcp | Exec | Sleep


@dataclass(frozen=True)
class Probe:
    kind: Literal["startup", "readiness", "liveness"]
    action: Action
    delay_s: float
    period_s: float
    timeout_s: float
    successes: int
    failures: int


def probe(kind: Literal["startup", "readiness", "liveness"], container: Mapping[str, Any], pod_ip: str) -> Probe | None:
    given = container.get(f"{kind}Probe")
    if not given:
        return None
    return Probe(
        kind=kind,
        action=action(given, container, pod_ip),
        delay_s=float(given.get("initialDelaySeconds", 0)),
        period_s=float(given.get("periodSeconds", 10)),
        timeout_s=float(given.get("timeoutSeconds", 1)),
        successes=int(given.get("successThreshold", 1)),
        failures=int(given.get("failureThreshold", 3)),
    )


def action(given: Mapping[str, Any], container: Mapping[str, Any], pod_ip: str) -> Action:
    """Of a probe or a hook. Raises ValueError for a port that the container does not name."""
    if "httpGet" in given:
        http = given["httpGet"]
        headers = tuple((one["name"], one["value"]) for one in http.get("httpHeaders") or ())
        path = "/" + str(http.get("path", "/")).lstrip("/")
        return Http(
            str(http.get("scheme", "HTTP")).lower(), http.get("host") or pod_ip, _port(http, container), path, headers
        )
    if "tcpSocket" in given:
        return Tcp(given["tcpSocket"].get("host") or pod_ip, _port(given["tcpSocket"], container))
    if "sleep" in given:
        return Sleep(float(given["sleep"]["seconds"]))
    return Exec(tuple(given["exec"]["command"]))


def _port(given: Mapping[str, Any], container: Mapping[str, Any]) -> int:
    wanted = given["port"]
    if isinstance(wanted, int):
        return wanted
    for port in container.get("ports") or ():
        if port.get("name") == wanted:
            return int(port["containerPort"])
    raise ValueError(f"port {wanted!r}: the container has no port of this name")


class Prober:
    """Asks; one HTTP session for all, without connections that are kept."""

    def __init__(self) -> None:
        # A kubelet trusts any certificate of a container.
        trusting = ssl.create_default_context()
        trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=trusting, force_close=True, limit=0),
            headers={"User-Agent": "kube-probe/1.36"},
        )

    async def close(self) -> None:
        await self._session.close()

    async def ask(self, wanted: Action, timeout_s: float, run: Run) -> str | None:
        """None for a good answer, else why it is none."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._ask(wanted, run)
        except TimeoutError:
            return f"no answer within {timeout_s:g} s"
        except (OSError, aiohttp.ClientError) as error:
            return str(error) or type(error).__name__

    async def _ask(self, wanted: Action, run: Run) -> str | None:
        match wanted:
            case Http(scheme, host, port, path, headers):
                url = f"{scheme}://{host}:{port}{path}"
                async with self._session.get(url, headers=dict(headers), allow_redirects=False) as answer:
                    good = 200 <= answer.status < 400
                    return None if good else f"HTTP probe failed with statuscode: {answer.status}"
            case Tcp(host, port):
                _, writer = await asyncio.open_connection(host, port)
                writer.close()
                return None
            case Exec(argv):
                code = await run(argv)
                return None if code == 0 else f"command ended with exit code {code}"
            case Sleep(seconds):
                await asyncio.sleep(seconds)
                return None


@dataclass(frozen=True)
class Row:
    """Equal answers in a row, and what they made of the probe's verdict (None: none yet)."""

    verdict: bool | None = None
    last: bool | None = None
    count: int = field(default=0)

    def after(self, good: bool, probe: Probe) -> Row:
        count = self.count + 1 if good == self.last else 1
        decided = count >= (probe.successes if good else probe.failures)
        return replace(self, verdict=good if decided else self.verdict, last=good, count=count)
