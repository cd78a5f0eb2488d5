"""How many replicas the requests in flight ask for. Pure.

Up at once, down only when for `STABLE_S` no sample asked for more: a replica costs minutes to start and
nothing to keep for two. What is not known never takes a replica away: a proxy that did not answer, or a manager
that has not watched for long enough, asks for those that run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

EVERY_S: Final = 5.0
STABLE_S: Final = 120.0


class Sample(NamedTuple):
    at_s: float
    in_flight: int
    """Requests that a replica answers or that wait, over all proxies that answered."""
    complete: bool = True
    """All of them did."""


def replicas(samples: Sequence[Sample], target: int, running: int, now_s: float) -> int:
    """`samples` in their order, `target` requests in flight a replica."""
    recent = [one for one in samples if now_s - one.at_s <= STABLE_S]
    asked = [-(-one.in_flight // target) for one in recent]
    watched = bool(samples) and now_s - samples[0].at_s >= STABLE_S
    if not watched or not all(one.complete for one in recent):
        asked.append(running)
    return max(asked, default=running)


def kept(samples: Sequence[Sample], now_s: float) -> list[Sample]:
    """What a later look needs: the window, and the one before it, which shows that it is whole."""
    first = next((index for index, one in enumerate(samples) if now_s - one.at_s <= STABLE_S), len(samples))
    return list(samples[max(0, first - 1) :])
