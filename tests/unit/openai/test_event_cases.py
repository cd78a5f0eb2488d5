"""Streams of exact bytes, in every split into two and byte by byte: the same events and the same end."""

from __future__ import annotations

import pytest
from tests.support.http_cases import Case, load

from flexinfer.openai.sse import Event, Reader, StreamWatch

CASES = load("events.yaml")


def test_there_are_enough_of_them():
    assert len(CASES) >= 40


def _events(case: Case) -> list[Event]:
    told = case.more["events"]
    if case.more.get("one_letter_each"):
        return [Event(b"a")] * 100
    fields = [[text, "", ""] if isinstance(text, str) else text for text in told]
    return [Event(*(part.encode("latin-1") for part in each)) for each in fields]


@pytest.mark.parametrize("case", [pytest.param(case, id=case.id) for case in CASES])
def test_stream(case: Case):
    text, events = case.send, _events(case)
    splits = [[text], [bytes((byte,)) for byte in text], *([text[:at], text[at:]] for at in range(min(len(text), 200)))]
    for pieces in splits:
        reader, watch = Reader(), StreamWatch()
        assert [event for piece in pieces for event in reader.feed(piece)] == events
        for piece in pieces:
            watch.feed(piece)
        assert watch.finish().failure == ("" if case.gets == "whole" else case.gets)
