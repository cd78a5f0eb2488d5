"""Time as an argument: the Clock protocol, the clock of the machine, and one that nobody can set.

Budgets and deadlines use `monotonic`, which never jumps; time stamps that objects carry use `now`.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    def monotonic(self) -> float:
        """Seconds since an arbitrary start; never goes back."""
        ...

    def now(self) -> datetime:
        """Wall-clock time, timezone-aware, UTC."""
        ...


class SystemClock:
    def monotonic(self) -> float:
        return time.monotonic()

    def now(self) -> datetime:
        return datetime.fromtimestamp(time.time(), UTC)


def since_boot_s() -> float:
    """The time that the machine slept included, where the system can tell."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class SteadyClock(SystemClock):
    """Goes on evenly from the machine's clock as it was at the start: who sets that makes no model idle or awake.

    Time stamps that are compared with each other come from one such clock; `booted_at` takes it to another process.
    """

    def __init__(self, booted_at: float | None = None) -> None:
        self.booted_at = time.time() - since_boot_s() if booted_at is None else booted_at

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.booted_at + since_boot_s(), UTC)
