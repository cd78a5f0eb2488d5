"""The patch from one status to the next, and when it is written."""

from __future__ import annotations

import asyncio
import string
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.manual_clock import ManualClock
from tests.support.manual_timers import ManualTimers
from tests.support.models import manifest
from tests.support.simulated_place import SimulatedPlace

from flexinfer.api import codec
from flexinfer.api.meta import Condition, ObjectKey
from flexinfer.api.v1alpha2.model import AllocatedGPU, CacheStatus, Metrics, ModelStatus
from flexinfer.api.wellknown import MODEL_FINALIZER
from flexinfer.controllers.model import ModelReconciler, status_patch
from flexinfer.errors import StoreError
from flexinfer.kube.informer import Informer
from flexinfer.kube.memory import MemoryStore
from flexinfer.kube.merge import merge_patch
from flexinfer.kube.store import MODELS, Object

TEXT = st.text(string.ascii_letters, max_size=3)
TIME = st.none() | st.integers(0, 10).map(lambda s: datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=s))
STATUSES = st.builds(
    ModelStatus,
    phase=st.sampled_from([None, "Idle", "Loading", "Ready"]),
    tier=st.sampled_from([None, "hot", "cached"]),
    conditions=st.lists(
        st.builds(
            Condition,
            type=st.sampled_from(["Ready", "Loaded"]),
            status=st.sampled_from(["True", "False"]),
            reason=TEXT,
            last_transition_time=TIME,
        ),
        max_size=2,
        unique_by=lambda condition: condition.type,
    ),
    replicas=st.integers(0, 1),
    gpu=st.none() | st.builds(AllocatedGPU, node=TEXT, device=TEXT),
    last_active_time=TIME,
    metrics=st.none() | st.builds(Metrics, tokens_per_second=TEXT, load_time_seconds=TEXT),
    cache=st.none() | st.builds(CacheStatus, strategy=TEXT, ready=st.booleans(), size_bytes=st.integers(0, 1)),
    loading_progress=st.none() | st.sampled_from([0.0, 0.5]),
    loading_progress_at=TIME,
    message=TEXT,
)


@settings(max_examples=150)
@given(STATUSES, STATUSES)
def test_the_patch_leads_from_the_old_status_to_the_new_one_and_leaves_the_last_use_alone(old, new):
    patch = status_patch(old, new)
    assert "lastActiveTime" not in patch
    after: dict[str, Any] = {**codec.encode_status(new)}
    after.pop("lastActiveTime", None)
    if "lastActiveTime" in (before := codec.encode_status(old)):
        after["lastActiveTime"] = before["lastActiveTime"]
    assert merge_patch(before, patch) == after


@given(STATUSES)
@settings(max_examples=30)
def test_between_equal_statuses_there_is_nothing_to_patch(status):
    assert status_patch(status, status) == {}


@pytest.mark.parametrize(
    ("old", "new", "patch"),
    [
        pytest.param({"message": "a"}, {}, {"message": None}, id="what is gone is named"),
        pytest.param(
            {"metrics": Metrics(tokens_per_second="1", load_time_seconds="2")},
            {"metrics": Metrics(load_time_seconds="2")},
            {"metrics": {"tokensPerSecond": None, "loadTimeSeconds": "2"}},
            id="what is gone from within is named",
        ),
        pytest.param({"last_active_time": datetime(2026, 1, 1, tzinfo=UTC)}, {}, {}, id="the last use is the proxy's"),
    ],
)
def test_patch(old, new, patch):
    assert status_patch(ModelStatus(**old), ModelStatus(**new)) == patch


class BrokenOnce(MemoryStore):
    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self.failing = False

    async def patch(self, *args: Any, **kwargs: Any) -> Object:
        if self.failing:
            self.failing = False
            raise StoreError("out of order")
        return await super().patch(*args, **kwargs)


async def test_a_status_that_could_not_be_written_is_written_by_the_next_reconcile(clock: ManualClock):
    store = BrokenOnce(clock)
    obj = manifest()
    obj["metadata"]["finalizers"] = [MODEL_FINALIZER]
    stored = await store.create(MODELS, obj)
    models = Informer(store, MODELS, codec.from_object)
    following = asyncio.create_task(models.run())
    await models.wait_synced()
    following.cancel()
    place = SimulatedPlace(store, clock, ManualTimers(clock), lambda _key: None)
    reconciler = ModelReconciler(store, models, place, clock)
    key = ObjectKey("default", "m")
    assert models.get(key).metadata.finalizers == stored["metadata"]["finalizers"]
    store.failing = True
    with pytest.raises(StoreError):
        await reconciler.reconcile(key)
    await reconciler.reconcile(key)
    assert (await store.get(MODELS, key))["status"]["phase"] == "Idle"


class Counting(MemoryStore):
    """Counts what is written to a status."""

    writes = 0

    async def patch(self, *args: Any, **kwargs: Any) -> Object:
        self.writes += kwargs.get("subresource") == "status"
        return await super().patch(*args, **kwargs)


async def test_a_cache_that_lags_behind_makes_no_second_write_in_the_next_second(clock: ManualClock):
    store = Counting(clock)
    obj = manifest()
    obj["metadata"]["finalizers"] = [MODEL_FINALIZER]
    await store.create(MODELS, obj)
    models = Informer(store, MODELS, codec.from_object)
    following = asyncio.create_task(models.run())
    await models.wait_synced()
    following.cancel()
    place = SimulatedPlace(store, clock, ManualTimers(clock), lambda _key: None)
    reconciler = ModelReconciler(store, models, place, clock)
    for _ in range(3):
        await reconciler.reconcile(ObjectKey("default", "m"))
        clock.advance(1.0)
    assert store.writes == 1
