"""Chunked bodies, exact bytes, in several splits: payload and tail, or a refusal."""

from __future__ import annotations

import pytest

from flexinfer.proxy.chunks import BadChunk, ChunkReader


def read_chunks(raw: bytes, step: int) -> tuple[bytes, bytes, ChunkReader]:
    """Payload, bytes passed on, and the reader after it, fed `step` bytes at a time."""
    reader = ChunkReader()
    payload = passed = b""
    for at in range(0, len(raw), step):
        payload += reader.feed(raw[at : at + step])
        passed += reader.raw
        if reader.done:
            reader.extra += raw[at + step :]
            break
    return payload, passed, reader


@pytest.mark.parametrize(
    ("raw", "payload", "tail", "extra"),
    [
        pytest.param(b"5\r\nhello\r\n0\r\n\r\n", b"hello", b"0\r\n\r\n", b"", id="one chunk"),
        pytest.param(b"5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n", b"hello!", b"0\r\n\r\n", b"", id="two chunks"),
        pytest.param(b"0\r\n\r\n", b"", b"0\r\n\r\n", b"", id="no chunk"),
        pytest.param(b"000\r\n\r\n", b"", b"000\r\n\r\n", b"", id="three zeros"),
        pytest.param(b"A\r\n0123456789\r\n0\r\n\r\n", b"0123456789", b"0\r\n\r\n", b"", id="an upper-case size"),
        pytest.param(b"05;x=y\r\nhello\r\n0\r\n\r\n", b"hello", b"0\r\n\r\n", b"", id="an extension"),
        pytest.param(b"5\r\nhello\r\n0\r\nX: y\r\n\r\n", b"hello", b"0\r\nX: y\r\n\r\n", b"", id="a trailer"),
        pytest.param(b"2\r\n\r\n\r\n0\r\n\r\n", b"\r\n", b"0\r\n\r\n", b"", id="line ends as data"),
        pytest.param(b"0\r\n\r\nGET / HTTP/1.1", b"", b"0\r\n\r\n", b"GET / HTTP/1.1", id="more behind it"),
        pytest.param(b"7d0\r\n" + b"x" * 2000 + b"\r\n0\r\n\r\n", b"x" * 2000, b"0\r\n\r\n", b"", id="a size of 2,000"),
        pytest.param(b"bb8\r\n" + b"x" * 3000 + b"\r\n0\r\n\r\n", b"x" * 3000, b"0\r\n\r\n", b"", id="a size of 3,000"),
    ],
)
def test_chunked_bodies(raw, payload, tail, extra):
    for step in (len(raw), 1, 2, 3, 5, 1000):
        got, passed, reader = read_chunks(raw, step)
        assert (got, reader.done, reader.tail, reader.extra) == (payload, True, tail, extra)
        assert passed + tail + extra == raw


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"0x5\r\nhello\r\n", id="0x"),
        pytest.param(b"+5\r\nhello\r\n", id="a plus sign"),
        pytest.param(b"-5\r\nhello\r\n", id="a minus sign"),
        pytest.param(b"5_0\r\nhello\r\n", id="an underscore"),
        pytest.param(b" 5\r\nhello\r\n", id="a leading space"),
        pytest.param(b"5 \r\nhello\r\n", id="a trailing space"),
        pytest.param(b"5\nhello\r\n", id="a bare LF after the size"),
        pytest.param(b"5\rhello\r\n", id="a bare CR after the size"),
        pytest.param(b"\r\nhello\r\n", id="no size"),
        pytest.param(b"g\r\nhello\r\n", id="no hexadecimal"),
        pytest.param(b"ffffffffffffffff5\r\nhello\r\n", id="a size that overflows"),
        pytest.param(b"5;a\nb\r\nhello\r\n", id="a LF in an extension"),
        pytest.param(b"5;a\x00b\r\nhello\r\n", id="a NUL in an extension"),
        pytest.param(b"5;" + b"a" * 300 + b"\r\nhello\r\n", id="a long extension"),
        pytest.param(b"5\r\nhelloX\r\n", id="data longer than its size"),
        pytest.param(b"5\r\nhello\n0\r\n\r\n", id="a bare LF after the data"),
        pytest.param(b"5\r\nhello\rX", id="a bare CR after the data"),
        pytest.param(b"0\r\nContent-Length: 5\r\n\r\n", id="a length as trailer"),
        pytest.param(b"0\r\nTransfer-Encoding: chunked\r\n\r\n", id="a coding as trailer"),
        pytest.param(b"0\r\nX : y\r\n\r\n", id="a malformed trailer"),
        pytest.param(b"0\r\nX: y\nZ: a\r\n\r\n", id="a bare LF in a trailer"),
        pytest.param(b"0\r\n" + b"X: " + b"y" * 9000 + b"\r\n", id="a long trailer"),
    ],
)
def test_chunked_bodies_that_are_refused(raw):
    for step in (len(raw), 1, 3):
        with pytest.raises(BadChunk):
            read_chunks(raw, step)


@pytest.mark.parametrize("cut", range(len(b"5\r\nhello\r\nA\r\n0123456789\r\n0\r\n\r\n") - 1))
def test_an_answer_can_be_ended_in_another_way_wherever_it_breaks(cut):
    reader = ChunkReader()
    payload = reader.feed(b"5\r\nhello\r\nA\r\n0123456789\r\n0\r\n\r\n"[:cut])
    passed = reader.raw + reader.close_chunk(0x0A) + b"3\r\nbye\r\n0\r\n\r\n"
    again = ChunkReader()
    text = again.feed(passed)
    assert again.done
    assert text.startswith(payload)
    assert text[len(payload) :].lstrip(b"\n") == b"bye"
