"""What a `flexinfer loader fetch` says of itself, line by line, and how far that is. Pure.

Each event is one JSON line; a line that is none (a warning of a library) says nothing.
"""

from __future__ import annotations

import math
from collections import deque

import msgspec

WINDOW_S = 20.0
"""The rate is that of this long."""
MIN_WINDOW_S = 1.0


class Progress(msgspec.Struct, frozen=True, tag_field="event", tag="progress"):
    done: int
    total: int


class Verifying(msgspec.Struct, frozen=True, tag_field="event", tag="verifying"):
    pass


class Done(msgspec.Struct, frozen=True, tag_field="event", tag="done"):
    path: str = ""
    bytes: int = 0


class Failed(msgspec.Struct, frozen=True, tag_field="event", tag="failed", rename="camel"):
    reason: str
    message: str
    retry_after_s: float | None = None


Event = Progress | Verifying | Done | Failed
_decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)


def read_event(line: str) -> Event | None:
    if not line.startswith("{"):
        return None
    try:
        return _decoder.decode(line)
    except (msgspec.DecodeError, RecursionError):
        return None


class Meter:
    """How far one download is, how fast it goes, and how long it will take."""

    def __init__(self) -> None:
        self.done = 0
        self.total = 0
        self._samples: deque[tuple[float, int]] = deque()

    def read(self, progress: Progress, now: float) -> None:
        """`now` is of a monotonic clock."""
        if progress.done < self.done or progress.total != self.total:
            # It began again, or another file counts now: the old rate says nothing.
            self._samples.clear()
        self.done, self.total = progress.done, progress.total
        self._samples.append((now, progress.done))
        while len(self._samples) > 2 and now - self._samples[1][0] > WINDOW_S:
            self._samples.popleft()

    @property
    def share(self) -> float | None:
        """Below 1 while it runs: what is not verified is not there."""
        return min(self.done / self.total, 0.99) if self.total > 0 else None

    @property
    def left_s(self) -> float | None:
        if len(self._samples) < 2:
            return None
        (began, first), (at, last) = self._samples[0], self._samples[-1]
        if at - began < MIN_WINDOW_S or last <= first:
            return None
        return max(0, self.total - last) * (at - began) / (last - first)

    def __str__(self) -> str:
        if not self.total:
            return "asking the hub what there is"
        share = f"{self.share or 0:.0%} of {size(self.total)}"
        left_s = self.left_s
        return share if left_s is None else f"{share}, about {duration(left_s)} left"


def size(count: int) -> str:
    """`812 MB`, `4.1 GB`: as hubs show sizes."""
    for unit, power in (("GB", 9), ("MB", 6), ("kB", 3)):
        value = count / 10**power
        if value >= 1:
            return f"{value:.1f} {unit}" if value < 10 else f"{value:.0f} {unit}"
    return f"{count} bytes"


def duration(seconds: float) -> str:
    whole = math.ceil(seconds)
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{math.ceil(whole / 60)} min"
    return f"{math.ceil(whole / 3600)} h"
