"""The events of a streamed answer, as the client reads them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import click
import pytest

from flexinfer.cli import chat


async def lines(*found: bytes) -> AsyncIterator[bytes]:
    for line in found:
        yield line


async def test_events_are_the_data_lines_before_done():
    stream = lines(
        b": ping\n", b"\n", b'data: {"a":1}\n', b"\n", b"event: error\n", b'data: {"b":2}\n', b"data: [DONE]\n"
    )
    assert [event async for event in chat.events(stream)] == [{"a": 1}, {"b": 2}]


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b"data: {oops\n", id="no JSON"),
        pytest.param(b'data: {"a":"\xff"}\n', id="no UTF-8"),
        pytest.param(b"data: [1]\n", id="no object"),
        pytest.param(b"data: " + b"[" * 100_000 + b"\n", id="a hundred thousand brackets"),
    ],
)
async def test_an_event_that_cannot_be_read_is_told(line):
    with pytest.raises(click.ClickException, match="the answer broke off: no JSON"):
        [event async for event in chat.events(lines(line))]
