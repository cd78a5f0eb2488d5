"""What leaves when: at the end of the turn, or at once, and always in the order it was written."""

from __future__ import annotations

import pytest
from tests.manual_clock import ManualClock
from tests.support.wire import Pipe, Turns

from flexinfer.proxy.outgoing import FEW, Sender, Turn

LARGE = b"x" * 20_000


@pytest.mark.parametrize(
    ("steps", "during", "after"),
    [
        pytest.param([("soon", b"a")], b"", b"a", id="a whole answer waits for the end of the turn"),
        pytest.param([("now", b"a")], b"a", b"a", id="an event of a stream does not"),
        pytest.param([("soon", b"a"), ("now", b"b")], b"ab", b"ab", id="what goes at once takes along what waits"),
        pytest.param([("soon", b"a"), ("soon", b"b")], b"ab", b"ab", id="a second answer takes the first along"),
        pytest.param([("now", b"a"), ("soon", b"b")], b"a", b"ab", id="what waits goes behind what has left"),
        pytest.param([("soon", LARGE)], LARGE, LARGE, id="a large answer does not wait"),
        pytest.param([("soon", b"a"), ("lost", b"")], b"", b"", id="a connection that is lost sends nothing more"),
        pytest.param([("lost", b""), ("soon", b"a"), ("now", b"b")], b"", b"", id="nor does it take anything"),
    ],
)  # fmt: skip
def test_order_and_time(steps, during, after):
    pipe, turns = Pipe(), Turns(ManualClock())
    turn = Turn()
    turn.under_way = FEW
    sender = Sender(turn)
    sender.transport = pipe
    with turns.one():
        for what, data in steps:
            if what == "lost":
                sender.transport = None
            else:
                {"soon": sender.write_soon, "now": sender.write}[what](data)
        seen = bytes(pipe.out)
    assert (seen, bytes(pipe.out)) == (during, after)


def test_where_few_ask_nothing_waits():
    pipe, turn = Pipe(), Turn()
    turn.under_way = FEW - 1
    sender = Sender(turn)
    sender.transport = pipe
    sender.write_soon(b"a")
    assert bytes(pipe.out) == b"a"


def test_all_of_a_turn_leave_in_the_order_they_were_written():
    written: list[bytes] = []

    class Noted(Pipe):
        def write(self, data: bytes) -> None:
            written.append(data)

    turn, turns = Turn(), Turns(ManualClock())
    turn.under_way = FEW
    for _ in range(2):  # a turn's end leaves nothing behind for the next
        with turns.one():
            for data in (b"first", b"second", b"third"):
                sender = Sender(turn)
                sender.transport = Noted()
                sender.write_soon(data)
    assert written == [b"first", b"second", b"third"] * 2
