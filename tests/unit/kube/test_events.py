"""What reaches the API of what happens to objects: once, then a count, and never much."""

from __future__ import annotations

import random
from contextlib import asynccontextmanager

import pytest
from tests.support.background import beside
from tests.support.flaky_store import FlakyStore
from tests.support.manual_timers import settle

from flexinfer.api.meta import ObjectKey
from flexinfer.errors import NotFound, NotLeading, StoreError
from flexinfer.kube.events import EventRecorder
from flexinfer.kube.store import EVENTS

MODEL = {
    "apiVersion": "ai.flexinfer/v1alpha2",
    "kind": "Model",
    "metadata": {"name": "m", "namespace": "team", "uid": "u-1", "resourceVersion": "4"},
}
NODE = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n", "uid": "u-2"}}


class FailingWrites(FlakyStore):
    """`failures` are raised by the next writes; every write that is tried is counted."""

    def __init__(self, clock):
        super().__init__(clock)
        self.writes = []
        self.failures = []
        self.lost_answers = []

    async def create(self, resource, obj, **options):
        return await self._counted("create", super().create(resource, obj, **options))

    async def patch(self, resource, key, patch, **options):
        return await self._counted("patch", super().patch(resource, key, patch, **options))

    async def _counted(self, name, call):
        self.writes.append(name)
        if self.failures:
            call.close()
            raise self.failures.pop(0)
        answer = await call
        if self.lost_answers:
            raise self.lost_answers.pop(0)
        return answer


@pytest.fixture
def store(clock):
    return FailingWrites(clock)


@pytest.fixture
def start(store, clock, timers):
    @asynccontextmanager
    async def running():
        recorder = EventRecorder(
            store, "flexinfer.ai/manager", "pod-1", clock=clock, call_later=timers.call_later, rand=random.Random(1)
        )
        async with beside(recorder.run()):
            yield recorder

    return running


async def told(store):
    """What `kubectl get events` could show: object, type, reason, note, and how often."""
    return [
        (
            event["regarding"]["name"],
            event["type"],
            event["reason"],
            event["note"],
            (event.get("series") or {"count": 1})["count"],
        )
        for event in (await store.list(EVENTS)).items
    ]


async def test_an_event_says_what_happened_to_what_and_who_says_so(store, start):
    async with start() as recorder:
        recorder.record(MODEL, "Loaded", "serves on 2 replicas", action="Converge")
        await settle()
    [event] = (await store.list(EVENTS)).items
    meta = event.pop("metadata")
    assert (meta["namespace"], meta["name"].rpartition(".")[0]) == ("team", "m")
    assert event == {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "eventTime": "2026-01-01T00:00:00.000000Z",
        "type": "Normal",
        "reason": "Loaded",
        "action": "Converge",
        "note": "serves on 2 replicas",
        "regarding": {
            "apiVersion": "ai.flexinfer/v1alpha2",
            "kind": "Model",
            "name": "m",
            "namespace": "team",
            "uid": "u-1",
        },
        "reportingController": "flexinfer.ai/manager",
        "reportingInstance": "pod-1",
    }


async def test_events_of_cluster_scoped_objects_are_kept_in_default(store, start):
    async with start() as recorder:
        recorder.record(NODE, "Tainted", "spot notice", warning=True)
        await settle()
    [event] = (await store.list(EVENTS)).items
    assert (event["metadata"]["namespace"], "namespace" in event["regarding"]) == ("default", False)


async def test_a_reconcile_each_second_for_an_hour_costs_few_writes(store, start, timers):
    async with start() as recorder:
        for _ in range(3600):
            recorder.record(MODEL, "LoadFailed", "no such file", warning=True)
            await timers.advance(1)
        await timers.advance(300)
    assert await told(store) == [("m", "Warning", "LoadFailed", "no such file", 3600)]
    assert (store.writes.count("create"), store.writes.count("patch") <= 18) == (1, True)


async def test_nothing_is_written_while_nothing_happens(store, start, timers):
    async with start() as recorder:
        recorder.record(MODEL, "Loaded", "serves")
        await timers.advance(3600)
    assert store.writes == ["create"]


async def test_a_repeat_is_written_after_a_pause_that_grows(store, start, timers, clock):
    seen = []
    async with start() as recorder:
        for second in range(100):
            recorder.record(MODEL, "LoadFailed", "why")
            await timers.advance(1)
            if len(store.writes) > len(seen):
                seen.append(second)
    assert seen == [0, 10, 30, 70]


async def test_ever_new_notes_of_one_object_are_held_back_and_others_are_not(store, start, timers):
    async with start() as recorder:
        for number in range(1000):
            recorder.record(MODEL, "LoadFailed", f"try {number}")
            await timers.advance(1)
        recorder.record(MODEL, "Loaded", "serves")
        recorder.record(NODE, "LoadFailed", "try 1")
        await timers.advance(1)
        held_back = recorder.held_back
    names = [(name, reason) for name, _, reason, _, _ in await told(store)]
    assert sorted(set(names)) == [("m", "LoadFailed"), ("m", "Loaded"), ("n", "LoadFailed")]
    assert len(names) + held_back == 1002
    assert names.count(("m", "LoadFailed")) <= 5 + 1000 // 300


@pytest.mark.parametrize(
    ("note", "kept"),
    [
        pytest.param("two\nlines\tand \x00 more", "two lines and more", id="one line"),
        pytest.param("x" * 5000, "x" * 1021 + "…", id="1,024 bytes"),
        pytest.param("ä" * 1000, "ä" * 510 + "…", id="no half characters"),
        pytest.param("a\ud800b", "a b", id="a lone surrogate"),
        pytest.param("", "", id="nothing"),
    ],
)
async def test_notes_are_one_line_of_bounded_length(store, start, note, kept):
    async with start() as recorder:
        recorder.record(MODEL, "Loaded", note)
        await settle()
    assert [row[3] for row in await told(store)] == [kept]


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(ConnectionResetError("gone"), id="no connection"),
        pytest.param(TimeoutError(), id="a time-out"),
        pytest.param(StoreError("overloaded"), id="a server error"),
    ],
)
async def test_trouble_with_the_api_is_tried_again_and_never_for_ever(store, start, timers, error):
    async with start() as recorder:
        store.failures = [error, error]
        recorder.record(MODEL, "Loaded", "serves")
        await timers.advance(30)
        assert (len(store.writes), recorder.dropped) == (3, 0)
        store.failures = [error] * 100
        recorder.record(MODEL, "Unloaded", "idle")
        await timers.advance(600)
        assert (len(store.writes), recorder.dropped) == (7, 1)


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(NotFound("no such namespace"), id="a namespace that is gone"),
        pytest.param(NotLeading("not the leader"), id="a process that does not lead"),
    ],
)
async def test_what_cannot_be_told_is_dropped_at_once(store, start, timers, error):
    async with start() as recorder:
        store.failures = [error]
        recorder.record(MODEL, "Loaded", "serves")
        await timers.advance(60)
        assert store.writes == ["create"]


async def test_an_event_whose_answer_was_lost_is_there_once(store, start, timers):
    async with start() as recorder:
        store.lost_answers = [TimeoutError()]
        recorder.record(MODEL, "Loaded", "serves")
        await timers.advance(30)
        assert store.writes == ["create", "create"]
    assert await told(store) == [("m", "Normal", "Loaded", "serves", 1)]


async def test_an_event_that_expired_is_told_anew(store, start, timers):
    async with start() as recorder:
        recorder.record(MODEL, "LoadFailed", "why")
        await settle()
        [event] = (await store.list(EVENTS)).items
        meta = event["metadata"]
        await store.delete(EVENTS, ObjectKey(meta["namespace"], meta["name"]))
        recorder.record(MODEL, "LoadFailed", "why")
        await timers.advance(20)
        recorder.record(MODEL, "LoadFailed", "why")
        await settle()
    assert await told(store) == [("m", "Normal", "LoadFailed", "why", 1)]


async def test_what_is_told_while_the_api_is_away_is_bounded(store, start, timers):
    async with start() as recorder:
        store.failures = [ConnectionRefusedError()] * 100_000
        for number in range(5000):
            recorder.record(
                {**MODEL, "metadata": {"name": f"m{number}", "namespace": "team", "uid": str(number)}}, "A", "b"
            )
        assert recorder.dropped == 5000 - 1024
        store.failures = []
        await timers.advance(60)
        await settle(6000)
    assert len(await told(store)) == 1024


async def test_the_last_counts_are_written_at_the_end(store, start, timers):
    async with start() as recorder:
        for _ in range(3):
            recorder.record(MODEL, "LoadFailed", "why")
        await settle()
    await recorder.flush()
    assert await told(store) == [("m", "Normal", "LoadFailed", "why", 3)]
