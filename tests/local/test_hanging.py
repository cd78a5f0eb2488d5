"""A replica that lets requests time out: seen by what the proxies say, ended, started again, given up in the end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support import places
from tests.support.processes import live

from flexinfer.lifecycle import silence
from flexinfer.lifecycle.observed import Trouble, Usage
from flexinfer.lifecycle.silence import Silence

SENT = (1.0, 2.0, 3.0)


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[places.Local]:
    async with places.local(tmp_path) as place:
        yield place


@pytest.fixture
def subject(place: places.Local) -> places.Subject:
    return places.Subject(place)


@pytest.mark.parametrize(
    ("silent", "hangs"),
    [
        pytest.param(Silence(None, SENT), True, id="three in a row"),
        pytest.param(Silence(0.5, SENT[:2]), False, id="two in a row"),
    ],
)
async def test_who_hangs_is_said_by_the_proxies(place: places.Local, subject: places.Subject, silent, hangs):
    await subject.create()
    (replica,) = await subject.ready(1)
    place.usage = Usage(silences={replica.address: silent, "127.0.0.1:1": Silence(None, SENT)})
    (seen,) = (await subject.observe()).replicas
    assert seen.hangs is hangs


async def test_what_was_said_of_an_engine_does_not_count_for_the_next_one(place: places.Local, subject: places.Subject):
    await subject.create()
    (before,) = await subject.ready(1)
    place.usage = Usage(silences={before.address: Silence(None, SENT)})
    await subject.converge(1, replace=(before.name,))
    (after,) = await subject.ready(1)
    assert after.pid != before.pid
    assert not (await subject.observe()).replicas[0].hangs


async def test_it_is_withdrawn_ended_and_started_again_with_the_reason(subject: places.Subject):
    await subject.create(extraArgs=["--on-sigterm", "ignore"])
    before, other = await subject.ready(2)
    assert before.pid is not None
    await subject.converge(2, replace=(before.name,))
    assert await subject.offered() == {other.address: True}
    (ending, _) = (await subject.observe()).replicas
    trouble = Trouble(reason="EngineHung", message=silence.MESSAGE)
    assert (ending.state, ending.pid, ending.trouble) == ("stopping", before.pid, trouble)
    # Said once more while it is ending, it changes nothing.
    await subject.converge(2, replace=(before.name,))
    after, unchanged = await subject.ready(2)
    assert (after.name, after.restarts, after.trouble, unchanged) == (before.name, 1, None, other)
    assert live([before.pid]) == []


async def test_one_that_hangs_after_each_of_its_starts_is_given_up(subject: places.Subject):
    await subject.create()
    for _ in range(3):
        (replica,) = await subject.ready(1)
        await subject.converge(1, replace=(replica.name,))
    observed = await subject.until(lambda observed: observed.failure is not None)
    assert observed.failure is not None
    assert (observed.failure.reason, observed.failure.message, observed.replicas) == (
        "EngineHung", "the engine let 3 requests in a row time out after each of its starts", (),
    )  # fmt: skip


async def test_it_may_be_ended_for_good_while_it_is_being_replaced(place: places.Local, subject: places.Subject):
    await subject.create(extraArgs=["--on-sigterm", "ignore"])
    (replica,) = await subject.ready(1)
    await subject.converge(1, replace=(replica.name,))
    await subject.converge(0)
    await subject.until(lambda _observed: place.running() == 0)
    assert (await subject.observe()).replicas == ()
