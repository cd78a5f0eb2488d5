"""Engines that misbehave, byte by byte: the client sees the answer, an error, or an end that is visibly too early."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import closing

import pytest
from tests.support.http_cases import Case, load
from tests.support.proxy import ANSWER, CHAT, Engine, Received, answers, json_answer, post
from tests.support.raw_proxy import Client, RawAnswer, RawProxy

from flexinfer.proxy.settings import ProxySettings

CASES = load("answers.yaml")
OURS = ("content-length", "transfer-encoding", "connection", "x-request-id")
PLAIN = answers(json_answer())


def test_there_are_enough_of_them():
    assert len(CASES) >= 80


@pytest.fixture(scope="module")
def proxy() -> Iterator[RawProxy]:
    settings = ProxySettings(first_byte_timeout_s=0.7, stream_idle_timeout_s=0.7, sweep_interval_s=0.1)
    with RawProxy(PLAIN, None, settings).running() as running:
        yield running


class _Script:
    """Answers once as the case says, and then plainly."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self._done = False

    async def __call__(self, engine: Engine, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._done:
            await PLAIN(engine, reader, writer)
            return
        self._done = True
        writer.write(self._case.send)
        await writer.drain()
        later = self._case.lines("later")
        if later:
            await asyncio.sleep(0.01)
            writer.write(later[0])
            await writer.drain()
        then = self._case.more.get("then", "keeps")
        if then == "resets":
            await asyncio.sleep(0.01)
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        if then != "keeps":
            writer.close()


@pytest.mark.parametrize("case", [pytest.param(case, id=case.id) for case in CASES])
def test_answer(proxy: RawProxy, case: Case):
    proxy.engine.script = _Script(case)
    version = case.more.get("by", "HTTP/1.1")
    twice = bool(case.more.get("twice"))
    with closing(proxy.client()) as client:
        client.send(post(CHAT).replace(b"HTTP/1.1", version.encode(), 1) * (1 + twice))
        words = case.gets.split(", ")
        _check(client, case, words[0])
        if twice:
            _check_plain(client.answer())
        if case.more.get("settles"):
            time.sleep(0.05)
        if words[-1] == "closed":
            assert client.rest() == b""
        else:
            client.send(post(CHAT))
            _check_plain(client.answer())
    with closing(proxy.client()) as other:
        for _ in range(3):
            other.send(post(CHAT))
            _check_plain(other.answer())
    proxy.engine.requests.clear()


def _check(client: Client, case: Case, word: str) -> None:
    answer = client.answer()
    cut = word.startswith("cut ")
    status, _, code = word.removeprefix("cut ").partition(" ")
    assert answer.status == int(status)
    body = case.body
    if code:
        assert answer.code == code
        assert answer.whole
    elif cut:
        _check_cut(answer, client, body)
    else:
        assert answer.whole
        assert answer.body == body
    fields = case.lines("fields")
    if fields is not None:
        assert [line for line in answer.head.split(b"\r\n")[1:-2] if _name(line) not in OURS] == fields


def _name(line: bytes) -> str:
    return line.partition(b":")[0].decode("latin-1").lower()


def _check_cut(answer: RawAnswer, client: Client, body: bytes) -> None:
    """The end is no clean one; what came is a part of the answer, and for a stream an error."""
    text, marker, event = answer.body.partition(b"event: error\ndata: ")
    if marker:
        assert json.loads(event)["error"]["code"] in ("bad_gateway", "upstream_timeout")
        assert event.endswith(b"\n\n")
    assert body.startswith(text.rstrip(b"\n")), answer.body[-200:]
    assert not answer.whole or client.was_reset


def _check_plain(answer: RawAnswer) -> None:
    assert (answer.status, answer.body, answer.whole) == (200, ANSWER, True)
    assert Received(answer.head, b"").header("content-type") == ["application/json"]
