"""Requests to one API server: whom they show, how long they may take, and what is waited out.

An answer that says when to come back (429, 503) is waited out as told, with some jitter; a 401 is asked again
once when there is something newer to show. Every other failure is the caller's, who knows what a lost
answer means.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Final, NamedTuple

import aiohttp
import msgspec
from yarl import URL

from flexinfer import __version__
from flexinfer.kube import status
from flexinfer.kube.access import User
from flexinfer.kube.credentials import Credentials, Fixed, Grant
from flexinfer.kube.store import Object
from flexinfer.kube.tls import Contexts

_TRIES: Final = 5
_LONGEST_WAIT_S: Final = 30.0
_LONGEST_LINE: Final = 64 * 1024 * 1024
# Answers are not compressed: in a cluster that costs both sides more than it saves.
_HEADERS: Final = (
    ("Accept", "application/json"),
    ("Accept-Encoding", "identity"),
    ("User-Agent", f"flexinfer/{__version__}"),
)
_COME_BACK: Final = frozenset({429, 503})


class Call(NamedTuple):
    method: str
    path: str
    params: dict[str, str] = {}
    body: Any = None
    content_type: str = "application/json"
    waits: bool = True
    """Whether an answer that says when to come back is waited out."""


class Target(NamedTuple):
    """Where requests go, and how."""

    base_url: str
    contexts: Contexts | None = None
    """None where the server speaks plain HTTP."""
    server_name: str | None = None
    proxy: URL | None = None


class Connection:
    def __init__(
        self,
        session: aiohttp.ClientSession,
        target: Target,
        credentials: Credentials | None = None,
        *,
        timeout_s: float = 30.0,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Owns `session` and `credentials`."""
        self._session = session
        self._target = target
        self._credentials = credentials or Fixed(User())
        self._timeout_s = timeout_s
        self._sleep = sleep
        self._rand = random.Random()

    async def close(self) -> None:
        await self._credentials.close()
        await self._session.close()

    async def call(self, call: Call) -> Object:
        """Raises StoreError for a refusal, OSError where no whole answer came."""
        timeout = aiohttp.ClientTimeout(total=self._timeout_s)
        async with self._answer(call, timeout) as response:
            found = _decoded(await response.read())
        if not isinstance(found, dict):
            raise ConnectionError(f"{call.method} {call.path}: the answer is not a JSON object")
        return found

    async def text(self, call: Call) -> str:
        """An answer that is no object, bytes that are no UTF-8 replaced. Raises as `call`."""
        async with self._answer(call, aiohttp.ClientTimeout(total=self._timeout_s)) as response:
            return (await response.read()).decode("utf-8", "replace")

    async def lines(self, call: Call, *, limit_s: float) -> AsyncGenerator[list[bytes], None]:
        """The lines of an answer that goes on, as they come, for at most `limit_s`. Raises as `call`."""
        timeout = aiohttp.ClientTimeout(total=limit_s, sock_connect=self._timeout_s)
        async with self._answer(call, timeout) as response:
            pending = bytearray()
            async for chunk in response.content.iter_any():
                pending += chunk
                if b"\n" in chunk:
                    *lines, rest = bytes(pending).split(b"\n")
                    pending = bytearray(rest)
                    yield [line for line in lines if line.strip()]
                if len(pending) > _LONGEST_LINE:
                    raise ConnectionError(f"{call.method} {call.path}: a line of more than {_LONGEST_LINE} bytes")

    @contextlib.asynccontextmanager
    async def _answer(self, call: Call, timeout: aiohttp.ClientTimeout) -> AsyncGenerator[aiohttp.ClientResponse, None]:
        """A good answer; the others are waited out or raised."""
        try:
            response = await self._ask(call, timeout)
            async with response:
                yield response
        except aiohttp.ClientError as error:
            # Without the cause: what aiohttp knows of a request includes its headers.
            raise ConnectionError(f"{call.method} {call.path}: {_why(error)}") from None

    async def _ask(self, call: Call, timeout: aiohttp.ClientTimeout) -> aiohttp.ClientResponse:
        renewed = False
        tries = 0
        while True:
            grant = await self._credentials.grant()
            response = await self._send(call, timeout, grant)
            if response.status in {200, 201, 202}:
                return response
            async with response:
                error = status.to_error(response.status, _decoded(_hidden(await response.read(), grant)))
            tries += 1
            if response.status == 401 and not renewed:
                renewed = True
                if await self._credentials.refused(grant):
                    continue
            wait_s = _retry_after_s(response)
            if response.status not in _COME_BACK or wait_s is None or not call.waits or tries >= _TRIES:
                raise error
            # Clients that were sent away together do not come back together.
            await self._sleep(wait_s * (1 + 0.1 * self._rand.random()))

    async def _send(self, call: Call, timeout: aiohttp.ClientTimeout, grant: Grant) -> aiohttp.ClientResponse:
        target = self._target
        headers = [*_HEADERS, *grant.headers]
        data = None
        if call.body is not None:
            headers.append(("Content-Type", call.content_type))
            # A file-like body is written in pieces: a large one does not hold up the event loop.
            data = io.BytesIO(msgspec.json.encode(call.body))
        return await self._session.request(
            call.method,
            URL(target.base_url + call.path, encoded=True).with_query(call.params),
            data=data,
            headers=headers,
            timeout=timeout,
            allow_redirects=False,
            ssl=target.contexts.get(grant.identity) if target.contexts else True,
            server_hostname=target.server_name,
            proxy=target.proxy,
        )


def _why(error: aiohttp.ClientError) -> str:
    if isinstance(error, aiohttp.ClientResponseError):
        # Its own text has the URL of the proxy, which may hold a password.
        return f"the proxy answered {error.status} {error.message}"
    return str(error) or type(error).__name__


def _decoded(data: bytes) -> Any:
    """The JSON value, or the text where it is none (an error page of something in between)."""
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return data.decode(errors="replace")


def _hidden(data: bytes, grant: Grant) -> bytes:
    """An error page may show the request it is about."""
    for name, value in grant.headers:
        if name == "Authorization":
            data = data.replace(value.removeprefix("Bearer ").encode(), b"***")
    return data


def _retry_after_s(response: aiohttp.ClientResponse) -> float | None:
    given = response.headers.get("Retry-After", "")
    return min(float(given), _LONGEST_WAIT_S) if given.isascii() and given.isdigit() else None
