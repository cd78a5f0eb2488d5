"""The control socket of a running `flexinfer up`: server and client.

A Unix socket (0600) in the state directory. It serves the REST front of the object store at the paths
of a Kubernetes API server, and beside it:

    GET  /flexinfer/v1/info                 Info
    GET  /flexinfer/v1/engines              list of Engine
    GET  /flexinfer/v1/uses                 ModelUse by the name of the Model
    GET  /flexinfer/v1/logs/{model}         the log of the latest start; ?follow=1 goes on over restarts, ?tail=N
    POST /flexinfer/v1/shutdown             asks `up` to stop
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from types import TracebackType
from typing import NoReturn, Self, TypeVar

import aiohttp
import msgspec
from aiohttp import web

from flexinfer.errors import FlexInferError, NotFound, NothingRunning
from flexinfer.kube import config
from flexinfer.kube.client import HttpStore
from flexinfer.local.enginelog import LogReader
from flexinfer.local.state import State

PREFIX = "/flexinfer/v1"
BASE_URL = "http://flexinfer"
"""The host means nothing on a Unix socket."""
FOLLOW_POLL_S = 0.1
STOP_LIMIT_S = 1.0
"""How long open answers (watches, followed logs) may take to end when the socket closes."""
CALL_TIMEOUT_S = 10.0

T = TypeVar("T")


class Info(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What a running `up` says of itself. `proxy` is its base address, empty until it listens."""

    pid: int
    version: str
    proxy: str
    state_dir: str
    models_dir: str
    started_at: datetime


class Engine(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One replica as `ps` and `explain` show it; fields as in `lifecycle.observed.Replica`."""

    model: str
    state: str
    pid: int | None = None
    address: str = ""
    device: str = ""
    placement: str = ""
    """Its devices with product and UUID, and why `auto` chose them."""
    memory_mib: int = 0
    restarts: int = 0
    log: str = ""


class ModelUse(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What clients do with a model just now. `status.lastActiveTime` is written once a minute only."""

    open: int = 0
    waiting: int = 0
    idle_seconds: float | None = None
    """Since the last request ended; None where none has."""


class Control:
    """What the socket answers with. The callables are asked at each call, so they may change their mind."""

    def __init__(
        self,
        state: State,
        *,
        info: Callable[[], Info],
        engines: Callable[[], Sequence[Engine]],
        uses: Callable[[], Mapping[str, ModelUse]],
        shutdown: Callable[[], None],
    ) -> None:
        self._state = state
        self._info = info
        self._engines = engines
        self._uses = uses
        self._shutdown = shutdown
        self._closing = asyncio.Event()

    @asynccontextmanager
    async def serve(self, api: web.Application) -> AsyncIterator[None]:
        """Listen while inside; `api` is the REST front of the store (`kube.apiserver.build_app`)."""
        own = web.Application()
        own.add_routes(
            [
                web.get("/info", self._get_info),
                web.get("/engines", self._get_engines),
                web.get("/uses", self._get_uses),
                web.get("/logs/{model}", self._get_logs),
                web.post("/shutdown", self._post_shutdown),
            ]
        )
        api.add_subapp(PREFIX, own)
        runner = web.AppRunner(api, access_log=None, shutdown_timeout=STOP_LIMIT_S)
        await runner.setup()
        try:
            await web.SockSite(runner, _listen(self._state)).start()
            yield
        finally:
            self._closing.set()
            self._state.socket_path.unlink(missing_ok=True)
            await runner.cleanup()

    async def _get_info(self, _request: web.Request) -> web.Response:
        return _json(self._info())

    async def _get_engines(self, _request: web.Request) -> web.Response:
        return _json(list(self._engines()))

    async def _get_uses(self, _request: web.Request) -> web.Response:
        return _json(self._uses())

    async def _post_shutdown(self, _request: web.Request) -> web.Response:
        self._shutdown()
        return _json({"status": "stopping"}, status=202)

    async def _get_logs(self, request: web.Request) -> web.StreamResponse:
        model, tail = request.match_info["model"], request.query.get("tail", "")
        if not (tail == "" or (tail.isascii() and tail.isdigit())):
            return _json({"message": f"tail: {tail!r}: expected a number of lines"}, status=400)
        follow = request.query.get("follow", "") not in {"", "0", "false"}
        if self._state.current_log(model) is None:
            return _json({"message": f"no engine of {model} has been started yet"}, status=404)
        answer = web.StreamResponse(headers={"Content-Type": "text/plain; charset=utf-8"})
        await answer.prepare(request)
        async for chunk in self._read_log(request, model, int(tail) if tail else LogReader.ALL, follow=follow):
            await answer.write(chunk)
        return answer

    async def _read_log(self, request: web.Request, model: str, lines: int, *, follow: bool) -> AsyncIterator[bytes]:
        path = self._state.current_log(model)
        assert path is not None
        reader = LogReader(path, last_lines=lines)
        while True:
            # Asked before reading: what is written to the old log after the new one exists is read still.
            latest = self._state.current_log(model) if follow else path
            while data := reader.read_bytes():
                yield data
            if latest not in {path, None}:
                assert latest is not None
                path, reader = latest, LogReader(latest)
                continue
            if not follow or self._closing.is_set() or _is_gone(request):
                return
            try:
                await asyncio.wait_for(self._closing.wait(), FOLLOW_POLL_S)
            except TimeoutError:
                pass


def _is_gone(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), status=status, content_type="application/json")


def _listen(state: State) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        state.socket_path.unlink(missing_ok=True)
        listener.bind(str(state.socket_path))
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(before)
    return listener


class ControlClient:
    """Speaks to the `up` of a state directory. Entering and every call raise NothingRunning when nobody answers."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._session: aiohttp.ClientSession | None = None
        self._store: HttpStore | None = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.UnixConnector(str(self._state.socket_path))
        timeout = aiohttp.ClientTimeout(total=CALL_TIMEOUT_S)
        self._session = aiohttp.ClientSession(BASE_URL, connector=connector, timeout=timeout)
        try:
            await self.info()
        except BaseException:
            await self._session.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._session is not None
        await self._session.close()
        if self._store is not None:
            await self._store.close()

    def store(self) -> HttpStore:
        """The object store of `up`; its calls raise OSError when `up` ends meanwhile."""
        if self._store is None:
            self._store = config.unix_socket(self._state.socket_path)
        return self._store

    async def info(self) -> Info:
        return await self._call("GET", "/info", Info)

    async def engines(self) -> list[Engine]:
        return await self._call("GET", "/engines", list[Engine])

    async def uses(self) -> dict[str, ModelUse]:
        return await self._call("GET", "/uses", dict[str, ModelUse])

    async def shutdown(self) -> None:
        """Ask `up` to stop; it has not ended yet when this returns (`State.released` waits for that)."""
        await self._call("POST", "/shutdown", dict[str, str])

    async def logs(self, name: str, *, follow: bool = False, tail: int | None = None) -> AsyncIterator[bytes]:
        """Raises NotFound when the model has no log. Ends when `up` ends."""
        assert self._session is not None
        query = {"follow": "1"} if follow else {}
        if tail is not None:
            query["tail"] = str(tail)
        unlimited = aiohttp.ClientTimeout(total=None, sock_connect=CALL_TIMEOUT_S)
        try:
            async with self._session.get(f"{PREFIX}/logs/{name}", params=query, timeout=unlimited) as answer:
                if answer.status == 404:
                    raise NotFound(msgspec.json.decode(await answer.read(), type=dict[str, str])["message"])
                async for chunk in answer.content.iter_any():
                    yield chunk
        except aiohttp.ClientPayloadError:
            return
        except (aiohttp.ClientError, OSError) as error:
            self._refuse(error)

    async def _call(self, method: str, path: str, type_: type[T]) -> T:
        assert self._session is not None
        try:
            async with self._session.request(method, PREFIX + path) as answer:
                if answer.status == 404:
                    raise self._other_version(path)
                answer.raise_for_status()
                return msgspec.json.decode(await answer.read(), type=type_)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise self._other_version(path) from error
        except (aiohttp.ClientError, OSError) as error:
            self._refuse(error)

    @staticmethod
    def _other_version(path: str) -> FlexInferError:
        return FlexInferError(
            f"the `flexinfer up` that runs does not answer {path} as expected: it is of another version; "
            "`flexinfer down` ends it"
        )

    def _refuse(self, error: Exception) -> NoReturn:
        raise NothingRunning(
            f"no `flexinfer up` answers on {self._state.root}; `flexinfer up FILE` starts one"
        ) from error
