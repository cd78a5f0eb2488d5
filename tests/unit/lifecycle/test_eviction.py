from __future__ import annotations

from collections.abc import Mapping

import pytest

from flexinfer.lifecycle.eviction import Eviction, Lacks, Seat, plan


def memory(need: int, total: int, held: Mapping[str, int]) -> Lacks:
    def lacks(gone: frozenset[str]) -> str:
        free = total - sum(mib for name, mib in held.items() if name not in gone)
        return "" if need <= free else f"needs {need} MiB, {free} MiB free"

    return lacks


def gpus(need: int, rooms: Mapping[str, int]) -> Lacks:
    """One holder on each GPU: the room it would leave."""

    def lacks(gone: frozenset[str]) -> str:
        return "" if any(need <= room for name, room in rooms.items() if name in gone) else f"needs {need} MiB"

    return lacks


def seat(name: str, idle_s: float = 0.0, busy: str = "", *, leaving: bool = False) -> Seat:
    return Seat(name=name, idle_s=idle_s, busy=busy, leaving=leaving)


HELD = {"alpha": 2000, "beta": 4000}
BUSY = "is busy"


@pytest.mark.parametrize(
    ("seats", "lacks", "expected"),
    [
        pytest.param([seat("alpha"), seat("beta")], memory(3000, 9100, HELD), Eviction(), id="enough is free"),
        pytest.param(
            [seat("alpha", 5), seat("beta", 60)],
            memory(3200, 9100, HELD),
            Eviction(victims=("beta",), message="needs 3200 MiB, 3100 MiB free; beta makes room"),
            id="the least recently used goes",
        ),
        pytest.param(
            [seat("alpha", 5), seat("beta", 60)],
            memory(8000, 9100, HELD),
            Eviction(victims=("beta", "alpha"), message="needs 8000 MiB, 3100 MiB free; beta and alpha make room"),
            id="as many as it takes",
        ),
        pytest.param(
            [seat("alpha", 60), seat("beta", 5)],
            memory(6200, 9100, HELD),
            Eviction(victims=("beta",), message="needs 6200 MiB, 3100 MiB free; beta makes room"),
            id="one that would not help stays",
        ),
        pytest.param(
            [seat("small", 60), seat("large", 5)],
            gpus(20000, {"small": 8000, "large": 24000}),
            Eviction(victims=("large",), message="needs 20000 MiB; large makes room"),
            id="one on a device that is too small stays",
        ),
        pytest.param(
            [seat("beta", busy=BUSY), seat("alpha", busy=BUSY)],
            memory(6200, 9100, HELD),
            Eviction(message="needs 6200 MiB, 3100 MiB free; alpha is busy, beta is busy"),
            id="all are busy: the numbers and their names",
        ),
        pytest.param(
            [seat("alpha", 60), seat("beta", busy="is loading")],
            memory(6200, 9100, HELD),
            Eviction(message="needs 6200 MiB, 3100 MiB free; beta is loading"),
            id="nobody goes where that would not be enough",
        ),
        pytest.param(
            [seat("alpha", 60), seat("beta", leaving=True)],
            memory(6200, 9100, HELD),
            Eviction(message="needs 6200 MiB, 3100 MiB free; beta makes room"),
            id="who leaves already is waited for",
        ),
        pytest.param(
            [seat("alpha", 60), seat("beta", leaving=True)],
            memory(8000, 9100, HELD),
            Eviction(victims=("alpha",), message="needs 8000 MiB, 3100 MiB free; alpha makes room"),
            id="who leaves already counts as gone",
        ),
        pytest.param(
            [seat("other", busy=BUSY)],
            memory(6200, 3100, {}),
            Eviction(message="needs 6200 MiB, 3100 MiB free"),
            id="others' memory: nobody of ours is named",
        ),
        pytest.param(
            [seat("b", 5), seat("a", 5)],
            memory(1, 2, {"a": 1, "b": 1}),
            Eviction(victims=("a",), message="needs 1 MiB, 0 MiB free; a makes room"),
            id="equal ones: by name",
        ),
    ],
)
def test_who_makes_room(seats: list[Seat], lacks: Lacks, expected: Eviction):
    assert plan(seats, lacks) == expected
