"""Bytes on their way out: requests and whole answers leave together, at the end of the event loop's turn.

A write wakes the process at the other end. Between the work for one request and the next that process
falls asleep again, so that each write pays for a wake-up, a quarter of all CPU under load; of writes
that follow one another only the first does. What would leave alone goes out as it comes: the events of
streams, and everything where few ask.
"""

from __future__ import annotations

import asyncio

_AT_ONCE_BYTES = 16 * 1024
"""More than this does not wait: copying it costs more than waking somebody, and what waits is memory."""
FEW = 4
"""With fewer requests under way a turn hardly ever has two writes, and an end of its own costs more than it saves."""


class Turn:
    """The connections of one server that have something to send at the end of this turn."""

    __slots__ = ("_senders", "under_way")

    def __init__(self) -> None:
        self._senders: list[Sender] = []
        self.under_way = 0
        """Requests that were admitted and have not ended."""

    def add(self, sender: Sender) -> None:
        if not self._senders:
            asyncio.get_running_loop().call_soon(self._end)
        self._senders.append(sender)

    def _end(self) -> None:
        senders, self._senders = self._senders, []
        for sender in senders:
            sender.flush()


class Sender(asyncio.Protocol):
    """A connection. Whatever else is done to its transport has to come behind `flush`."""

    __slots__ = ("_turn", "_unsent", "transport")

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._unsent = b""
        self.transport: asyncio.Transport | None = None

    def write(self, data: bytes) -> None:
        if self._unsent:
            self.flush()
        if self.transport is not None:
            self.transport.write(data)

    def write_soon(self, data: bytes) -> None:
        """By the end of this turn."""
        if self._unsent or self._turn.under_way < FEW or len(data) > _AT_ONCE_BYTES:
            self.write(data)
        elif self.transport is not None:
            self._unsent = data
            self._turn.add(self)

    def flush(self) -> None:
        data = self._unsent
        if data:
            self._unsent = b""
            if self.transport is not None:
                self.transport.write(data)
