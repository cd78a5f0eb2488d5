"""Servers that run elsewhere, as real servers on this machine: reached, refused, asked with a key, lost, back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from tests.manual_clock import ManualClock

from flexinfer.backends import external
from flexinfer.backends.base import LaunchPlan, Upstream
from flexinfer.http import external as servers
from flexinfer.http.external import ExternalReplica

KEY = "s3cret"


class Server:
    def __init__(self) -> None:
        self.status = 200
        self.key = ""
        self.calls: list[tuple[str, str]] = []
        self.port = 0

    async def answer(self, request: web.Request) -> web.Response:
        self.calls.append((request.path, request.headers["Host"]))
        if self.key and request.headers.get("Authorization") != f"Bearer {self.key}":
            return web.Response(status=401)
        return web.Response(status=self.status, headers={"Location": "/elsewhere"})


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.port = runner.addresses[0][1]
    yield server
    await runner.cleanup()


class KeyFile:
    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __call__(self, content: bytes) -> None:
        Path(self.path).write_bytes(content)


@pytest.fixture
def key_file(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "key")


class Watched:
    def __init__(self, replica: ExternalReplica, told: list[int]) -> None:
        self.replica = replica
        self.told = told

    async def until(self, condition: Callable[[ExternalReplica], bool]) -> ExternalReplica:
        async with asyncio.timeout(5):
            while not condition(self.replica):
                await asyncio.sleep(0.005)
        return self.replica

    async def problem(self) -> str:
        """What is wrong, once that is known."""
        replica = await self.until(lambda one: one.observed().substage != "CheckingHealth")
        assert not replica.ready
        return replica.observed().substage


@pytest.fixture
async def watch(clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[..., Watched]]:
    monkeypatch.setattr(servers, "LOOK_AGAIN_S", 0.01)
    monkeypatch.setattr(servers, "FIRST_LOOKS_S", 0.01)
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())

        def watch(port: int, host: str = "127.0.0.1", key_file: str = "", path: str = "/v1/models") -> Watched:
            told: list[int] = []
            replica = ExternalReplica(
                "m",
                Upstream("http", host, port),
                LaunchPlan(program="", args=(), port=port, health_path=path, slots=1),
                index=0,
                api_key_file=key_file,
                refused=external.allowed,
                session=session,
                clock=clock,
                notify=lambda: told.append(1),
            )
            stack.push_async_callback(replica.stop)
            return Watched(replica, told)

        yield watch


async def test_a_server_that_answers_is_ready(watch, server, clock):
    clock.advance(3.0)
    replica = await watch(server.port).until(lambda one: one.ready)
    assert (replica.host, replica.port) == ("127.0.0.1", server.port)
    seen = replica.observed()
    assert (seen.name, seen.state, seen.ready_at, seen.address) == (
        "m-0",
        "ready",
        clock.now(),
        f"127.0.0.1:{server.port}",
    )
    assert server.calls[0] == ("/v1/models", f"127.0.0.1:{server.port}")


async def test_a_name_is_resolved_and_kept_as_the_host_of_the_call(watch, server):
    replica = await watch(server.port, host="localhost").until(lambda one: one.host == "127.0.0.1")
    await watch(server.port, host="localhost").until(lambda one: one.ready)
    assert replica.observed().address == f"localhost:{server.port}"
    assert {host for _, host in server.calls} == {f"localhost:{server.port}"}


async def test_another_path_can_say_that_it_is_ready(watch, server):
    await watch(server.port, path="/healthz").until(lambda one: one.ready)
    assert server.calls[0][0] == "/healthz"


async def test_an_ipv6_address_is_written_with_brackets(watch, unused_tcp_port):
    watched = watch(unused_tcp_port, host="::1")
    assert watched.replica.observed().address == f"[::1]:{unused_tcp_port}"


async def test_a_server_that_wants_a_key_is_given_it(watch, server, key_file):
    server.key = KEY
    assert await watch(server.port).problem() == "/v1/models answered 401"
    key_file(f"{KEY}\nand a remark\n".encode())
    await watch(server.port, key_file=key_file.path).until(lambda one: one.ready)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param(None, "No such file", id="missing"),
        pytest.param(b"\xff\xfe", "codec can't decode", id="no text"),
        pytest.param(b"", "answered 401", id="empty"),
    ],
)
async def test_a_key_file_that_is_no_use_is_told_and_looked_at_again(watch, server, key_file, content, said):
    server.key = KEY
    if content is not None:
        key_file(content)
    watched = watch(server.port, key_file=key_file.path)
    assert said in await watched.problem()
    key_file(KEY.encode())
    await watched.until(lambda one: one.ready)


@pytest.mark.parametrize("status", [204, 302, 404, 500, 503])
async def test_only_200_is_ready(watch, server, status):
    server.status = status
    assert await watch(server.port).problem() == f"/v1/models answered {status}"
    assert {path for path, _ in server.calls} == {"/v1/models"}, "a redirect must not be followed"


async def test_a_closed_port_is_told_and_tried_again(watch, unused_tcp_port):
    watched = watch(unused_tcp_port)
    assert str(unused_tcp_port) in await watched.problem()
    assert watched.replica.failure is None


@pytest.mark.parametrize(
    "host",
    [pytest.param("nowhere.invalid", id="unknown"), pytest.param("x" * 70, id="too long for a name")],
)
async def test_a_name_that_has_no_address_is_told_and_tried_again(watch, host):
    watched = watch(1, host=host)
    assert (await watched.problem()).startswith(f"cannot resolve {host}: ")
    assert not watched.replica.task.done()


@pytest.mark.parametrize(
    ("host", "said"),
    [
        pytest.param("169.254.169.254", "link-local", id="metadata"),
        pytest.param("203.0.113.7", "--allow-upstream", id="somewhere in the world"),
    ],
)
async def test_an_address_that_may_not_be_dialled_is_a_failure(watch, host, said):
    watched = watch(80, host=host)
    replica = await watched.until(lambda one: one.failure is not None)
    assert (replica.failure.reason, said in replica.failure.message) == ("AddressNotAllowed", True)
    await asyncio.wait({replica.task}, timeout=1)
    assert (replica.task.done(), watched.told) == (True, [1])


async def test_a_server_that_falters_is_withdrawn_and_comes_back(watch, server, clock):
    watched = watch(server.port)
    await watched.until(lambda one: one.ready)
    clock.advance(3600.0)
    server.status = 500
    replica = await watched.until(lambda one: not one.ready)
    assert (replica.observed().state, replica.observed().started_at) == ("loading", clock.now()), (
        "it did not load an hour"
    )
    server.status = 200
    await watched.until(lambda one: one.ready)
    assert replica.observed().ready_at == clock.now()


async def test_nobody_is_told_while_nothing_changes(watch, server):
    server.status = 500
    watched = watch(server.port)
    await watched.problem()
    calls = len(server.calls)
    async with asyncio.timeout(5):
        while len(server.calls) < calls + 5:
            await asyncio.sleep(0.005)
    assert watched.told == [1]
