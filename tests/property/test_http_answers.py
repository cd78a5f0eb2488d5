"""Engines' answers in every split of their bytes: whole in all or in none, and no more than llhttp allows."""

from __future__ import annotations

from contextlib import suppress
from typing import NamedTuple

import httptools
from hypothesis import strategies as st
from tests.support.http_cases import load
from tests.support.llhttp import Llhttp
from tests.support.proxy import ANSWER, CHAT, json_answer, post
from tests.support.wire import Wire, chunked, cuts, every, splits

from flexinfer.proxy.chunks import BadChunk, ChunkReader

LONGEST = 3000
PLAIN = json_answer()

starts = st.sampled_from(
    [b"HTTP/1.1 200 OK", b"HTTP/1.1 200", b"HTTP/1.0 200 OK", b"HTTP/1.1 204 No Content", b"HTTP/1.1 304 x",
     b"HTTP/1.1 500 x", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK", b"HTTP/1.1 101 x", b"HTTP/2 200 OK", b"200 OK"]
)  # fmt: skip
lines = st.lists(
    st.sampled_from(
        [b"Content-Length: 5", b"Content-Length: 0", b"Content-Length: 5, 5", b"Content-Length: +5", b"X : y", b"X: y",
         b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip, chunked", b"Connection: close", b"\tfold", b"X",
         b"Content-Type: text/event-stream", b"Content-Type: application/json", b"X: a\rb", b"X: a\nb", b"X: \xff"]
    ),
    max_size=4,
)  # fmt: skip
events = st.lists(
    st.sampled_from(
        [b"data: {}\n\n", b"data: [DONE]\n\n", b"data: a", b"\r\n\r\n", b": ping\n\n", b'data: {"error":{"x":1}}\n\n',
         b'data: {"choices":[{"finish_reason":"abort"}]}\n\n', b"\xc3", b"\xa9"]
    ),
    max_size=6,
)  # fmt: skip
shards = st.lists(
    st.sampled_from(
        [b"hello", b"5\r\nhello\r\n", b"0\r\n\r\n", b"0\r\nX: y\r\n\r\n", b"\r\n", b"\r", b"\n", b"5", PLAIN]
    ),
    max_size=5,
).map(b"".join)
SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
answers = st.one_of(
    st.tuples(starts, lines, shards).map(lambda parts: b"\r\n".join([parts[0], *parts[1], b"", parts[2]])),
    events.map(lambda e: SSE + b"Transfer-Encoding: chunked\r\n\r\n" + chunked([x for x in e if x])),
    events.map(lambda e: SSE + b"\r\n" + b"".join(e)),
    events.map(lambda e: SSE + b"Content-Length: %d\r\n\r\n%b" % (len(b"".join(e)), b"".join(e))),
)
ends = st.sampled_from(["keeps", "closes", "resets"])
versions = st.sampled_from([b"HTTP/1.1", b"HTTP/1.0"])


class Relayed(NamedTuple):
    """What a client reads of one answer."""

    status: int
    payload: bytes
    whole: bool
    error: bool
    """The payload ends with an error of ours."""


def _relay(split: list[bytes], then: str, version: bytes) -> Relayed:
    wire = Wire()
    wire.from_client(post(CHAT).replace(b"HTTP/1.1", version, 1))
    for piece in split:
        wire.from_engine(piece)
    if then != "keeps":
        wire.engine_ends(ConnectionResetError() if then == "resets" else None)
    got = _read(wire.to_client)
    if wire.to_client and not wire.to_client.endswith((b"<closed>", b"<reset>")):
        before = len(wire.to_client)
        if not wire.waiting:
            # The next answer on this connection is the next request's own.
            wire.from_client(post(CHAT))
            wire.from_engine(PLAIN)
            assert _read(wire.to_client[before:]) == Relayed(200, ANSWER, whole=True, error=False)
    wire.client_ends()
    assert all(len(ticket.releases) == 1 for ticket in wire.tickets)
    return got


def _read(out: bytes) -> Relayed:
    if not out:
        return Relayed(0, b"", whole=False, error=False)
    out, reset, _ = out.partition(b"<reset>")
    out, closed, _ = out.partition(b"<closed>")
    head, _, body = out.partition(b"\r\n\r\n")
    status = int(head[9:12])
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    whole = True
    if b"transfer-encoding" in fields:
        reader = ChunkReader()
        try:
            body = reader.feed(body)
        except BadChunk:
            whole = False
        whole = whole and reader.done and not reader.extra
    elif b"content-length" in fields:
        whole = len(body) == int(fields[b"content-length"]) or status == 304
        assert status == 304 or len(body) <= int(fields[b"content-length"])
    elif status not in (204, 304):
        whole = bool(closed) and not reset
    error = (status >= 500 and b'"code":' in body) or b"event: error\n" in body
    return Relayed(status, body, whole, error)


def _same_in_any_split(raw: bytes, then: str, version: bytes, at: list[int]) -> None:
    """Whole answers are the same; of one that is not whole, a client may have more or less, or an error instead."""
    first, *others = [_relay(split, then, version) for split in splits(raw, at)]
    for other in others:
        assert other.whole == first.whole or {other.status, first.status} >= {502}
        if _good(first) or _good(other):
            assert other == first
        elif not (first.error or other.error):
            assert first.payload.startswith(other.payload) or other.payload.startswith(first.payload)


def _good(relayed: Relayed) -> bool:
    return relayed.whole and not relayed.error


@every(answers, ends, versions, cuts)
def test_an_answer_is_whole_in_every_split_or_in_none(raw, then, version, at):
    _same_in_any_split(raw, then, version, at)


TABLE = [
    (case.send + b"".join(case.lines("later") or []), case.more.get("then", "keeps"))
    for case in load("answers.yaml")
    if len(case.send) <= LONGEST
]


@every(st.sampled_from(TABLE), versions, cuts)
def test_every_case_of_the_table_ends_the_same_in_any_split(case, version, at):
    _same_in_any_split(*case, version, at)


@every(answers)
def test_an_answer_that_is_whole_is_whole_to_llhttp_with_the_same_payload(raw):
    got = _relay([raw], "keeps", b"HTTP/1.1")
    if not _good(got) or got.status >= 500:
        return
    final = raw.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
    other = Llhttp()
    parser = httptools.HttpResponseParser(other)
    with suppress(httptools.HttpParserError):  # of what follows it
        parser.feed_data(final)
    assert other.complete
    assert other.body.startswith(got.payload)
