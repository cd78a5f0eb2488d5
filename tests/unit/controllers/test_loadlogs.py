"""How far engines are that load, by what they write, and what follows where that cannot be read."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import pytest
from tests.manual_clock import ManualClock

from flexinfer.api.meta import ObjectKey
from flexinfer.controllers.loadlogs import Loading, LoadLogs, Stage, run_of
from flexinfer.errors import NotFound, StoreError

POD, MODEL = ObjectKey("default", "m-1"), ObjectKey("default", "m")
RUN = run_of("uid", 0)


class Forbidden(StoreError):
    status = 403


class Engine:
    """One pod whose engine loads, and whoever is told of it."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.text = "Loading weights"
        self.error: Exception | None = None
        self.run = RUN
        self.told: list[ObjectKey] = []
        self.logs = LoadLogs(self.read, stage_of, lambda: [Loading(POD, MODEL, self.run)], clock, self.told.append)

    async def read(self, _pod: ObjectKey, _container: str, _lines: int) -> str:
        if self.error is not None:
            raise self.error
        return self.text


def stage_of(lines: Sequence[str]) -> Stage:
    return Stage(lines[-1], len(lines) / 10)


@pytest.fixture
def engine(clock: ManualClock) -> Engine:
    return Engine(clock)


async def test_what_it_writes_moves_it_and_what_it_wrote_before_does_not(engine: Engine, clock: ManualClock):
    await engine.logs.look()
    first = clock.now()
    clock.advance(30)
    await engine.logs.look()
    seen = engine.logs.of(POD, RUN)
    assert seen is not None
    assert (seen.moved_at, seen.stage, engine.told) == (first, Stage("Loading weights", 0.1), [MODEL])
    engine.text += "\n50 %"
    await engine.logs.look()
    seen = engine.logs.of(POD, RUN)
    assert seen is not None
    assert (seen.moved_at, seen.stage, engine.told) == (clock.now(), Stage("50 %", 0.2), [MODEL, MODEL])


async def test_another_run_of_the_engine_begins_anew(engine: Engine):
    await engine.logs.look()
    assert engine.logs.of(POD, run_of("uid", 1)) is None
    engine.run = run_of("uid", 1)
    await engine.logs.look()
    assert engine.logs.of(POD, RUN) is None
    assert engine.logs.of(POD, run_of("uid", 1)) is not None


@pytest.mark.parametrize(
    ("error", "known"),
    [
        pytest.param(TimeoutError(), True, id="the node does not answer: nothing can be said of before it began"),
        pytest.param(NotFound("gone"), True, id="the pod is gone"),
        pytest.param(Forbidden("no"), False, id="it may not read logs: a load has its limit from its start"),
    ],
)
async def test_what_cannot_be_read(engine: Engine, error: Exception, known: bool):
    engine.error = error
    await engine.logs.look()
    assert (engine.logs.of(POD, RUN), engine.told) == (None, [])
    assert (engine.logs.began_at is not None) is known


async def test_it_began_when_it_was_made(engine: Engine, clock: ManualClock):
    clock.advance(60)
    assert engine.logs.began_at == clock.now() - timedelta(seconds=60)
