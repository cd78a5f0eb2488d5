"""Eviction over any seats on any devices: enough, never too much, never who is busy, always the same."""

from __future__ import annotations

import random
from itertools import combinations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from flexinfer.lifecycle.eviction import Lacks, Seat, plan


class Place(msgspec.Struct, frozen=True):
    """`held`: device and size by name; a model takes one device, whichever has room."""

    sizes: tuple[int, ...]
    held: dict[str, tuple[int, int]]
    need: int

    def lacks(self) -> Lacks:
        def lacks(gone: frozenset[str]) -> str:
            left = list(self.sizes)
            for name, (device, mib) in self.held.items():
                if name not in gone:
                    left[device] -= mib
            return "" if max(left) >= self.need else f"needs {self.need}, has {left}"

        return lacks


@st.composite
def scenes(draw: st.DrawFn) -> tuple[list[Seat], Place]:
    sizes = draw(st.lists(st.integers(1, 50), min_size=1, max_size=3))
    seats, held, left = [], {}, list(sizes)
    for number in range(draw(st.integers(0, 6))):
        device = draw(st.integers(0, len(sizes) - 1))
        if left[device] == 0:
            continue
        mib = draw(st.integers(1, left[device]))
        left[device] -= mib
        name = f"m{number}"
        held[name] = (device, mib)
        seats.append(
            Seat(
                name=name,
                idle_s=draw(st.integers(0, 3)),
                busy=draw(st.sampled_from(["", "", "is busy"])),
                leaving=draw(st.sampled_from([False, False, True])),
            )
        )
    return seats, Place(tuple(sizes), held, draw(st.integers(1, 60)))


@given(scenes(), st.randoms(use_true_random=False))
def test_victims(scene: tuple[list[Seat], Place], rand: random.Random):
    seats, place = scene
    lacks = place.lacks()
    found = plan(seats, lacks)
    by_name = {seat.name: seat for seat in seats}
    leaving = frozenset(seat.name for seat in seats if seat.leaving)
    victims = frozenset(found.victims)

    assert not any(by_name[name].busy or by_name[name].leaving for name in victims)
    assert bool(found.message) == bool(lacks(frozenset()))
    if victims:
        assert not lacks(leaving | victims), "not enough"
        assert lacks(leaving), "nobody had to go"
        for count in range(len(victims)):
            assert all(lacks(leaving.union(some)) for some in combinations(victims, count)), "one too many"
        assert list(found.victims) == sorted(found.victims, key=lambda name: (-by_name[name].idle_s, name))
    elif found.message and lacks(leaving):
        free = leaving.union(seat.name for seat in seats if not seat.busy)
        assert lacks(free), "there was a way"

    rand.shuffle(seats)
    assert plan(seats, lacks) == found, "the order of the seats counts for nothing"
