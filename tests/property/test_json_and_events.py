"""JSON bodies and streams of events: read as other readers read them, and the same in every split."""

from __future__ import annotations

import json

from hypothesis import strategies as st
from tests.support.http_cases import load
from tests.support.wire import cuts, every, splits

from flexinfer.errors import RequestError
from flexinfer.openai.request import parse, replace_model
from flexinfer.openai.sse import Reader, StreamWatch

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


@every(st.lists(st.tuples(keys, values, gaps), max_size=6), st.text(min_size=1, max_size=8), st.text(max_size=8))
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


json_shards = st.lists(
    st.sampled_from(
        [b"{", b"}", b"[", b"]", b'"model"', b'"\\u006dodel"', b'"stream"', b":", b",", b'"m1"', b"true", b"null", b"1",
         b"-", b"1e5", b"0", b".", b'"', b"\\", b"\\ud800", b"\xc3\xbc", b"\xff", b" ", b"\n", b"NaN", b"\x00",
         b"\xef\xbb\xbf", b'{"model":"m1"', b',"stream":false']
    ),
    max_size=12,
).map(b"".join)  # fmt: skip


@every(st.one_of(st.binary(max_size=60), json_shards, json_shards.map(lambda t: b'{"model":"m1"' + t + b"}")))
def test_any_bytes_are_what_json_says_or_one_documented_answer(body):
    code = ""
    try:
        request = parse(body)
    except RequestError as refusal:
        code = refusal.code
    if code:
        assert code in ("invalid_request_body", "missing_required_field")
    else:
        read = json.loads(body)
        assert (request.model, request.stream) == (read["model"], read.get("stream"))


# event streams

texts = st.lists(
    st.sampled_from(
        [b"data: a", b"data:", b"data: [DONE]", b": ping", b"event: x", b"id: 1", b"\n", b"\r", b"\r\n", b"\n\n", b"",
         b'data: {"error":{}}', b'data: {"choices":[{"finish_reason":"abort"}]}', b'data: {"choices":[]}\n\n',
         b"\xef\xbb\xbf", b"data", b"retry: 1", b"\x00", b"\xc3\xa9", b"\xe2\x80\xa8"]
    ),
    max_size=20,
).map(b"".join)  # fmt: skip


@every(st.one_of(texts, st.sampled_from([case.send for case in load("events.yaml")])), cuts)
def test_events_and_ends_are_the_same_in_any_split(text, at):
    events = Reader().feed(text)
    whole = StreamWatch()
    whole.feed(text)
    for split in splits(text, at):
        reader, watch = Reader(), StreamWatch()
        assert [event for piece in split for event in reader.feed(piece)] == events
        for piece in split:
            watch.feed(piece)
        assert (watch.finish(), watch.whole, watch.events) == (whole.finish(), whole.whole, whole.events)
        assert watch.finish().output_tokens >= 0


@every(texts)
def test_events_are_what_the_standard_says(text):
    assert [(e.event, e.data) for e in Reader().feed(text)] == _by_the_standard(text)


def _by_the_standard(text: bytes) -> list[tuple[bytes, bytes]]:
    """HTML, "Interpreting an event stream", word by word, over the whole text at once."""
    text = text.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    events: list[tuple[bytes, bytes]] = []
    data, kind = b"", b""
    for line in text.split(b"\n")[:-1]:
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if not line:
            if data:
                events.append((kind, data[:-1]))
            data, kind = b"", b""
        elif field == b"data":
            data += value + b"\n"
        elif field == b"event":
            kind = value
    return events
