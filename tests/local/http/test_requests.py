"""Requests of exact bytes to the whole request path: verdict, what reaches the engine, and what is left behind."""

from __future__ import annotations

from collections import Counter

import pytest
from tests.support.http_cases import Case, load
from tests.support.proxy import ANSWER, Received
from tests.support.raw_proxy import Client, RawProxy

CASES = load("requests.yaml")
PLAIN_BODY = b'{"model":"m1","plain":1}'
PLAIN = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
    % (len(PLAIN_BODY), PLAIN_BODY)
)
OURS = ("host", "x-request-id", "content-length")


def test_there_are_enough_of_them():
    rows = Counter(case.row for case in CASES)
    assert len(CASES) >= 250
    assert all(rows[row] >= least for row, least in {1: 65, 2: 35, 3: 35, 4: 45, 5: 40, 6: 25}.items()), rows


@pytest.fixture(scope="module")
def series(proxy: RawProxy) -> set[str]:
    """What is counted once the proxy has served and refused."""
    client = proxy.client()
    client.send(PLAIN)
    assert client.answer().body == ANSWER
    client.close()
    proxy.engine.requests.clear()
    return proxy.series()


@pytest.mark.parametrize("case", [pytest.param(case, id=case.id) for case in CASES])
def test_request(proxy: RawProxy, series: set[str], case: Case):
    client = proxy.client()
    client.send(case.send)
    words = case.gets.split(", ")
    try:
        for word in words:
            _check(client, word)
        if words[-1] not in ("closed", "waits"):
            client.send(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
            assert client.answer().status == 200, "the connection is not in step"
    finally:
        client.close()
        forwarded, plain = _next_request(proxy)
    assert [received.body for received in forwarded] == [case.body] * words.count("forwarded")
    for received in [*forwarded, plain]:
        _check_received(proxy, received)
    fields = case.lines("fields")
    if fields is not None:
        assert all(_end_to_end(received) == fields for received in forwarded), forwarded
    assert proxy.series() == series


def _check(client: Client, word: str) -> None:
    if word == "waits":
        client.end()
        assert client.rest() == b""
        return
    if word == "closed":
        assert client.rest() == b""
        return
    answer = client.answer(to_head=word.startswith("head"))
    assert answer.whole
    if word == "forwarded":
        assert (answer.status, answer.body) == (200, ANSWER)
        return
    status, _, code = word.removeprefix("head ").partition(" ")
    assert (answer.status, answer.code) == (int(status), code)
    assert answer.status < 500


def _next_request(proxy: RawProxy) -> tuple[list[Received], Received]:
    """A plain request on a fresh connection; what the engine had before it, and what it got."""
    client = proxy.client()
    client.send(PLAIN)
    answer = client.answer()
    client.close()
    assert (answer.status, answer.body) == (200, ANSWER)
    received = proxy.engine.requests[:]
    proxy.engine.requests.clear()
    assert received[-1].body == PLAIN_BODY
    return received[:-1], received[-1]


def _check_received(proxy: RawProxy, received: Received) -> None:
    assert received.head.partition(b" HTTP/1.1\r\n")[0].partition(b"?")[0] == b"POST /v1/chat/completions"
    assert received.header("content-length") == [str(len(received.body))]
    assert received.header("host") == [f"127.0.0.1:{proxy.engine.port}"]
    assert len(received.header("x-request-id")) == 1


def _end_to_end(received: Received) -> list[bytes]:
    lines = received.head.split(b"\r\n")[1:-2]
    return [line for line in lines if line.partition(b":")[0].decode("latin-1").lower() not in OURS]
