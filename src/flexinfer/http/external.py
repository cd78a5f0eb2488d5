"""A server that runs elsewhere (`backend: external`): no process or pod of ours, only its health.

The name is resolved on each check and the address judged before it is dialled; the same address goes
into the EndpointSlice, so the proxy never resolves anything.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import aiohttp

from flexinfer import logs
from flexinfer.api.hosts import literal
from flexinfer.backends.base import Device, LaunchPlan, Upstream
from flexinfer.clock import Clock
from flexinfer.lifecycle.observed import Failure
from flexinfer.lifecycle.observed import Replica as Observed

log = logs.get("external")

LOOK_AGAIN_S = 5.0
FIRST_LOOKS_S = 0.25
TIMEOUT_S = 5.0


class ExternalReplica:
    """The same face as a replica that we start. `refused` says why an address may not be dialled, or None."""

    def __init__(
        self,
        model: str,
        upstream: Upstream,
        plan: LaunchPlan,
        *,
        index: int,
        api_key_file: str,
        refused: Callable[[str], str | None],
        session: aiohttp.ClientSession,
        clock: Clock,
        notify: Callable[[], None],
    ) -> None:
        self._model = model
        self.index = index
        self._upstream = upstream
        self._authority = f"{literal(upstream.host)}:{upstream.port}"
        self._tls = ssl.create_default_context() if upstream.scheme == "https" else False
        self._plan = plan
        self._api_key_file = api_key_file
        self._refused = refused
        self._session = session
        self._clock = clock
        self._notify = notify
        self._started_at = clock.now()
        self._ready_at: datetime | None = None
        self._problem = ""
        self.host = ""
        self.port = upstream.port
        self.failure: Failure | None = None
        self.on_cpu = ""
        self.pid: int | None = None
        self.devices: tuple[Device, ...] = ()
        self.log_path = ""
        self.task = asyncio.create_task(self._watch(), name=f"external {model}")

    @property
    def ready(self) -> bool:
        return self._ready_at is not None

    def observed(self) -> Observed:
        return Observed(
            name=f"{self._model}-{self.index}",
            state="ready" if self.ready else "loading",
            started_at=self._started_at,
            substage=self._problem or "CheckingHealth",
            ready_at=self._ready_at,
            address=self._authority,
        )

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    async def _watch(self) -> None:
        while self.failure is None:
            host, problem = await self._look()
            was_ready, before = self.ready, (self.host, self._problem)
            self.host, self._problem = host, problem
            if not problem and not was_ready:
                self._ready_at = self._clock.now()
            elif problem and was_ready:
                # A server that comes back gets as long for it as one that starts.
                self._ready_at, self._started_at = None, self._clock.now()
            if self.ready != was_ready or before != (host, problem):
                log.info("external server", model=self._model, address=host, problem=problem)
                self._notify()
            await asyncio.sleep(LOOK_AGAIN_S if self.ready else FIRST_LOOKS_S)

    async def _look(self) -> tuple[str, str]:
        """The address that was dialled, and what is wrong with it; `failure` is set when no waiting helps."""
        try:
            host = await self._resolve()
        except (OSError, UnicodeError) as error:
            return "", f"cannot resolve {self._upstream.host}: {getattr(error, 'strerror', None) or error}"
        refused = self._refused(host)
        if refused is not None:
            self.failure = Failure(reason="AddressNotAllowed", message=refused, at=self._clock.now())
            return "", refused
        try:
            return host, await self._health(host)
        except (OSError, UnicodeError) as error:
            return host, str(error) or type(error).__name__

    async def _resolve(self) -> str:
        found = await asyncio.get_running_loop().getaddrinfo(
            self._upstream.host, self._upstream.port, type=socket.SOCK_STREAM
        )
        return str(found[0][4][0])

    async def _health(self, host: str) -> str:
        """Empty when it answers 200."""
        url = f"{self._upstream.scheme}://{literal(host)}:{self._upstream.port}{self._plan.health_path}"
        headers = {"Host": self._authority}
        if self._api_key_file:
            key = await asyncio.to_thread(Path(self._api_key_file).read_text, "utf-8")
            headers["Authorization"] = f"Bearer {key.splitlines()[0].strip() if key else ''}"
        try:
            async with self._session.get(
                url,
                headers=headers,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
                ssl=self._tls,
                server_hostname=self._upstream.host if self._upstream.scheme == "https" else None,
            ) as answer:
                return "" if answer.status == 200 else f"{self._plan.health_path} answered {answer.status}"
        except aiohttp.ClientError as error:
            return str(error) or type(error).__name__
        except TimeoutError:
            return f"no answer within {TIMEOUT_S:g} s"
