"""Heads of requests, exact bytes: what may be acted on, what is refused and why."""

from __future__ import annotations

import pytest

from flexinfer.errors import RequestError
from flexinfer.proxy.requesthead import RequestReader

LINE = b"POST /v1/completions HTTP/1.1\r\n"
HOST = b"Host: a\r\n"
END = b"\r\n"


def head_of(raw: bytes, max_fields: int = 100):
    return RequestReader(max_fields).read(raw)


@pytest.mark.parametrize(
    ("raw", "facts"),
    [
        pytest.param(LINE + HOST + END, {"method": b"POST", "target": b"/v1/completions", "minor": 1}, id="plain"),
        pytest.param(LINE + HOST + b"Content-Length: 5\r\n" + END, {"content_length": 5}, id="a length"),
        pytest.param(LINE + HOST + b"content-length:0005 \t\r\n" + END, {"content_length": 5}, id="space around it"),
        pytest.param(LINE + HOST + b"Transfer-Encoding: CHUNKED\r\n" + END, {"chunked": True}, id="chunked, any case"),
        pytest.param(LINE + HOST + b"Connection: close\r\n" + END, {"keep_alive": False}, id="close"),
        pytest.param(LINE + HOST + b"Connection: Keep-Alive, x\r\n" + END, {"keep_alive": True}, id="keep-alive"),
        pytest.param(
            LINE + HOST + b"Connection: a\r\nConnection: close\r\n" + END, {"keep_alive": False}, id="two lists"
        ),
        pytest.param(b"GET / HTTP/1.0\r\n\r\n", {"keep_alive": False, "host": None}, id="HTTP/1.0 without Host"),
        pytest.param(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", {"keep_alive": True}, id="HTTP/1.0 kept"),
        pytest.param(LINE + HOST + b"Expect: 100-Continue\r\n" + END, {"expects_continue": True}, id="expectation"),
        pytest.param(b"GET http://b/x?y HTTP/1.1\r\nHost: a\r\n\r\n", {"target": b"/x?y"}, id="absolute form"),
        pytest.param(b"GET HTTP://b HTTP/1.1\r\nHost: a\r\n\r\n", {"target": b"/"}, id="absolute form without path"),
        pytest.param(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", {"target": b"*"}, id="asterisk form"),
        pytest.param(LINE + b"Host: [::1]:8080\r\n" + END, {"host": b"[::1]:8080"}, id="an IPv6 host"),
        pytest.param(LINE + b"Host: my_host:80\r\n" + END, {"host": b"my_host:80"}, id="an underscore in the host"),
        pytest.param(LINE + HOST + b"X: \xff\xfe\r\n" + END, {"fields": [b"X: \xff\xfe"]}, id="bytes above ASCII"),
        pytest.param(LINE + HOST + b"X:\r\n" + END, {"fields": [b"X:"]}, id="an empty value"),
        pytest.param(
            LINE + HOST + b"Connection: X-Hop\r\nX-Hop: 1\r\nX-End: 2\r\n" + END,
            {"fields": [b"X-End: 2"]},
            id="a field that Connection names is not passed on",
        ),
        pytest.param(
            LINE
            + HOST
            + b"TE: trailers\r\nUpgrade: h2c\r\nKeep-Alive: 5\r\nTrailer: x\r\nProxy-Authorization: y\r\n"
            + END,
            {"fields": [], "upgrade": True},
            id="hop-by-hop fields are not passed on",
        ),
        pytest.param(
            LINE + HOST + b"Authorization: Bearer k\r\n" + END,
            {"fields": [], "authorization": (b"Bearer k",)},
            id="the client's key is not passed on",
        ),
        pytest.param(
            LINE + HOST + b"Connection: Content-Length, Authorization, Host\r\nContent-Length: 5\r\n" + END,
            {"content_length": 5, "host": b"a"},
            id="Connection cannot take the framing away",
        ),
    ],
)
def test_heads_that_may_be_acted_on(raw, facts):
    head = head_of(raw)
    assert {name: getattr(head, name) for name in facts} == facts


FRAMING = [
    (b"Content-Length: +58", "a plus sign"),
    (b"Content-Length: -1", "a minus sign"),
    (b"Content-Length: 5_8", "an underscore"),
    (b"Content-Length: 0x3a", "hexadecimal"),
    (b"Content-Length: 58.0", "a fraction"),
    (b"Content-Length: 5 8", "an inner space"),
    (b"Content-Length: 58,", "a comma"),
    (b"Content-Length: 58, 58", "a list"),
    (b"Content-Length: \xd9\xa5\xd9\xa8", "Arabic digits"),
    (b"Content-Length: \xb2", "a superscript"),
    (b"Content-Length:", "an empty length"),
    (b"Content-Length: " + b"9" * 5000, "5,000 digits"),
    (b"Content-Length: 18446744073709551674", "more than 64 bits"),
    (b"Content-Length: 5\r\nContent-Length: 5", "two equal lengths"),
    (b"Content-Length: 5\r\nContent-Length: 6", "two lengths"),
    (b"Content-Length: 5\r\ncontent-length: 0", "two lengths in two cases"),
    (b"Content-Length: 5\r\nTransfer-Encoding: chunked", "length, then coding"),
    (b"Transfer-Encoding: chunked\r\nContent-Length: 5", "coding, then length"),
    (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "chunked twice"),
    (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", "chunked and identity"),
    (b"Transfer-Encoding: identity", "identity"),
    (b"Transfer-Encoding: gzip, chunked", "gzip before chunked"),
    (b"Transfer-Encoding: chunked, gzip", "gzip after chunked"),
    (b"Transfer-Encoding: xchunked", "a longer name"),
    (b"Transfer-Encoding: chunked;q=1", "a parameter"),
    (b'Transfer-Encoding: "chunked"', "quotes"),
    (b"Transfer-Encoding: , chunked", "an empty element"),
    (b"Transfer-Encoding:", "an empty coding"),
    (b"Transfer-Encoding: \x0bchunked", "a vertical tab"),
    (b"Transfer-Encoding: chun\xe2\x84\xaaed", "a Kelvin sign"),
    (b"Transfer-Encoding:\xa0chunked", "a non-breaking space"),
    (b"Transfer-Encoding : chunked", "a space before the colon"),
    (b"Transfer-Encoding\t: chunked", "a tab before the colon"),
    (b" Transfer-Encoding: chunked", "a space before the name"),
    (b"X: y\r\n Transfer-Encoding: chunked", "a folded line"),
    (b"X: y\r\n\tz", "a line folded by a tab"),
    (b"Transfer-Encoding:\r\n chunked", "a folded coding"),
    (b"X: y\nTransfer-Encoding: chunked", "a bare LF"),
    (b"X: y\rTransfer-Encoding: chunked", "a bare CR"),
    (b"X: a\x00b", "a NUL in a value"),
    (b"X\x00: a", "a NUL in a name"),
    (b"X: a\x08b", "a control character"),
    (b"X: a\x7f", "DEL"),
    (b"NoColon", "no colon"),
    (b": value", "no name"),
    (b"X(: value", "a parenthesis in a name"),
    (b"X\xc3\xbc: value", "a letter above ASCII in a name"),
    (b"Host: b", "a second host"),
    (b"Expect: 200-ok", "an unknown expectation"),
    (b"Connection: a b", "an invalid Connection"),
    (b"Connection: a,b,c,d,e,f,g,h,i,j,k", "eleven options in Connection"),
    (b"Content-Type: application/json\r\nContent-Type: text/plain", "two content types"),
    (b"Origin: a\r\nOrigin: b", "two origins"),
]


@pytest.mark.parametrize("field", [pytest.param(raw, id=name) for raw, name in FRAMING])
def test_fields_that_are_refused(field):
    with pytest.raises(RequestError) as refusal:
        head_of(LINE + HOST + field + b"\r\n" + END)
    assert (refusal.value.status, refusal.value.code) == (400, "bad_request")


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"POST  / HTTP/1.1\r\nHost: a\r\n\r\n", id="two spaces"),
        pytest.param(b"POST\t/ HTTP/1.1\r\nHost: a\r\n\r\n", id="a tab"),
        pytest.param(b" POST / HTTP/1.1\r\nHost: a\r\n\r\n", id="a leading space"),
        pytest.param(b"POST / HTTP/1.1 \r\nHost: a\r\n\r\n", id="a trailing space"),
        pytest.param(b"POST /\r\n\r\n", id="HTTP/0.9"),
        pytest.param(b"POST / HTTP/2.0\r\nHost: a\r\n\r\n", id="HTTP/2.0"),
        pytest.param(b"POST / HTTP/1.2\r\nHost: a\r\n\r\n", id="HTTP/1.2"),
        pytest.param(b"POST / HTTP/11\r\nHost: a\r\n\r\n", id="no dot in the version"),
        pytest.param(b"POST / http/1.1\r\nHost: a\r\n\r\n", id="the version in lower case"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\n", id="the preface of HTTP/2"),
        pytest.param(b"post / HTTP/1.1\r\nHost: a\r\n\r\n", id="a method in lower case"),
        pytest.param(b"P\xc3\x96ST / HTTP/1.1\r\nHost: a\r\n\r\n", id="a method above ASCII"),
        pytest.param(b"POST / x HTTP/1.1\r\nHost: a\r\n\r\n", id="a space in the target"),
        pytest.param(b"POST /\x00 HTTP/1.1\r\nHost: a\r\n\r\n", id="a NUL in the target"),
        pytest.param(b"POST /\xc3\xbc HTTP/1.1\r\nHost: a\r\n\r\n", id="a letter above ASCII in the target"),
        pytest.param(b"POST /# HTTP/1.1\r\nHost: a\r\n\r\n", id="a fragment"),
        pytest.param(b"POST x HTTP/1.1\r\nHost: a\r\n\r\n", id="a target without slash"),
        pytest.param(b"POST * HTTP/1.1\r\nHost: a\r\n\r\n", id="an asterisk for POST"),
        pytest.param(b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", id="CONNECT"),
        pytest.param(b"POST ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", id="another scheme"),
        pytest.param(b"POST http:///x HTTP/1.1\r\nHost: a\r\n\r\n", id="an absolute form without a host"),
        pytest.param(b"POST http://u@b/x HTTP/1.1\r\nHost: a\r\n\r\n", id="a user in the absolute form"),
        pytest.param(b"POST / HTTP/1.1\r\n\r\n", id="no host"),
        pytest.param(b"POST / HTTP/1.1\r\nHost:\r\n\r\n", id="an empty host"),
        pytest.param(b"POST / HTTP/1.1\r\nHost: a/v1\r\n\r\n", id="a path in the host"),
        pytest.param(b"POST / HTTP/1.1\r\nHost: u@a\r\n\r\n", id="a user in the host"),
        pytest.param(b"POST / HTTP/1.1\r\nHost: [::1\r\n\r\n", id="an open bracket in the host"),
        pytest.param(b"POST / HTTP/1.1\r\nHost: a:80x\r\n\r\n", id="a port that is no number"),
        pytest.param(b"POST / HTTP/1.1\r\nHost: a b\r\n\r\n", id="a space in the host"),
        pytest.param(b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", id="chunked in HTTP/1.0"),
    ],
)
def test_request_lines_and_hosts_that_are_refused(raw):
    with pytest.raises(RequestError) as refusal:
        head_of(raw)
    assert (refusal.value.status, refusal.value.code) == (400, "bad_request")


def test_too_many_fields():
    fields = b"".join(b"X-%d: y\r\n" % n for n in range(100))
    assert len(head_of(LINE + HOST + fields + END, 101).fields) == 100
    with pytest.raises(RequestError) as refusal:
        head_of(LINE + HOST + fields + END, 100)
    assert (refusal.value.status, refusal.value.code) == (431, "headers_too_large")


def test_a_line_that_was_read_before_is_read_the_same_way_again():
    reader = RequestReader(100)
    raw = LINE + HOST + b"Content-Length: 5\r\nConnection: X-A\r\nX-A: 1\r\nX-B: 2\r\n" + END
    first, second = reader.read(raw), reader.read(raw)
    assert {n: getattr(first, n) for n in first.__slots__} == {n: getattr(second, n) for n in second.__slots__}
    for bad in (b"Content-Length: 5x", b"Host: a b", b"X-A : 1"):
        for _ in range(2):
            with pytest.raises(RequestError):
                reader.read(LINE + HOST + bad + b"\r\n" + END)


def test_secrets_are_not_remembered():
    reader = RequestReader(100)
    reader.read(LINE + HOST + b"Authorization: Bearer s3cret\r\nCookie: s3cret\r\nX-Request-ID: s3cret\r\n" + END)
    assert not [line for line in reader._lines.seen if b"s3cret" in line]


def test_the_memory_for_lines_is_bounded():
    reader = RequestReader(100)
    for n in range(5000):
        reader.read(LINE + HOST + b"X: %d\r\n" % n + END)
    assert len(reader._lines.seen) <= 2048
