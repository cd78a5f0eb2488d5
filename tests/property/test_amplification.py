"""What bytes can cost: beyond 64 KiB, no more than 100 times their size in memory and 100 times the CPU of good ones.

Good ones are a plain request or answer of the same size that comes in the same pieces; of requests in a
pipeline, as many single ones. Measured are the real connections, from the bytes to the answer.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Iterator

import pytest
from tests.support.proxy import CHAT, get, json_answer, post
from tests.support.wire import Wire, chunked

KIB = 1024
FREE_BYTES = 64 * KIB
MOST = 100
PIECES = [
    pytest.param(256 * KIB, 64 * KIB, id="64 KiB at a time"),
    pytest.param(96 * KIB, 1460, id="a packet at a time"),
    pytest.param(32 * KIB, 2, id="2 bytes at a time"),
]

Feed = Callable[[bytes, int], Wire]


def _pieces(data: bytes, step: int) -> Iterator[bytes]:
    return (data[at : at + step] for at in range(0, len(data), step))


def ask(data: bytes, step: int) -> Wire:
    """A client sends this."""
    wire = Wire()
    for piece in _pieces(data, step):
        wire.from_client(piece)
        while wire.waiting:
            wire.from_engine(json_answer())
    wire.client_ends()
    return wire


def answer(data: bytes, step: int) -> Wire:
    """An engine answers this."""
    wire = Wire()
    wire.from_client(post(CHAT))
    for piece in _pieces(data, step):
        wire.from_engine(piece)
    wire.engine_ends()
    wire.client_ends()
    return wire


def cpu_s(work: Callable[[], object], times: int) -> list[float]:
    """In order."""
    spent = []
    for _ in range(times):
        begin = time.process_time()
        work()
        spent.append(time.process_time() - begin)
    return sorted(spent)


def memory_bytes(feed: Feed, data: bytes, step: int) -> int:
    feed(b"", step)
    tracemalloc.start()
    try:
        wire = feed(data, step)
        # What the test itself keeps of the answers is no cost of theirs.
        return tracemalloc.get_traced_memory()[1] - len(wire.to_client)
    finally:
        tracemalloc.stop()


def plain_request(size: int) -> bytes:
    return post(b'{"model":"m1","x":"' + b"a" * (size - 140) + b'"}')


def in_chunks(size: int, chunk: bytes) -> bytes:
    head = post(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    return head + chunk * (size // len(chunk)) + b"0\r\n\r\n"


def head_of(size: int, line: bytes) -> bytes:
    return b"GET /healthz HTTP/1.1\r\nHost: a\r\n" + line * (size // len(line)) + b"\r\n"


def filled(start: bytes, part: bytes, end: bytes) -> Callable[[int], bytes]:
    return lambda size: post(start + part * (size // len(part)) + end)


REQUESTS = [
    pytest.param(lambda size: in_chunks(size, b"1\r\n \r\n"), id="chunks of 1 byte"),
    pytest.param(lambda size: in_chunks(size, b"f\r\n" + b" " * 15 + b"\r\n"), id="chunks of 15 bytes"),
    pytest.param(lambda size: in_chunks(size, b"10\r\n" + b" " * 16 + b"\r\n"), id="chunks of 16 bytes"),
    pytest.param(lambda size: in_chunks(size, b"1;" + b"a" * 240 + b"\r\n \r\n"), id="chunks with long extensions"),
    pytest.param(lambda size: in_chunks(0, b"x")[:-2] + b"a:\r\n" * (size // 4), id="trailers without end"),
    pytest.param(lambda size: b"\r\n" * (size // 2), id="empty lines"),
    pytest.param(lambda size: head_of(size, b"a:\r\n"), id="many tiny fields"),
    pytest.param(lambda size: head_of(size, b"a:\r\n")[:-2], id="many tiny fields without end"),
    pytest.param(lambda size: head_of(size, b"a: " + b"b" * 30_000 + b"\r\n"), id="a long field"),
    pytest.param(lambda size: head_of(30_000, b"Connection: " + b"," * 29_980 + b"\r\n"), id="a field of commas"),
    pytest.param(lambda size: b"GET /" + b"a" * size + b" HTTP/1.1\r\n\r\n", id="a long target"),
    pytest.param(filled(b"", b"[", b""), id="deep lists"),
    pytest.param(filled(b'{"model":"m1","x":', b"[", b""), id="deep lists behind the model"),
    pytest.param(filled(b'{"model":"m1","x":', b'{"a":', b""), id="deep objects"),
    pytest.param(filled(b'{"model":"m1","x":"', b"\\u00fc", b'"}'), id="escapes"),
    pytest.param(filled(b'{"model":"', b"\\u00fc", b'"}'), id="escapes in the model"),
    pytest.param(filled(b'{"model":"', b"a", b'"}'), id="a long model"),
    pytest.param(filled(b"{", b'"model":"m1",', b'"x":1}'), id="many models"),
    pytest.param(filled(b"{", b'"":0,', b'"model":"m1"}'), id="many keys"),
    pytest.param(filled(b'{"model":"m1","x":[', b"{},", b"0]}"), id="many objects"),
    pytest.param(filled(b'{"model":"m1","x":', b"9", b"}"), id="a long number"),
    pytest.param(filled(b'{"model":', b"9", b"}"), id="a long number as the model"),
    pytest.param(filled(b'{"model":"m1","x":"', b"\xc3\xbc", b'"}'), id="text above ASCII"),
    pytest.param(filled(b'{"model":"m1","x":"', b"\xff", b'"}'), id="no UTF-8"),
    pytest.param(filled(b"", b" ", b'{"model":"m1"}'), id="white space"),
]


def _check(feed: Feed, bad: bytes, good: bytes, step: int, times: int = 1) -> None:
    feed(good, step)  # what is made once in a process is no cost of these bytes
    assert memory_bytes(feed, bad, step) <= FREE_BYTES + MOST * len(bad)
    usual_s = cpu_s(lambda: feed(good, step), 5)[2]
    assert cpu_s(lambda: feed(bad, step), 3)[0] <= MOST * times * usual_s


@pytest.mark.parametrize(("size", "step"), PIECES)
@pytest.mark.parametrize("build", REQUESTS)
def test_a_request(build: Callable[[int], bytes], size: int, step: int) -> None:
    bad = build(size)
    _check(ask, bad, plain_request(len(bad)), step)


@pytest.mark.parametrize(("size", "step"), PIECES)
@pytest.mark.parametrize(
    "request_of",
    [
        pytest.param(lambda n: get("/healthz"), id="health"),
        pytest.param(lambda n: get("/nothing"), id="not found"),
        pytest.param(lambda n: get("/healthz", *(f"X-{n}-{k}: {n}" for k in range(90))), id="fields never seen before"),
        pytest.param(lambda n: post(CHAT), id="forwarded"),
        pytest.param(lambda n: post(b'{"model":"m%d"}' % n), id="names of models that do not exist"),
        pytest.param(lambda n: post(CHAT, f"/v1/models/{'x' * 200}{n}"), id="long paths"),
    ],
)
def test_many_requests_at_once_cost_what_they_cost_alone(
    request_of: Callable[[int], bytes], size: int, step: int
) -> None:
    many = [request_of(n) for n in range(size // len(request_of(0)))]
    _check(ask, b"".join(many), plain_request(len(many[0]) + 150), step, times=len(many))


JSON = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
CODED = b"Transfer-Encoding: chunked\r\n\r\n"
TOKEN = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","model":"m1","choices":[{"delta":{"content":"x"}}]}\n\n'
)


def plain_answer(size: int) -> bytes:
    return JSON + b"Content-Length: %d\r\n\r\n" % size + b"a" * size


def plain_stream(size: int) -> bytes:
    return STREAM + CODED + chunked([TOKEN] * (size // len(TOKEN)))


def repeated(start: bytes, part: bytes) -> Callable[[int], bytes]:
    return lambda size: start + part * (size // len(part))


@pytest.mark.parametrize(("size", "step"), PIECES)
@pytest.mark.parametrize(
    ("build", "plain"),
    [
        pytest.param(repeated(JSON + CODED, b"1\r\nx\r\n"), plain_answer, id="chunks of 1 byte"),
        pytest.param(repeated(JSON + CODED, b"1;" + b"a" * 240 + b"\r\nx\r\n"), plain_answer, id="chunk extensions"),
        pytest.param(repeated(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), plain_answer, id="interim answers"),
        pytest.param(repeated(JSON, b"a:\r\n"), plain_answer, id="a head without end"),
        pytest.param(repeated(JSON + b"\r\n", b'"error"'), plain_answer, id="a body that looks like errors"),
        pytest.param(repeated(STREAM + CODED, b"6\r\n: hi\n\n\r\n"), plain_stream, id="pings"),
        pytest.param(repeated(STREAM + b"\r\n", b"\n"), plain_stream, id="empty lines"),
        pytest.param(repeated(STREAM + b"\r\n", b"\r"), plain_stream, id="empty lines that end in CR"),
        pytest.param(repeated(STREAM + b"\r\n", b"data:\n\n"), plain_stream, id="empty events"),
        pytest.param(repeated(STREAM + b"\r\n", b"data:\n"), plain_stream, id="an event without end"),
        pytest.param(repeated(STREAM + b"\r\n", b"a"), plain_stream, id="a line without end"),
        pytest.param(repeated(STREAM + b"\r\n", b'data: {"error":1}\n\n'), plain_stream, id="errors"),
        pytest.param(
            repeated(STREAM + b"\r\n", b'data: "error"' + b"[" * 2000 + b"\n\n"), plain_stream, id="deep events"
        ),
        pytest.param(repeated(STREAM + CODED, b"1\r\n\n\r\n"), plain_stream, id="a stream in chunks of 1 byte"),
    ],
)
def test_an_answer(build: Callable[[int], bytes], plain: Callable[[int], bytes], size: int, step: int) -> None:
    bad = build(size)
    _check(answer, bad, plain(len(bad)), step)
