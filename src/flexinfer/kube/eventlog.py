"""The last events of one kind, and any number of readers that follow them.

Readers keep a position, not a queue: the memory of a slow one is bounded by the log, and it is told
`Gone` as soon as the event it would read next has been dropped.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import deque
from collections.abc import AsyncGenerator
from typing import NamedTuple

from flexinfer.errors import Gone
from flexinfer.kube.store import Object, WatchEvent


class Entry(NamedTuple):
    version: int
    event: WatchEvent
    previous: Object | None
    """The object before the event."""


class EventLog:
    def __init__(self, *, history: int, version: int) -> None:
        """`version` is the newest one that this log has no event for."""
        self._entries: deque[Entry] = deque()
        self._history = history
        self._dropped = 0
        self._oldest_version = version
        self._readers: set[asyncio.Event] = set()

    def __len__(self) -> int:
        """Events that are kept."""
        return len(self._entries)

    @property
    def readers(self) -> int:
        return len(self._readers)

    def append(self, version: int, event: WatchEvent, previous: Object | None) -> None:
        self._entries.append(Entry(version, event, previous))
        if len(self._entries) > self._history:
            self._oldest_version = self._entries.popleft().version
            self._dropped += 1
        for wake in self._readers:
            wake.set()

    async def follow(self, version: int) -> AsyncGenerator[Entry, None]:
        """Entries after `version`, for ever. Raises Gone when one of them has been dropped."""
        if version < self._oldest_version:
            raise Gone(f"too old resource version: {version} ({self._oldest_version})")
        position = self._dropped + bisect_right(self._entries, version, key=lambda entry: entry.version)
        wake = asyncio.Event()
        self._readers.add(wake)
        try:
            while True:
                while position < self._dropped + len(self._entries):
                    if position < self._dropped:
                        raise Gone(f"the watch fell {self._dropped - position} events behind")
                    entry = self._entries[position - self._dropped]
                    position += 1
                    yield entry
                wake.clear()
                await wake.wait()
        finally:
            self._readers.discard(wake)
