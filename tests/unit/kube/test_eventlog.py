from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from flexinfer.errors import Gone
from flexinfer.kube.eventlog import Entry, EventLog
from flexinfer.kube.store import WatchEvent


def entry(version: int) -> Entry:
    return Entry(version, WatchEvent("ADDED", {"metadata": {"resourceVersion": str(version)}}), None)


def filled(*versions: int, history: int = 3) -> EventLog:
    log = EventLog(history=history, version=10)
    for version in versions:
        log.append(*entry(version))
    return log


async def first(log: EventLog, version: int, count: int) -> list[int]:
    found = []
    async with aclosing(log.follow(version)) as entries:
        async for one in entries:
            found.append(one.version)
            if len(found) == count:
                break
    return found


@pytest.mark.parametrize(
    ("since", "versions"),
    [
        pytest.param(10, [11, 14, 15], id="from before the first event"),
        pytest.param(11, [14, 15], id="from an event"),
        pytest.param(12, [14, 15], id="from between two events"),
    ],
)
async def test_follow_begins_after_the_version(since, versions):
    assert await first(filled(11, 14, 15), since, len(versions)) == versions


@pytest.mark.parametrize(
    ("log", "since"),
    [
        pytest.param(filled(), 9, id="before the log began"),
        pytest.param(filled(11, 12, 13, 14, 15), 11, id="before the oldest event that is kept"),
    ],
)
async def test_follow_from_too_far_back_is_gone(log, since):
    with pytest.raises(Gone):
        await first(log, since, 1)


async def test_follow_from_the_last_dropped_version_loses_nothing():
    assert await first(filled(11, 12, 13, 14, 15), 12, 3) == [13, 14, 15]


async def test_a_slow_reader_is_told_gone_and_holds_nothing_back():
    log = filled(11)
    async with aclosing(log.follow(10)) as entries:
        assert (await anext(entries)).version == 11
        for version in range(12, 20):
            log.append(*entry(version))
        assert len(log) == 3
        with pytest.raises(Gone, match="5 events behind"):
            await anext(entries)


async def test_any_number_of_readers_see_every_event():
    log = filled()
    async with asyncio.TaskGroup() as tasks:
        readers = [tasks.create_task(first(log, 10, 2)) for _ in range(3)]
        for version in (11, 12):
            await asyncio.sleep(0)
            log.append(*entry(version))
    assert [reader.result() for reader in readers] == [[11, 12]] * 3
    assert log.readers == 0
