from __future__ import annotations

import pytest

from flexinfer.openai.sse import Event, Reader, StreamEnd, StreamWatch, answer_tokens


@pytest.mark.parametrize(
    ("text", "events"),
    [
        pytest.param(b"data: a\n\n", [Event(b"a")], id="LF"),
        pytest.param(b"data: a\r\n\r\n", [Event(b"a")], id="CRLF"),
        pytest.param(b"data: a\r\r", [Event(b"a")], id="CR"),
        pytest.param(b"data:a\n\n", [Event(b"a")], id="no space"),
        pytest.param(b"data:  a\n\n", [Event(b" a")], id="one space is dropped"),
        pytest.param(b"data: a\ndata: b\n\n", [Event(b"a\nb")], id="two data lines"),
        pytest.param(b"data\n\n", [Event(b"")], id="data without colon"),
        pytest.param(b": ping\n\n", [], id="a comment is no event"),
        pytest.param(b"event: x\n\n", [], id="an event without data is none"),
        pytest.param(b"event: x\ndata: a\n\ndata: b\n\n", [Event(b"a", b"x"), Event(b"b")], id="a name holds once"),
        pytest.param(b"id: 7\ndata: a\n\ndata: b\n\n", [Event(b"a", b"", b"7"), Event(b"b", b"", b"7")], id="ids stay"),
        pytest.param(b"\xef\xbb\xbfdata: a\n\n", [Event(b"a")], id="a byte order mark"),
        pytest.param(
            b"data: \xe2\x80\xa8a\x0b\x85\n\n", [Event(b"\xe2\x80\xa8a\x0b\x85")], id="other line ends are text"
        ),
        pytest.param(b"data: a\n", [], id="an unfinished event is none"),
        pytest.param(b"data: a\ndata: [DONE]\n\n", [Event(b"a\n[DONE]")], id="DONE inside an event is text"),
    ],
)
def test_reader(text, events):
    assert Reader().feed(text) == events
    reader = Reader()
    assert [e for i in range(len(text)) for e in reader.feed(text[i : i + 1])] == events


def test_a_long_event_is_cut_and_marked():
    events = Reader(max_event_bytes=10).feed(b"data: " + b"x" * 100 + b"\n\ndata: ok\n\n")
    assert events == [Event(b"xxxx", truncated=True), Event(b"ok")]


TOKEN = b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"completion_tokens":42}}\n\n'
ABORT = b'data: {"choices":[{"finish_reason":"abort"}]}\n\n'
ERROR = b'data: {"error":{"message":"boom"}}\n\n'
DONE = b"data: [DONE]\n\n"


@pytest.mark.parametrize(
    ("stream", "end"),
    [
        pytest.param(TOKEN * 3 + DONE, StreamEnd(True, False, False, 3), id="a good end"),
        pytest.param(TOKEN * 100 + DONE, StreamEnd(True, False, False, 100), id="more than one batch"),
        pytest.param(TOKEN * 3 + USAGE + DONE, StreamEnd(True, False, False, 42), id="the engine's own count"),
        pytest.param(
            TOKEN + b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":1}}\n\n' + DONE,
            StreamEnd(True, False, False, 1, 9),
            id="the prompt's tokens too",
        ),
        pytest.param(
            TOKEN + b'data: {"usage":{"prompt_tokens":-9,"completion_tokens":1%b}}\n\n' % (b"0" * 400) + DONE,
            StreamEnd(True, False, False, 2),
            id="counts that cannot be",
        ),
        pytest.param(TOKEN * 3, StreamEnd(False, False, False, 3), id="no DONE"),
        pytest.param(b"", StreamEnd(False, False, False, 0), id="nothing at all"),
        pytest.param(TOKEN + ABORT + DONE, StreamEnd(True, False, True, 2), id="an abort"),
        pytest.param(TOKEN + ERROR + DONE, StreamEnd(True, True, False, 2), id="an error, then DONE"),
        pytest.param(ERROR + TOKEN * 50 + DONE, StreamEnd(True, True, False, 51), id="an early error is not forgotten"),
        pytest.param(TOKEN + ERROR, StreamEnd(False, True, False, 2), id="an error and no DONE"),
        pytest.param(
            b'data: {"choices":[{"delta":{"content":"data: [DONE]"}}]}\n\n',
            StreamEnd(False, False, False, 1),
            id="text that looks like DONE",
        ),
        pytest.param(
            b'data: {"choices":[{"delta":{"content":"\\"error\\""}}]}\n\n' + DONE,
            StreamEnd(True, False, False, 1),
            id="text that looks like an error",
        ),
        pytest.param(
            b'data: {"error":null,"choices":[]}\n\n' + DONE, StreamEnd(True, False, False, 1), id="an error of null"
        ),
        pytest.param(
            (TOKEN * 3 + USAGE + DONE).replace(b"\n", b"\r\n"), StreamEnd(True, False, False, 42), id="CRLF line ends"
        ),
        pytest.param(b": ping\n\n" + TOKEN + b": ping\n\n" + DONE, StreamEnd(True, False, False, 1), id="comments"),
        pytest.param(
            b'data: {"error":{"message":"\xff"}}\n\n' + DONE,
            StreamEnd(True, True, False, 1),
            id="an error that is no UTF-8",
        ),
        pytest.param(
            TOKEN + b'data: {"\xff":1}\n\n' + DONE, StreamEnd(True, False, False, 2), id="an event that is no UTF-8"
        ),
        pytest.param(DONE + TOKEN, StreamEnd(False, False, False, 2), id="DONE is the last event or none"),
        pytest.param(TOKEN + DONE[:-1], StreamEnd(False, False, False, 1), id="a DONE cut short"),
    ],
)
def test_watch_tells_how_a_stream_ended_whatever_the_split(stream, end):
    for step in (len(stream) or 1, 1, 7, 47, 48, 1000):
        watch = StreamWatch()
        for at in range(0, len(stream), step):
            watch.feed(stream[at : at + step])
        assert watch.finish() == end


def test_watch_knows_whether_an_event_may_follow():
    watch = StreamWatch()
    assert watch.whole
    watch.feed(TOKEN)
    assert watch.whole
    watch.feed(TOKEN[:10])
    assert not watch.whole
    watch.feed(TOKEN[10:])
    assert watch.whole


@pytest.mark.parametrize(
    ("tail", "tokens"),
    [
        pytest.param(b'..."usage":{"completion_tokens":12,"prompt_tokens":3}}', (3, 12), id="in the usage"),
        pytest.param(b'"completion_tokens" : 7 }', (0, 7), id="with spaces"),
        pytest.param(b'"completion_tokens":null,"prompt_tokens":null}', (0, 0), id="null"),
        pytest.param(b'"prompt_tokens":5,"prompt_tokens_details":{"cached_tokens":4}}', (5, 0), id="no output"),
        pytest.param(b'{"content":"\\"completion_tokens\\":9"}', (0, 0), id="in a text"),
        pytest.param(b"", (0, 0), id="nothing"),
    ],
)
def test_tokens_of_an_answer(tail, tokens):
    assert answer_tokens(tail) == tokens
