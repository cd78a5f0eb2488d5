"""Readers of HTTP, JSON and events: any bytes, and where they are taken, another reader has to agree."""

from __future__ import annotations

import json
import re
from contextlib import suppress

import httptools
from tests.fuzz.target import Target
from tests.support.http_cases import load
from tests.support.llhttp import Llhttp
from tests.support.wire import answered, pieces, verdicts

from flexinfer.errors import RequestError
from flexinfer.openai.request import parse, replace_model
from flexinfer.openai.sse import Reader, StreamWatch, answer_failed, answer_tokens
from flexinfer.proxy.answerhead import AnswerReader, BadAnswer
from flexinfer.proxy.chunks import BadChunk, ChunkReader
from flexinfer.proxy.requesthead import RequestReader

_LONGEST_SEED = 600
_SENT = re.compile(
    rb"POST /v1/[a-z/]+(?:\?[!-~]*)? HTTP/1\.1\r\nHost: 127\.0\.0\.1:1\r\n"
    rb"(?:[!#-'*+\-.0-9A-Z^-z|~]+:[\t -~\x80-\xff]*\r\n)*"
    rb"X-Request-ID: [!-~]*\r\nContent-Length: ([0-9]+)\r\n\r\n"
)


def _head(data: bytes) -> bytes:
    end = data.find(b"\r\n\r\n")
    return data[: end + 4] if end >= 0 else data + b"\r\n\r\n"


def _request(data: bytes) -> None:
    raw = _head(data)
    status = 0
    try:
        head = RequestReader(100).read(raw)
    except RequestError as refusal:
        status = refusal.status
    if status:
        assert status in (400, 431)
        return
    assert not (head.chunked and head.content_length >= 0)
    assert b"\r" not in b"".join(head.fields)
    if head.upgrade:
        return
    other = Llhttp()
    parser = httptools.HttpRequestParser(other)
    try:
        parser.feed_data(raw)
    except httptools.HttpParserError:
        return  # the second opinion: it is refused
    assert other.complete is (not head.chunked and head.content_length <= 0)


def _answer(data: bytes) -> None:
    raw = _head(data)
    try:
        head = AnswerReader().read(raw)
    except BadAnswer:
        return
    assert not (head.chunked and head.content_length >= 0)
    assert b"\r" not in b"".join(head.fields)
    assert head.text.count(b"\n") == len(head.fields) + 1
    if head.status < 200 or head.status in (204, 304) or not (head.chunked or head.content_length >= 0):
        return
    if b"\t" in raw:
        return  # RFC 9110 5.6.3 allows it around a value; llhttp strips spaces only. What goes on is written anew
    other = Llhttp()
    parser = httptools.HttpResponseParser(other)
    body = b"5\r\nhello\r\n0\r\n\r\n" if head.chunked else b"hello"[: head.content_length]
    with suppress(httptools.HttpParserError):
        parser.feed_data(raw + body)
        assert other.complete is (head.chunked or head.content_length <= 5)


def _chunks(data: bytes) -> None:
    whole = _read_chunks([data])
    assert whole == _read_chunks(pieces(data, [1, len(data) // 2, len(data) - 3]))
    if whole is None or not whole[1]:
        return
    payload, _, extra = whole
    other = Llhttp()
    parser = httptools.HttpRequestParser(other)
    parser.feed_data(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    try:
        parser.feed_data(data[: len(data) - extra])
    except httptools.HttpParserError:
        return  # of extensions it takes fewer
    assert (other.body, other.complete) == (payload, True)


def _read_chunks(split: list[bytes]) -> tuple[bytes, bool, int] | None:
    """Payload, whether it is whole, and how many bytes follow it."""
    reader = ChunkReader()
    payload, extra = b"", 0
    try:
        for piece in split:
            if reader.done:
                extra += len(piece)
            else:
                payload += reader.feed(piece)
    except BadChunk:
        return None
    return payload, reader.done, extra + len(reader.extra)


def _connection(data: bytes) -> None:
    """The whole way: what the engine gets are whole requests, each of one form."""
    outcome = answered([data])
    to_engine, to_client = outcome
    answers = verdicts(to_client).answers
    assert all(status < 500 for status, _ in answers)
    while to_engine:
        sent = _SENT.match(to_engine)
        assert sent is not None, to_engine
        size = int(sent[1])
        assert len(to_engine) >= sent.end() + size
        parse(to_engine[sent.end() : sent.end() + size])
        to_engine = to_engine[sent.end() + size :]
    again, split = answered(pieces(data, [len(data) // 3, len(data) // 2, len(data) - 1]))
    got = verdicts(split).answers
    assert got == answers[: len(got)]
    assert outcome[0].startswith(again)


def _json(data: bytes) -> None:
    code = ""
    try:
        request = parse(data)
    except RequestError as refusal:
        code = refusal.code
    if code:
        assert code in ("invalid_request_body", "missing_required_field")
        return
    read = json.loads(data)
    assert (request.model, request.stream) == (read["model"], read.get("stream"))
    assert json.loads(replace_model(data, "other")) == {**read, "model": "other"} or read != read


def _events(data: bytes) -> None:
    split = pieces(data, [1, len(data) // 2, len(data) - 1])
    reader, whole, cut = Reader(), StreamWatch(), StreamWatch()
    assert [event for piece in split for event in reader.feed(piece)] == Reader().feed(data)
    whole.feed(data)
    for piece in split:
        cut.feed(piece)
    assert whole.finish() == cut.finish()
    answer_failed(data)
    assert min(answer_tokens(data)) >= 0


def _seeds(table: str) -> tuple[bytes, ...]:
    return tuple(case.send for case in load(table) if len(case.send) <= _LONGEST_SEED)


_REQUESTS = _seeds("requests.yaml")
_HTTP_WORDS = (
    b"\r\n", b"\r", b"\n", b"\r\n\r\n", b" ", b"\t", b":", b"\x0b", b"\0", b"chunked",
    b"Transfer-Encoding: chunked\r\n", b"_", b"+5",
    b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Connection: close\r\n", b"Connection: Content-Length\r\n",
    b"Host: a\r\n", b"HTTP/1.0", b"HTTP/1.1", b"POST / HTTP/1.1\r\n", b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n", b",",
    b"0\r\n\r\n", b"5\r\nhello\r\n", b";", b"\xc2\xb2", b"Expect: 100-continue\r\n", b"Upgrade: h2c\r\n",
)  # fmt: skip
_JSON_WORDS = (
    b"{", b"}", b"[", b"]", b'"model"', b'"\\u006dodel"', b'"stream"', b":", b",", b'"m1"', b"true", b"null", b"1e999",
    b"\\ud800", b"\xff", b"NaN", b"\0", b"\xef\xbb\xbf", b"\\", b'"',
)  # fmt: skip
_EVENT_WORDS = (
    b"data: ", b"data: [DONE]\n\n", b'data: {"error":{}}\n\n', b'"finish_reason":"abort"', b"\r", b"\n",
    b"\r\n", b"\n\n", b":", b"event: x\n", b"id: 1\n", b"\xef\xbb\xbf", b"\0", b'"completion_tokens": 7', b'"usage"',
)  # fmt: skip
HTTP_TARGETS: dict[str, Target] = {
    "request": Target(_request, _REQUESTS, _HTTP_WORDS),
    "answer": Target(_answer, _seeds("answers.yaml"), (*_HTTP_WORDS, b"HTTP/1.1 100 Continue\r\n\r\n", b"304", b"204")),
    "chunks": Target(
        _chunks, (b"5\r\nhello\r\n0\r\n\r\n", b"a;x=y\r\n0123456789\r\n0\r\nX: y\r\n\r\nGET"), _HTTP_WORDS
    ),
    "connection": Target(_connection, _REQUESTS, _HTTP_WORDS),
    "json": Target(_json, _seeds("bodies.yaml"), _JSON_WORDS),
    "events": Target(_events, _seeds("events.yaml"), _EVENT_WORDS),
}
