"""Heads of answers, exact bytes: what may be passed on, what is refused."""

from __future__ import annotations

import pytest

from flexinfer.proxy.answerhead import AnswerReader, BadAnswer

END = b"\r\n"
OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("raw", "facts"),
    [
        pytest.param(OK + END, {"status": 200, "status_line": b"HTTP/1.1 200 OK", "content_length": -1}, id="plain"),
        pytest.param(b"HTTP/1.1 200\r\n\r\n", {"status_line": b"HTTP/1.1 200 "}, id="no reason"),
        pytest.param(
            b"HTTP/1.0 200 OK\r\n\r\n", {"status_line": b"HTTP/1.1 200 OK", "keep_alive": False}, id="HTTP/1.0"
        ),
        pytest.param(OK + b"Connection: close\r\n" + END, {"keep_alive": False, "fields": []}, id="close"),
        pytest.param(OK + b"Content-Length: 5\r\n" + END, {"content_length": 5}, id="a length"),
        pytest.param(OK + b"Transfer-Encoding: chunked\r\n" + END, {"chunked": True, "fields": []}, id="chunked"),
        pytest.param(
            OK + b"Content-Type: Text/Event-Stream\r\n" + END, {"content_type": b"text/event-stream"}, id="type"
        ),
        pytest.param(OK + b"Content-Encoding: gzip\r\n" + END, {"encoded": True}, id="a coding"),
        pytest.param(b"HTTP/1.1 304 x\r\nContent-Length: 5\r\n\r\n", {"status": 304}, id="304 with a length"),
        pytest.param(OK + b"X-Request-ID: theirs\r\nServer: x\r\n" + END, {"fields": [b"Server: x"]}, id="their id"),
    ],
)
def test_answers_that_may_be_passed_on(raw, facts):
    head = AnswerReader().read(raw)
    assert {name: getattr(head, name) for name in facts} == facts


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"HTTP/2 200 OK\r\n\r\n", id="HTTP/2"),
        pytest.param(b"HTTP/1.1 2000 OK\r\n\r\n", id="four digits"),
        pytest.param(b"HTTP/1.1 600 OK\r\n\r\n", id="status 600"),
        pytest.param(b"HTTP/1.1 20 OK\r\n\r\n", id="two digits"),
        pytest.param(b"HTTP/1.1  200 OK\r\n\r\n", id="two spaces"),
        pytest.param(b"ICY 200 OK\r\n\r\n", id="another protocol"),
        pytest.param(b"HTTP/1.1 200 O\nK\r\n\r\n", id="a bare LF in the reason"),
        pytest.param(OK + b"X: a\nY: b\r\n" + END, id="a bare LF"),
        pytest.param(OK + b"X: a\rY: b\r\n" + END, id="a bare CR"),
        pytest.param(OK + b"X: a\r\n b\r\n" + END, id="a folded line"),
        pytest.param(OK + b"X : a\r\n" + END, id="a space before the colon"),
        pytest.param(OK + b"X: \x00\r\n" + END, id="a NUL"),
        pytest.param(OK + b"Content-Length: 5\r\nContent-Length: 6\r\n" + END, id="two lengths"),
        pytest.param(OK + b"Content-Length: 5\r\nContent-Length: 5\r\n" + END, id="two equal lengths"),
        pytest.param(OK + b"Content-Length: -5\r\n" + END, id="a negative length"),
        pytest.param(OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n" + END, id="length and coding"),
        pytest.param(OK + b"Transfer-Encoding: gzip, chunked\r\n" + END, id="gzip before chunked"),
        pytest.param(OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n" + END, id="chunked twice"),
        pytest.param(b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", id="chunked in HTTP/1.0"),
        pytest.param(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n", id="a switch of protocols"),
        pytest.param(b"HTTP/1.1 100 Continue\r\nContent-Length: 5\r\n\r\n", id="an interim answer with a body"),
        pytest.param(b"HTTP/1.1 204 x\r\nContent-Length: 5\r\n\r\n", id="204 with a body"),
        pytest.param(OK + b"".join(b"X-%d: y\r\n" % n for n in range(300)) + END, id="300 fields"),
        pytest.param(OK + b"Connection: a b\r\n" + END, id="an invalid Connection"),
    ],
)
def test_answers_that_are_refused(raw):
    for _ in range(2):
        with pytest.raises(BadAnswer):
            AnswerReader().read(raw)
