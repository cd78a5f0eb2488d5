"""The control socket with a real server and client over a real Unix socket."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import aiohttp
import pytest
from aiohttp import web

from flexinfer.api.meta import ObjectKey
from flexinfer.clock import SystemClock
from flexinfer.errors import FlexInferError, NotFound, NothingRunning
from flexinfer.kube.apiserver import build_app
from flexinfer.kube.memory import MemoryStore
from flexinfer.kube.store import CONFIG_MAPS
from flexinfer.local.control import Control, ControlClient, Engine, Info, ModelUse
from flexinfer.local.enginelog import older
from flexinfer.local.state import State

ENGINE = Engine(model="llama", state="ready", pid=4711, address="127.0.0.1:20100", memory_mib=812)


USES = {"m1": ModelUse(open=1, waiting=2, idle_seconds=0.5), "m2": ModelUse()}


class Up:
    """What the socket of a test speaks for."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.store = MemoryStore(SystemClock())
        self.stopping = asyncio.Event()
        self.info = Info(
            pid=os.getpid(),
            version="0.1.0",
            proxy="http://127.0.0.1:8080",
            state_dir=str(state.root),
            models_dir="/models",
            started_at=datetime(2026, 1, 2, tzinfo=UTC),
        )
        self.control = Control(
            state,
            info=lambda: self.info,
            engines=lambda: [ENGINE],
            uses=lambda: USES,
            shutdown=self.stopping.set,
        )

    def serve(self) -> contextlib.AbstractAsyncContextManager[None]:
        return self.control.serve(build_app(self.store, (CONFIG_MAPS,)))


@pytest.fixture
async def up(state: State) -> AsyncIterator[Up]:
    up = Up(state)
    with state.locked():
        async with up.serve():
            yield up


async def test_info_engines_and_shutdown(up: Up) -> None:
    async with ControlClient(up.state) as client:
        assert await client.info() == up.info
        assert await client.engines() == [ENGINE]
        assert await client.uses() == USES
        assert not up.stopping.is_set()
        await client.shutdown()
        assert up.stopping.is_set()


async def test_the_socket_is_for_its_owner_alone(up: Up) -> None:
    assert up.state.socket_path.stat().st_mode & 0o777 == 0o600


async def test_objects_go_through_to_the_store_and_changes_come_back(up: Up) -> None:
    manifest = {"metadata": {"namespace": "default", "name": "notes"}, "data": {"a": "1"}}
    async with ControlClient(up.state) as client:
        made = await client.store().create(CONFIG_MAPS, manifest)
        assert (await up.store.get(CONFIG_MAPS, ObjectKey("default", "notes")))["data"] == {"a": "1"}
        version = made["metadata"]["resourceVersion"]
        async with contextlib.aclosing(client.store().watch(CONFIG_MAPS, version)) as events:
            following = asyncio.ensure_future(anext(events))
            await up.store.patch(CONFIG_MAPS, ObjectKey("default", "notes"), {"data": {"a": "2"}})
            event = await asyncio.wait_for(following, 5)
        assert (event.type, event.object["data"]) == ("MODIFIED", {"a": "2"})


@pytest.mark.parametrize("leave", [pytest.param(False, id="no socket"), pytest.param(True, id="a stale socket")])
async def test_nobody_answers(state: State, leave: bool) -> None:
    if leave:
        async with Up(state).serve():
            os.link(state.socket_path, state.root / "kept")
        (state.root / "kept").rename(state.socket_path)
    with pytest.raises(NothingRunning, match=str(state.root)):
        async with ControlClient(state):
            pass


async def test_an_up_that_ends_meanwhile_is_told(state: State) -> None:
    async with contextlib.AsyncExitStack() as client_stack:
        async with Up(state).serve():
            client = await client_stack.enter_async_context(ControlClient(state))
        with pytest.raises(NothingRunning):
            await client.info()
        with pytest.raises(OSError, match="No such file"):
            await client.store().list(CONFIG_MAPS)
    assert not state.socket_path.exists()


@pytest.mark.parametrize(
    ("tail", "expected"),
    [
        pytest.param(None, b"1\n2\n3\n4\n5", id="everything, the older half first"),
        pytest.param(0, b"", id="nothing"),
        pytest.param(1, b"5", id="a line that has not ended counts"),
        pytest.param(2, b"4\n5", id="the last lines"),
        pytest.param(4, b"2\n3\n4\n5", id="lines of the older half too"),
        pytest.param(99, b"1\n2\n3\n4\n5", id="more than there are"),
    ],
)
async def test_logs(up: Up, tail: int | None, expected: bytes) -> None:
    up.state.new_log("llama").write_text("the start before\n")
    path = up.state.new_log("llama")
    older(path).write_text("1\n2\n")
    path.write_text("3\n4\n5")
    async with ControlClient(up.state) as client:
        assert b"".join([chunk async for chunk in client.logs("llama", tail=tail)]) == expected


async def test_logs_are_followed_across_restarts_until_up_ends(state: State) -> None:
    first = state.new_log("llama")
    first.write_text("old\nstarting\n")
    got = bytearray()

    async def until(text: bytes) -> None:
        while not got.endswith(text):
            await asyncio.sleep(0.01)

    async with contextlib.AsyncExitStack() as stack:
        serving = await stack.enter_async_context(contextlib.AsyncExitStack())
        await serving.enter_async_context(Up(state).serve())
        client = await stack.enter_async_context(ControlClient(state))

        async def follow() -> None:
            async for chunk in client.logs("llama", follow=True, tail=1):
                got.extend(chunk)

        async with asyncio.timeout(8), asyncio.TaskGroup() as group:
            following = group.create_task(follow())
            await until(b"starting\n")
            with first.open("a") as log:
                log.write("ready\n")
            await until(b"ready\n")
            with first.open("a") as log:
                log.write("crashed\n")
            state.new_log("llama").write_text("again\n")
            await until(b"again\n")
            assert not following.done()
            await serving.aclose()
    assert bytes(got) == b"starting\nready\ncrashed\nagain\n"


async def test_a_model_without_a_log(up: Up) -> None:
    async with ControlClient(up.state) as client:
        with pytest.raises(NotFound, match="no engine of nobody has been started yet"):
            [chunk async for chunk in client.logs("nobody")]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        pytest.param("/flexinfer/v1/logs/llama?tail=-1", 400, id="a negative number of lines"),
        pytest.param("/flexinfer/v1/logs/..%2F..%2Fup.lock", 404, id="a way out of the folder"),
        pytest.param("/flexinfer/v1/unknown", 404, id="an unknown path"),
    ],
)
async def test_bad_calls(up: Up, path: str, status: int) -> None:
    connector = aiohttp.UnixConnector(str(up.state.socket_path))
    async with aiohttp.ClientSession("http://up", connector=connector) as session, session.get(path) as answer:
        assert answer.status == status


@pytest.mark.parametrize(
    ("status", "body"),
    [
        pytest.param(404, b"", id="a call that it does not know"),
        pytest.param(200, b"[1]", id="another answer"),
        pytest.param(200, b"\xff", id="no JSON"),
    ],
)
async def test_an_up_of_another_version_is_told_apart_from_none(state: State, status: int, body: bytes) -> None:
    async def answered(_request: web.Request) -> web.Response:
        return web.Response(status=status, body=body)

    app = web.Application()
    app.router.add_get("/flexinfer/v1/info", answered)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.UnixSite(runner, str(state.socket_path)).start()
    try:
        with pytest.raises(FlexInferError, match="of another version") as caught:
            async with ControlClient(state):
                pass
        assert not isinstance(caught.value, NothingRunning)
    finally:
        await runner.cleanup()
