"""Who makes room on one machine for a model that is asked for.

The least recently used go first, and no more of them than needed. Nobody goes who answers a request,
has one waiting, loads, or is kept running. What a place lacks is told by the caller as a text with the
numbers; fewer holders may never lack more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec

Lacks = Callable[[frozenset[str]], str]
"""What is missing if these seats were free; empty: nothing."""


class Seat(msgspec.Struct, frozen=True, kw_only=True):
    """A model that holds memory, devices or the place of its group."""

    name: str
    idle_s: float
    """Since its last use."""
    busy: str = ""
    """Why it cannot be stopped now, as the end of a sentence about it: "is busy"."""
    leaving: bool = False
    """It is on its way out already."""


class Eviction(msgspec.Struct, frozen=True, kw_only=True):
    victims: tuple[str, ...] = ()
    """To be stopped, the least recently used first."""
    message: str = ""
    """What is missing and who is in the way, or who makes room; empty: nothing is missing."""


def plan(seats: Sequence[Seat], lacks: Lacks) -> Eviction:
    missing = lacks(frozenset())
    if not missing:
        return Eviction()
    leaving = frozenset(seat.name for seat in seats if seat.leaving)
    if not lacks(leaving):
        return Eviction(message=f"{missing}; {_room(_fewest(sorted(leaving), frozenset(), lacks))}")
    order = sorted((seat for seat in seats if not seat.busy and not seat.leaving), key=_longest_idle_first)
    free = [seat.name for seat in order]
    if lacks(leaving.union(free)):
        return Eviction(message=_blocked(seats, leaving, lacks))
    victims = _fewest(free, leaving, lacks)
    return Eviction(victims=victims, message=f"{missing}; {_room(victims)}")


def _longest_idle_first(seat: Seat) -> tuple[float, str]:
    return -seat.idle_s, seat.name


def _fewest(order: Sequence[str], gone: frozenset[str], lacks: Lacks) -> tuple[str, ...]:
    """From the front of `order` until nothing is missing, without those that turn out not to help."""
    taken: list[str] = []
    for name in order:
        taken.append(name)
        if not lacks(gone.union(taken)):
            break
    # Those used last are spared first.
    for name in reversed(taken[:]):
        others = [other for other in taken if other != name]
        if not lacks(gone.union(others)):
            taken = others
    return tuple(taken)


def _blocked(seats: Iterable[Seat], leaving: frozenset[str], lacks: Lacks) -> str:
    missing = lacks(leaving)
    in_the_way = [seat for seat in seats if seat.busy and lacks(leaving | {seat.name}) != missing]
    if not in_the_way:
        return missing
    return f"{missing}; " + ", ".join(f"{seat.name} {seat.busy}" for seat in sorted(in_the_way, key=_by_name))


def _by_name(seat: Seat) -> str:
    return seat.name


def _room(names: Sequence[str]) -> str:
    if len(names) == 1:
        return f"{names[0]} makes room"
    return f"{', '.join(names[:-1])} and {names[-1]} make room"
