"""HTTP and JSON readers under any split and any text: the same verdict, and never more than llhttp allows."""

from __future__ import annotations

import json
from itertools import pairwise

import httptools
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.manual_clock import ManualClock

from flexinfer.errors import RequestError
from flexinfer.openai.request import parse, replace_model
from flexinfer.openai.sse import Reader, StreamWatch
from flexinfer.proxy.connection import ClientConnection
from flexinfer.proxy.framing import BadChunk, ChunkReader, RequestHead, RequestReader
from flexinfer.proxy.settings import ProxySettings

cuts = st.lists(st.integers(0, 4000), max_size=12)


def pieces(data: bytes, at: list[int]) -> list[bytes]:
    marks = sorted({min(cut, len(data)) for cut in at} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(marks)]


# chunked bodies


def chunked(payloads: list[bytes]) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in payloads) + b"0\r\n\r\n"


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=8), st.binary(max_size=10), cuts)
@settings(max_examples=60, deadline=None)
def test_a_chunked_body_is_the_same_in_any_split(payloads, extra, at):
    raw = chunked(payloads)
    reader = ChunkReader()
    payload = passed = rest = b""
    for piece in pieces(raw + extra, at):
        if reader.done:
            rest += piece
            continue
        payload += reader.feed(piece)
        passed += reader.raw
    assert reader.done
    assert payload == b"".join(payloads)
    assert (passed + reader.tail, reader.extra + rest) == (raw, extra)


class _Llhttp:
    def __init__(self) -> None:
        self.body = b""
        self.complete = False

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.complete = True


# Pieces of which hostile framings are made.
shards = st.sampled_from(
    [b"0", b"1", b"5", b"a", b"A", b"x", b"\r\n", b"\r", b"\n", b";", b";a=b", b" ", b"+", b"-", b"\x00", b"hello",
     b"0\r\n\r\n", b"5\r\nhello\r\n", b"X: y\r\n", b"fffffffff"]
)  # fmt: skip


@given(st.lists(shards, max_size=12).map(b"".join))
@settings(max_examples=150, deadline=None)
def test_what_the_chunk_reader_takes_llhttp_takes_as_the_same(raw):
    reader = ChunkReader()
    try:
        payload = reader.feed(raw)
    except BadChunk:
        return
    if not reader.done:
        return
    other = _Llhttp()
    parser = httptools.HttpRequestParser(other)
    parser.feed_data(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    parser.feed_data(raw[: len(raw) - len(reader.extra)])
    assert (other.body, other.complete) == (payload, True)


# request heads

lines = st.lists(
    st.sampled_from(
        [b"Host: a", b"Content-Length: 5", b"content-length: 5", b"Content-Length: 0", b"Transfer-Encoding: chunked",
         b"Transfer-Encoding: gzip", b"Connection: close", b"X: y", b" X: y", b"X : y", b"X:\x00", b"X: \xff", b"X",
         b"Expect: 100-continue", b"Transfer-Encoding: chunked, chunked", b"\tfold", b"X: a\rb", b"X: a\nb", b""]
    ),
    max_size=6,
)  # fmt: skip
starts = st.sampled_from(
    [b"POST / HTTP/1.1", b"GET /x HTTP/1.0", b"POST  / HTTP/1.1", b"POST / HTTP/2.0", b"get / HTTP/1.1", b"POST /"]
)


@given(starts, lines)
@settings(max_examples=150, deadline=None)
def test_a_head_that_is_taken_is_taken_by_llhttp_with_the_same_framing(start, fields):
    raw = b"\r\n".join([start, *fields, b"", b""])
    raw = raw[: raw.index(b"\r\n\r\n") + 4]
    try:
        head = RequestReader(100).read(raw)
    except RequestError:
        return
    other = _Llhttp()
    parser = httptools.HttpRequestParser(other)
    parser.feed_data(raw)
    assert other.complete is (not head.chunked and head.content_length <= 0)


# connections


class _Service:
    """Records requests and answers each at once."""

    def __init__(self) -> None:
        self.settings = ProxySettings()
        self.heads = RequestReader(100)
        self.clock = ManualClock()
        self.now = 0.0
        self.draining = False
        self.access = None
        self.seen: list[tuple[bytes, bytes, bytes]] = []

    def read_clock(self) -> float:
        return self.now

    def opened(self, connection: ClientConnection) -> bool:
        return True

    def closed(self, connection: ClientConnection) -> None: ...

    def check_route(self, head: RequestHead) -> None: ...

    def reserve(self, size: int) -> bool:
        return True

    def release(self, size: int) -> None: ...

    def id_line(self, head: RequestHead | None) -> bytes:
        return b"X-Request-ID: id\r\n"

    def handle(self, connection: ClientConnection, head: RequestHead, body: bytes) -> None:
        self.seen.append((head.method, head.target, body))
        connection.respond(head, 200, (), b"ok")


class _Transport:
    def __init__(self) -> None:
        self.out = b""

    def write(self, data: bytes) -> None:
        self.out += data

    def set_write_buffer_limits(self, high: int) -> None: ...

    def can_write_eof(self) -> bool:
        return False

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def close(self) -> None:
        self.out += b"<closed>"


def outcome(data: list[bytes]) -> tuple[list[tuple[bytes, bytes, bytes]], bytes]:
    service, transport = _Service(), _Transport()
    connection = ClientConnection(service)
    connection.connection_made(transport)  # type: ignore[arg-type]
    for piece in data:
        if piece and b"<closed>" not in transport.out:
            connection.data_received(piece)
    connection.connection_lost(None)
    return service.seen, transport.out


bodies = st.binary(max_size=30)
requests = st.one_of(
    bodies.map(lambda b: b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (len(b), b)),
    st.lists(st.binary(min_size=1, max_size=9), max_size=3).map(
        lambda ps: b"POST /b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(ps)
    ),
    st.just(b"GET /c HTTP/1.1\r\nHost: a\r\n\r\n"),
    st.just(b"\r\nGET /d HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"),
    st.just(b"GET /e HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"),
    st.sampled_from([b"GET /f\r\n\r\n", b"POST / HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n", b"\x16\x03\x01", b"GET /g HT"]),
)


@given(st.lists(requests, max_size=5).map(b"".join), cuts)
@example(b"\x16\x03\x01POST /a HTTP/1.1\r\nHost: a\r\n\r\n", [1])
@example(b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n" * 2 + b"\x16\x03\x01GET /c HTTP/1.1\r\n\r\n", [97])
@settings(max_examples=150, deadline=None)
def test_a_connection_does_the_same_in_any_split(raw, at):
    assert outcome(pieces(raw, at)) == outcome([raw])


# bodies

keys = st.sampled_from(["model", "\\u006dodel", "Model", "x", "messages", 'a\\"b'])
values = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-99, 99), st.text(max_size=6), st.sampled_from(['"', "}", "model", "\\"])
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=6,
)
gaps = st.sampled_from(["", " ", "\n\t "])


@given(st.lists(st.tuples(keys, values, gaps), max_size=6), st.text(min_size=1, max_size=8), st.text(max_size=8))
@settings(max_examples=150, deadline=None)
def test_the_last_model_is_replaced_and_every_other_byte_stays(members, old, new):
    strings = [(k, old if k in ("model", "\\u006dodel") else v, g) for k, v, g in [*members, ("model", "", "")]]
    text = "{" + ",".join(f'{g}"{k}"{g}:{g}{json.dumps(v, ensure_ascii=False)}{g}' for k, v, g in strings) + "}"
    try:
        body = text.encode()
    except UnicodeEncodeError:
        return
    assert parse(body).model == json.loads(body)["model"] == old
    replaced = replace_model(body, new)
    assert json.loads(replaced) == {**json.loads(body), "model": new}
    tail = b'"' + json.dumps(old, ensure_ascii=False)[1:].encode() + b"}"
    assert body.endswith(tail)
    assert replaced.startswith(body[: -len(tail)])


@given(st.binary(max_size=60))
@settings(max_examples=150, deadline=None)
def test_any_bytes_are_a_request_or_one_documented_answer(body):
    try:
        code = parse(body).model and "a request"
    except RequestError as refusal:
        code = refusal.code
    assert code in ("a request", "invalid_request_body", "missing_required_field")


# event streams

texts = st.lists(
    st.sampled_from(
        [b"data: a", b"data:", b"data: [DONE]", b": ping", b"event: x", b"id: 1", b"\n", b"\r", b"\r\n", b"\n\n", b"",
         b'data: {"error":{}}', b'data: {"choices":[{"finish_reason":"abort"}]}', b'data: {"choices":[]}\n\n']
    ),
    max_size=20,
).map(b"".join)  # fmt: skip


@given(texts, cuts)
@settings(max_examples=150, deadline=None)
def test_events_and_ends_are_the_same_in_any_split(text, at):
    split = Reader()
    assert [event for piece in pieces(text, at) for event in split.feed(piece)] == Reader().feed(text)
    watch, whole = StreamWatch(), StreamWatch()
    for piece in pieces(text, at):
        watch.feed(piece)
    whole.feed(text)
    assert watch.finish() == whole.finish()
    assert watch.finish().output_tokens >= 0
