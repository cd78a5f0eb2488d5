"""Requests in every split of their bytes: one verdict, the same bytes to the engine, no more than llhttp allows."""

from __future__ import annotations

import httptools
from hypothesis import example
from hypothesis import strategies as st
from tests.support.http_cases import load
from tests.support.llhttp import Llhttp
from tests.support.proxy import CHAT, post
from tests.support.wire import answered, chunked, cuts, every, pieces, splits, verdicts

from flexinfer.errors import RequestError
from flexinfer.proxy.chunks import BadChunk, ChunkReader
from flexinfer.proxy.requesthead import RequestReader

LONGEST = 3000

# chunked bodies

# Pieces of which hostile framings are made.
shards = st.sampled_from(
    [b"0", b"1", b"5", b"a", b"A", b"x", b"\r\n", b"\r", b"\n", b";", b";a=b", b" ", b"+", b"-", b"\x00", b"hello",
     b"0\r\n\r\n", b"5\r\nhello\r\n", b"X: y\r\n", b"fffffffff"]
)  # fmt: skip


@every(st.lists(st.binary(min_size=1, max_size=40), max_size=8), st.binary(max_size=10), cuts)
def test_a_chunked_body_is_the_same_in_any_split(payloads, extra, at):
    raw = chunked(payloads)
    for split in splits(raw + extra, at):
        reader = ChunkReader()
        payload = passed = rest = b""
        for piece in split:
            if reader.done:
                rest += piece
                continue
            payload += reader.feed(piece)
            passed += reader.raw
        assert reader.done
        assert payload == b"".join(payloads)
        assert (passed + reader.tail, reader.extra + rest) == (raw, extra)


def _read_chunks(split: list[bytes]) -> tuple[bytes, bool] | None:
    reader = ChunkReader()
    payload = b""
    try:
        for piece in split:
            if not reader.done:
                payload += reader.feed(piece)
    except BadChunk:
        return None
    return payload, reader.done


@every(st.lists(shards, max_size=12).map(b"".join), cuts)
def test_bytes_are_a_chunked_body_in_every_split_or_in_none(raw, at):
    whole, *others = (_read_chunks(split) for split in splits(raw, at))
    assert others == [whole] * len(others)


@every(st.lists(shards, max_size=12).map(b"".join))
def test_what_the_chunk_reader_takes_llhttp_takes_as_the_same(raw):
    reader = ChunkReader()
    try:
        payload = reader.feed(raw)
    except BadChunk:
        return
    if not reader.done:
        return
    other = Llhttp()
    parser = httptools.HttpRequestParser(other)
    parser.feed_data(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    parser.feed_data(raw[: len(raw) - len(reader.extra)])
    assert (other.body, other.complete) == (payload, True)


# request heads

starts = st.sampled_from(
    [b"POST / HTTP/1.1", b"GET /x HTTP/1.0", b"POST  / HTTP/1.1", b"POST / HTTP/2.0", b"get / HTTP/1.1", b"POST /",
     b"POST /v1/chat/completions HTTP/1.1", b"CONNECT /x HTTP/1.1", b"GET http://a/b HTTP/1.1", b"OPTIONS * HTTP/1.1"]
)  # fmt: skip
lines = st.lists(
    st.sampled_from(
        [b"Host: a", b"Content-Length: 5", b"content-length: 5", b"Content-Length: 0", b"Transfer-Encoding: chunked",
         b"Transfer-Encoding: gzip", b"Connection: close", b"X: y", b" X: y", b"X : y", b"X:\x00", b"X: \xff", b"X",
         b"Expect: 100-continue", b"Transfer-Encoding: chunked, chunked", b"\tfold", b"X: a\rb", b"X: a\nb", b"",
         b"Connection: Content-Length", b"Content-Length: 5, 5", b"Content_Length: 5", b"Host: a, b", b"Upgrade: h2c",
         b"Content-Length: +5", b"Content-Length: 5_0", b"Transfer-Encoding:\x0bchunked"]
    ),
    max_size=6,
)  # fmt: skip


@every(starts, lines)
def test_a_head_that_is_taken_is_taken_by_llhttp_with_the_same_framing(start, fields):
    raw = b"\r\n".join([start, *fields, b"", b""])
    raw = raw[: raw.index(b"\r\n\r\n") + 4]
    try:
        head = RequestReader(100).read(raw)
    except RequestError:
        return
    if head.upgrade:
        return  # llhttp would change protocols; Upgrade is ignored here, and the bytes go to it without that field
    other = Llhttp()
    parser = httptools.HttpRequestParser(other)
    parser.feed_data(raw)
    assert other.complete is (not head.chunked and head.content_length <= 0)


@every(starts, lines, st.sampled_from([b"", b"hello", b"5\r\nhello\r\n0\r\n\r\n", CHAT]), cuts)
def test_a_head_gets_the_same_verdict_in_any_split(start, fields, body, at):
    raw = b"\r\n".join([start, *fields, b"", body])
    _same_in_any_split(raw, at)


# connections

bodies = st.one_of(st.binary(max_size=30), st.just(CHAT))
requests = st.one_of(
    bodies.map(post),
    st.lists(bodies.filter(len), max_size=3).map(
        lambda ps: b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(ps)
    ),
    st.just(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"),
    st.just(b"\r\nGET /v1/models HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"),
    st.just(post(CHAT, "/v1/chat/completions", "Connection: close")),
    st.just(post(CHAT, "/v1/chat/completions", "Expect: 100-continue")),
    st.sampled_from(
        [
            b"GET /f\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n",
            b"\x16\x03\x01",
            b"GET /g HT",
            b"\r\n",
            b"\r",
        ]
    ),
)


@every(st.lists(requests, max_size=5).map(b"".join), cuts)
@example(b"\x16\x03\x01POST /a HTTP/1.1\r\nHost: a\r\n\r\n", [1])
@example(b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n" * 2 + b"\x16\x03\x01GET /c HTTP/1.1\r\n\r\n", [97])
def test_a_connection_does_the_same_in_any_split(raw, at):
    _same_in_any_split(raw, at)


@every(st.sampled_from([case.send for case in load("requests.yaml") if len(case.send) <= LONGEST]), requests, cuts)
def test_every_case_of_the_table_does_the_same_in_any_split(raw, behind, at):
    _same_in_any_split(raw + behind, at)


@every(
    st.sampled_from([case.send for case in load("bodies.yaml") if len(case.send) <= LONGEST]),
    st.lists(st.integers(1, LONGEST), max_size=4),
    cuts,
)
def test_a_json_body_is_the_same_in_any_split_and_any_chunks(body, chunks, at):
    whole = answered([post(body)])
    in_chunks = post(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    in_chunks += chunked([piece for piece in pieces(body, chunks) if piece])
    for raw in (post(body), in_chunks):
        for split in splits(raw, at):
            assert _seen(answered(split)) == _seen(whole)


def _seen(outcome: tuple[bytes, bytes]) -> tuple[bytes, list[tuple[int, bytes]]]:
    to_engine, to_client = outcome
    return to_engine, verdicts(to_client).answers


def _same_in_any_split(raw: bytes, at: list[int]) -> None:
    """What reaches the engine, and every answer's status and error code.

    A request that is refused by its head alone is refused before its body has come, and then the connection ends.
    """
    outcomes = [answered(split) for split in splits(raw, at)]
    engine, whole = outcomes[0][0], verdicts(outcomes[0][1])
    for to_engine, to_client in outcomes[1:]:
        got = verdicts(to_client)
        if (got.closed and not whole.closed) or len(got.answers) < len(whole.answers):
            assert got.closed
            assert got.answers
            assert 400 <= got.answers[-1][0] < 500
            assert got.answers == whole.answers[: len(got.answers)]
            assert engine.startswith(to_engine)
        else:
            assert (to_engine, got) == (engine, whole)
