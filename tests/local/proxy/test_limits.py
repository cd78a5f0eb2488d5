"""Descriptors and memory at their end: accepting pauses, requests are refused, and both recover."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
from collections.abc import Iterator

import pytest
from tests.support.proxy import CHAT, RawClient, answers, code_of, get, json_answer, post
from tests.support.waiting import until

from flexinfer.proxy import listener
from flexinfer.proxy.listener import Listener, client_limit

MIB = 1024 * 1024
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


class Echo(asyncio.Protocol):
    """Greets, so that a client knows it was accepted."""

    def __init__(self, there: set[Echo]) -> None:
        self.there = there

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.there.add(self)
        transport.write(b"hello")  # type: ignore[attr-defined]

    def connection_lost(self, exc: Exception | None) -> None:
        self.there.discard(self)


async def greeted(client: RawClient, within_s: float = 2.0) -> bool:
    try:
        return await asyncio.wait_for(client.reader.readexactly(5), within_s) == b"hello"
    except TimeoutError:
        return False


@contextlib.contextmanager
def descriptors(free: int) -> Iterator[None]:
    """This process has only so many left."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as probe:
        lowest = probe.fileno()
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_at_the_mark_callers_wait_until_others_have_left():
    there: set[Echo] = set()
    accepting = Listener(await listener.bind("127.0.0.1", 0), lambda: Echo(there), lambda: len(there) < 2)
    clients = [await RawClient.connect(accepting.port) for _ in range(3)]
    assert [await greeted(client, 0.3) for client in clients] == [True, True, False]
    assert accepting.paused
    clients[0].close()
    await until(lambda: len(there) < 2)
    accepting.resume()
    assert await greeted(clients[2])
    accepting.close()
    for client in clients:
        client.close()


async def test_f49_without_descriptors_accepting_pauses_and_goes_on_by_itself():
    there: set[Echo] = set()
    accepting = Listener(await listener.bind("127.0.0.1", 0), lambda: Echo(there), lambda: True)
    client = await RawClient.connect(accepting.port)
    assert await greeted(client)
    callers = [socket.socket() for _ in range(2)]
    with descriptors(free=0):
        for caller in callers:
            caller.connect(("127.0.0.1", accepting.port))
        await until(lambda: accepting.paused)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
        await asyncio.sleep(0.3)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_utime - before < 0.15, "a busy loop"
    await until(lambda: len(there) == 3)
    accepting.close()
    client.close()
    for caller in callers:
        caller.close()


async def test_what_waits_when_a_listener_closes_is_taken_and_nobody_after_it():
    there: set[Echo] = set()
    accepting = Listener(await listener.bind("127.0.0.1", 0), lambda: Echo(there), lambda: True)
    with socket.create_connection(("127.0.0.1", accepting.port)):
        accepting.close()
        await until(lambda: len(there) == 1)
    with pytest.raises(ConnectionRefusedError):
        await RawClient.connect(accepting.port)


async def test_localhost_is_one_port_on_all_its_addresses():
    sockets = await listener.bind("localhost", 0)
    assert len({sock.getsockname()[1] for sock in sockets}) == 1
    with pytest.raises(OSError, match="in use"):
        await listener.bind("localhost", sockets[0].getsockname()[1])
    for sock in sockets:
        sock.close()


def test_half_of_the_free_descriptors_are_for_clients():
    with descriptors(free=1032):
        assert 400 <= client_limit() <= 500


async def test_an_engine_that_no_descriptor_is_left_for_is_no_fault_of_the_engine(start):
    setup = await start(answers(json_answer()))
    client = await setup.client()
    client.send(get("/healthz"))
    assert (await client.answer()).status == 200
    with descriptors(free=0):
        client.send(post(CHAT))
        answer = await client.answer()
    assert (answer.status, code_of(answer), answer.header("retry-after")) == (503, "overloaded", ["1"])
    client.send(post(CHAT))
    assert (await client.answer()).status == 200


async def test_f50_above_the_memory_mark_new_requests_are_refused_and_below_it_taken_again(start):
    said: list[str | None] = ["this process uses 99 of 100 MiB of memory"]
    setup = await start(
        answers(json_answer()), server={"memory_overload": lambda _ahead: said[0]}, sweep_interval_s=0.02
    )
    client = await setup.client()
    await until(lambda: setup.server.overloaded)
    client.send(post(CHAT))
    answer = await client.answer()
    assert (answer.status, code_of(answer), answer.header("retry-after")) == (503, "overloaded", ["5"])
    # Before a byte of a large body is taken.
    other = await setup.client()
    other.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 50000000\r\n\r\n{")
    assert code_of(await other.answer()) == "overloaded"
    client.send(get("/v1/models"))
    assert (await client.answer()).status == 200
    said[0] = None
    await until(lambda: not setup.server.overloaded)
    client.send(post(CHAT))
    assert (await client.answer()).status == 200


NEVER_S = 3600.0
LARGE = 12 * MIB
ROOM = 40 * MIB


class Room:
    """A memory gauge of a server that has ROOM for bodies, and how often it was read."""

    def __init__(self) -> None:
        self.used = 0
        self.asked: list[int] = []

    def overload(self, ahead: int) -> str | None:
        self.asked.append(ahead)
        return "no room" if self.used + ahead > ROOM else None


async def test_a_large_body_is_refused_at_its_head_where_it_would_not_fit(start):
    room = Room()
    setup = await start(answers(json_answer()), server={"memory_overload": room.overload}, sweep_interval_s=NEVER_S)
    client = await setup.client()
    room.used = ROOM - LARGE + 1
    client.send(HEAD % LARGE + b"{")
    answer = await client.answer()
    assert (answer.status, code_of(answer), answer.header("retry-after")) == (503, "overloaded", ["5"])
    assert room.asked == [LARGE]
    # Others go on: a small one, and a large one that fits.
    other = await setup.client()
    other.send(post(CHAT))
    assert (await other.answer()).status == 200
    room.used = 0
    other.send(post(CHAT + b" " * LARGE))
    assert (await other.answer()).status == 200


async def test_memory_is_read_again_while_bodies_come(start):
    """Each would fit when it begins, and no sweep comes in between: whose bytes are too many is refused."""
    room = Room()
    setup = await start(answers(json_answer()), server={"memory_overload": room.overload}, sweep_interval_s=NEVER_S)
    first, second = [await setup.client() for _ in range(2)]
    for client in (first, second):
        client.send(HEAD % LARGE + b"{")
    await until(lambda: room.asked.count(LARGE) == 2)
    room.used = ROOM + 1
    first.send(b" " * (LARGE - 1))
    assert code_of(await first.answer()) == "overloaded"
    assert setup.server._body_bytes <= 1
    room.used = 0
    second.send(b" " * (LARGE - 1))
    assert code_of(await second.answer()) == "invalid_request_body"


async def test_a_body_that_fits_once_and_not_twice_is_not_copied(start):
    room = Room()
    setup = await start(answers(json_answer()), server={"memory_overload": room.overload}, sweep_interval_s=NEVER_S)
    client = await setup.client()
    client.send(HEAD % LARGE + b" " * (LARGE - 1))
    await until(lambda: len(room.asked) >= 2)
    room.used = ROOM - LARGE + 1
    client.send(b"{")
    assert code_of(await client.answer()) == "overloaded"
    assert setup.admission.tickets == []
