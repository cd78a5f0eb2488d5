"""The cold-start queue: who is dispatched, refused or kept waiting, and when a model is woken."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.support.onemodel import A, B, Proxy

from flexinfer.lifecycle.activation import Limits
from flexinfer.lifecycle.modelfacts import LoadFailure

T0 = datetime(2026, 1, 1, tzinfo=UTC)
EXITED = LoadFailure(reason="EngineExited", message="exit code 1", at=T0)


def test_a_request_with_a_free_slot_goes_on_at_once_and_its_use_is_written():
    proxy = Proxy(slots=2)
    proxy.ready(A, now=0.0)
    assert proxy.arrive(1, 1.0) == ["dispatch 1 a", "touch 1"]
    assert proxy.arrive(2, 2.0) == ["dispatch 2 a"]


def test_the_first_waiter_wakes_the_model_and_those_after_it_only_wait():
    proxy = Proxy(slots=2)
    assert proxy.arrive(1, 0.0) == ["activate"]
    assert proxy.arrive(2, 0.1) == []
    assert proxy.arrive(3, 0.2) == []
    assert proxy.queue.depth == 3


def test_when_ready_as_many_go_on_as_there_are_slots_in_order_of_arrival():
    proxy = Proxy(slots=2)
    for number in (1, 2, 3, 4, 5, 6):
        proxy.arrive(number, 0.0)
    assert proxy.ready(A, B, now=5.0) == [
        "activation ready after 5", "dispatch 1 a", "dispatch 2 b", "dispatch 3 a", "dispatch 4 b",
    ]  # fmt: skip
    assert proxy.done(3, 6.0) == ["dispatch 5 a"]
    assert proxy.done(4, 6.0) == ["dispatch 6 b"]
    assert proxy.done(5, 6.0) == []


def test_a_new_request_never_overtakes_one_that_waits():
    proxy = Proxy(slots=1)
    proxy.ready(A, now=0.0)
    proxy.arrive(1, 0.0)
    assert proxy.arrive(2, 1.0) == []
    assert proxy.arrive(3, 1.0) == []
    assert proxy.done(1, 2.0) == ["dispatch 2 a"]
    assert proxy.arrive(4, 2.0) == []
    assert proxy.done(2, 3.0) == ["dispatch 3 a"]


def test_more_slots_release_more_waiters_and_fewer_slots_none_until_they_are_free():
    proxy = Proxy(slots=1)
    proxy.ready(A, now=0.0)
    for number in (1, 2, 3):
        proxy.arrive(number, 0.0)
    assert proxy.change(1.0, phase="Ready", slots=2) == ["dispatch 2 a"]
    assert proxy.change(2.0, phase="Ready", slots=1) == []
    assert proxy.done(1, 3.0) == []
    assert proxy.done(2, 3.0) == ["dispatch 3 a"]


def test_a_full_queue_refuses_at_once_and_says_when_to_come_back():
    proxy = Proxy(Limits(queue_size=2), last_load_s=20.0)
    proxy.arrive(1, 0.0)
    proxy.arrive(2, 0.0)
    assert proxy.arrive(3, 5.0) == ["reject 3 queue_full"]
    assert (proxy.errors[3].status, proxy.errors[3].retry_after_s) == (503, 15.0)
    proxy.gone(1, 5.0)
    assert proxy.arrive(4, 5.0) == []


def test_a_client_that_left_the_queue_takes_no_slot():
    proxy = Proxy(slots=1)
    for number in (1, 2, 3):
        proxy.arrive(number, 0.0)
    assert proxy.gone(1, 1.0) == []
    assert proxy.gone(2, 1.0) == []
    assert proxy.gone(2, 1.0) == []
    assert proxy.ready(A, now=2.0) == ["activation ready after 2", "dispatch 3 a"]


@pytest.mark.parametrize(
    ("facts", "retry_after_s", "message"),
    [
        pytest.param(
            {"phase": "Loading", "substage": "LoadingWeights", "progress": 0.5},
            60.0,
            "The model 'm' is not ready after 60 s: phase Loading, LoadingWeights, 50% done; ready in about 60 s.",
            id="by its progress so far",
        ),
        pytest.param(
            {"phase": "Loading", "last_load_s": 90.0},
            30.0,
            "The model 'm' is not ready after 60 s: phase Loading; ready in about 30 s.",
            id="by its last load",
        ),
        pytest.param(
            {"phase": "Pending", "message": "no device is free"},
            10.0,
            "The model 'm' is not ready after 60 s: phase Pending, no device is free; no estimate yet.",
            id="with the reason when nothing tells",
        ),
        pytest.param(
            {"phase": "Pending", "substage": "Downloading", "progress": 0.4, "left_s": 20, "last_load_s": 5.0},
            25.0,
            "The model 'm' is not ready after 60 s: phase Pending, Downloading, 40% done; ready in about 25 s.",
            id="by the download's own rate, and the last load after it",
        ),
        pytest.param(
            {"phase": "Pending", "substage": "Downloading", "progress": 0.9},
            10.0,
            "The model 'm' is not ready after 60 s: phase Pending, Downloading, 90% done; no estimate yet.",
            id="not by the share of a download, most of which may be older",
        ),
        pytest.param(
            {"phase": "Loading", "progress": 0.01},
            60.0,
            "The model 'm' is not ready after 60 s: phase Loading, 1% done; ready in about 5940 s.",
            id="never longer than a minute",
        ),
    ],
)
def test_a_cold_model_over_budget_answers_503_with_an_estimate(facts, retry_after_s, message):
    proxy = Proxy(Limits(stall_s=1e9), cold_start_timeout_s=60.0)
    proxy.change(0.0, cold_start_timeout_s=60.0, **facts)
    proxy.arrive(1, 0.0)
    proxy.arrive(2, 1.0)
    assert "reject 1 model_loading" in proxy.tick(60.0)
    error = proxy.errors[1]
    assert (error.status, error.retry_after_s, error.message) == (503, retry_after_s, message)
    assert proxy.queue.depth == 1
    assert proxy.tick(61.0) == ["reject 2 model_loading"]


def test_the_load_goes_on_after_a_budget_is_over_and_the_next_request_waits_anew():
    proxy = Proxy(cold_start_timeout_s=15.0)
    assert proxy.arrive(1, 0.0) == ["activate"]
    proxy.change(1.0, phase="Loading", cold_start_timeout_s=15.0)
    assert proxy.tick(15.0) == ["reject 1 model_loading"]
    assert proxy.arrive(2, 16.0) == []
    assert proxy.ready(A, now=30.0) == ["activation ready after 30", "dispatch 2 a"]


def test_a_ready_model_without_a_slot_answers_504_after_the_longer_budget():
    proxy = Proxy(Limits(queue_timeout_s=60.0), slots=1, cold_start_timeout_s=15.0)
    proxy.ready(A, now=0.0)
    proxy.arrive(1, 0.0)
    proxy.arrive(2, 1.0)
    assert not any("reject" in line for line in proxy.tick(60.9))
    assert "reject 2 timeout" in proxy.tick(61.0)
    error = proxy.errors[2]
    assert (error.status, error.retry_after_s) == (504, None)
    assert error.message == "The model 'm' is ready, but every slot of it stayed busy for 60 s."


def test_a_failed_load_is_told_to_all_who_wait_at_once():
    proxy = Proxy()
    proxy.arrive(1, 0.0)
    proxy.arrive(2, 0.0)
    assert proxy.change(3.0, phase="Failed", failure=EXITED) == [
        "activation failed after 3", "reject 1 model_failed", "reject 2 model_failed",
    ]  # fmt: skip
    error = proxy.errors[1]
    assert (error.status, error.retry_after_s) == (503, 30.0)
    assert error.message == "The model 'm' failed to load (EngineExited): exit code 1"


def test_a_failed_model_refuses_for_30_s_and_then_the_next_request_starts_it_afresh():
    proxy = Proxy()
    proxy.change(0.0, phase="Failed", failure=EXITED)
    assert proxy.arrive(1, 29.9) == ["reject 1 model_failed"]
    assert proxy.arrive(2, 30.0) == ["activate"]
    assert proxy.change(30.1, phase="Failed", failure=EXITED) == []
    assert proxy.arrive(3, 30.2) == []
    assert proxy.change(31.0, phase="Loading") == []
    again = LoadFailure(reason="EngineExited", message="exit code 1", at=T0.replace(minute=1))
    assert proxy.change(33.0, phase="Failed", failure=again) == [
        "activation failed after 3", "reject 2 model_failed", "reject 3 model_failed",
    ]  # fmt: skip
    assert proxy.arrive(4, 34.0) == ["reject 4 model_failed"]


def test_an_old_failure_found_at_start_does_not_refuse():
    proxy = Proxy()
    proxy.change(0.0, phase="Failed", failure=EXITED, failure_age_s=3600.0)
    assert proxy.arrive(1, 1.0) == ["activate"]


def test_a_failed_model_with_a_replica_that_still_answers_is_served():
    proxy = Proxy()
    proxy.ready(A, now=0.0)
    assert proxy.change(0.0, phase="Failed", failure=EXITED) == []
    assert proxy.arrive(1, 1.0) == ["dispatch 1 a", "touch 1"]


def test_a_load_without_progress_is_told_at_once_and_counted_once():
    proxy = Proxy(Limits(stall_s=20.0))
    loading = {"phase": "Loading", "substage": "LoadingWeights", "progress": 0.4}
    proxy.arrive(1, 0.0)
    proxy.change(1.0, **loading)
    proxy.change(2.0, **loading, message="another word, no progress")
    assert proxy.machine.wake_at == 21.0
    assert proxy.tick(21.0) == ["stalled LoadingWeights", "reject 1 model_loading"]
    assert proxy.errors[1].message == (
        "The model 'm' makes no progress: phase Loading, LoadingWeights, 40% done, "
        "another word, no progress, the same for 20 s."
    )
    assert proxy.arrive(2, 22.0) == ["reject 2 model_loading"]
    proxy.change(23.0, phase="Loading", substage="LoadingWeights", progress=0.5)
    assert proxy.arrive(3, 24.0) == []


@pytest.mark.parametrize(
    "facts",
    [
        pytest.param({"phase": "Loading", "progress": None}, id="an engine that reports none"),
        pytest.param({"phase": "Loading", "progress": 1.0}, id="a load that is done and warms up"),
    ],
)
def test_no_stall_is_seen_where_progress_cannot_be_expected(facts):
    proxy = Proxy(Limits(stall_s=1.0))
    proxy.arrive(1, 0.0)
    proxy.change(0.0, **facts)
    assert proxy.tick(20.0) == []


def test_a_deleted_model_answers_404_to_those_who_wait_and_to_late_ones():
    proxy = Proxy()
    proxy.arrive(1, 0.0)
    assert proxy.lines(proxy.machine.model_deleted("m", 1.0)) == [
        "activation deleted after 1",
        "reject 1 model_not_found",
    ]
    assert proxy.arrive(2, 2.0) == ["reject 2 model_not_found"]
    assert proxy.machine.queue("m") is None
    assert proxy.machine.tick(100.0) == []


def test_a_request_that_is_refused_after_its_model_was_deleted_gets_404():
    proxy = Proxy()
    proxy.ready(A, now=0.0)
    proxy.arrive(1, 0.0)
    proxy.machine.model_deleted("m", 1.0)
    assert proxy.refused(1, 1.0) == ["reject 1 model_not_found"]


def test_an_activation_that_could_not_be_written_is_told_and_the_next_request_tries_again():
    proxy = Proxy()
    proxy.arrive(1, 0.0)
    assert proxy.lines(proxy.machine.activation_failed(proxy.queue, "the API server answered 500", 1.0)) == [
        "activation unwritten after 1", "reject 1 activation_failed",
    ]  # fmt: skip
    assert proxy.errors[1].message == "The model 'm' could not be woken: the API server answered 500"
    assert proxy.arrive(2, 2.0) == ["activate"]


def test_a_write_that_fails_after_the_model_became_ready_harms_nobody():
    proxy = Proxy(slots=1)
    proxy.arrive(1, 0.0)
    proxy.ready(A, now=1.0)
    proxy.arrive(2, 1.0)
    assert proxy.machine.activation_failed(proxy.queue, "late", 2.0) == []
    assert proxy.queue.depth == 1


def test_while_draining_new_requests_are_refused_and_those_that_wait_are_served():
    proxy = Proxy()
    proxy.arrive(1, 0.0)
    proxy.machine.drain()
    assert proxy.arrive(2, 1.0) == ["reject 2 shutting_down"]
    assert proxy.ready(A, now=2.0) == ["activation ready after 2", "dispatch 1 a"]


def test_replicas_that_are_about_to_go_get_nothing_new_and_the_request_keeps_the_model():
    proxy = Proxy(slots=2)
    proxy.ready(A, now=0.0)
    proxy.change(1.0, phase="Ready", slots=2, holding=True)
    assert proxy.arrive(1, 2.0) == ["activate"]
    assert proxy.change(3.0, phase="Ready", slots=2) == ["activation ready after 1", "dispatch 1 a"]


def test_a_model_that_went_idle_under_its_waiters_is_woken_again():
    proxy = Proxy(slots=2)
    proxy.ready(A, now=0.0)
    proxy.change(1.0, phase="Ready", slots=2, holding=True)
    proxy.arrive(1, 2.0)
    proxy.ready(now=3.0)
    assert proxy.change(3.0, phase="Idle", slots=2) == ["activation idle after 1", "activate"]


def test_a_closed_port_puts_the_request_back_before_those_who_wait():
    proxy = Proxy(slots=1)
    proxy.ready(A, B, now=0.0)
    for number in (1, 2, 3):
        proxy.arrive(number, 0.0)
    assert proxy.refused(2, 1.0) == []
    assert proxy.refused(1, 1.0) == ["activate"]
    assert proxy.ready(A, now=1.5) == []
    proxy.ready(now=1.6)
    assert proxy.ready(A, now=2.0) == ["activation ready after 1", "dispatch 1 a"]
    assert proxy.done(1, 3.0) == ["dispatch 2 a"]


def test_a_second_closed_port_ends_the_request_and_its_slot_serves_nobody_until_it_is_back():
    proxy = Proxy(slots=1)
    proxy.ready(A, B, now=0.0)
    for number in (1, 2, 3):
        proxy.arrive(number, 0.0)
    proxy.done(2, 0.5)
    proxy.done(3, 0.5)
    assert proxy.refused(1, 1.0) == ["dispatch 1 b"]
    proxy.arrive(4, 1.0)
    assert proxy.refused(1, 1.5) == ["activate"]
    assert proxy.requests[1].refusals == 2
    assert proxy.done(1, 1.5) == []
    proxy.ready(now=1.6)
    assert proxy.ready(B, now=2.0) == ["activation ready after 0.5", "dispatch 4 b"]


def test_a_closed_port_sends_the_request_to_another_replica_at_once():
    proxy = Proxy(slots=2)
    proxy.ready(A, B, now=0.0)
    proxy.arrive(1, 0.0)
    assert proxy.refused(1, 1.0) == ["dispatch 1 b"]
    assert proxy.arrive(2, 1.0) == ["dispatch 2 b"]


def test_a_replica_with_a_closed_port_is_tried_again_after_a_while_though_its_slice_stays():
    proxy = Proxy(Limits(shun_s=5.0))
    proxy.ready(A, now=0.0)
    proxy.arrive(1, 0.0)
    proxy.refused(1, 1.0)
    assert proxy.machine.wake_at == 6.0
    assert proxy.tick(6.0) == ["dispatch 1 a"]


def test_use_is_written_at_most_every_third_of_the_idle_window():
    proxy = Proxy(idle_timeout_s=30.0, slots=4)
    proxy.ready(A, now=0.0)
    assert proxy.arrive(1, 0.0) == ["dispatch 1 a", "touch 0"]
    proxy.done(1, 1.0)
    assert proxy.arrive(2, 9.0) == ["dispatch 2 a"]
    proxy.done(2, 9.5)
    assert proxy.tick(10.0) == ["touch 9.5"]
    assert proxy.tick(100.0) == []
    assert proxy.machine.wake_at == float("inf")


@pytest.mark.parametrize(
    ("idle_timeout_s", "times"),
    [
        pytest.param(600.0, [30.0, 60.0, 90.0], id="every 30 s"),
        pytest.param(30.0, [10.0, 20.0, 30.0], id="every third of a short idle window"),
    ],
)
def test_use_is_written_while_a_request_is_open(idle_timeout_s, times):
    proxy = Proxy(idle_timeout_s=idle_timeout_s)
    proxy.ready(A, now=0.0)
    proxy.arrive(1, 0.0)
    for time in times:
        assert proxy.machine.wake_at == time
        assert proxy.tick(time) == [f"touch {time:g}"]


def test_use_is_written_while_a_request_waits():
    proxy = Proxy(idle_timeout_s=30.0)
    proxy.arrive(1, 0.0)
    assert proxy.tick(10.0) == ["touch 10"]


def test_what_is_open_when_a_model_is_stopped_does_not_count_as_use_but_what_comes_does():
    proxy = Proxy(Limits(beat_s=10.0))
    proxy.ready(A, now=0.0)
    assert proxy.arrive(1, 0.0) == ["dispatch 1 a", "touch 0"]
    proxy.change(5.0, phase="Ready", stopped=True, holding=True)
    assert proxy.tick(10.0) == []
    assert proxy.arrive(2, 11.0) == ["activate"]


def test_a_failed_model_is_never_touched_because_that_would_ask_for_another_try():
    proxy = Proxy(idle_timeout_s=3.0)
    proxy.ready(A, now=0.0)
    proxy.arrive(1, 0.0)
    proxy.ready(now=0.5)
    proxy.change(0.5, phase="Failed", failure=EXITED)
    assert proxy.tick(60.0) == []
    proxy.done(1, 61.0)
    assert proxy.tick(120.0) == []


def test_at_rest_there_is_nothing_to_do():
    proxy = Proxy()
    proxy.ready(A, now=0.0)
    assert proxy.machine.wake_at == float("inf")


ENDINGS: list[Any] = [
    pytest.param(lambda proxy: proxy.done(1, 1.0), id="done twice"),
    pytest.param(lambda proxy: proxy.gone(1, 1.0), id="done, then gone"),
]


@pytest.mark.parametrize("again", ENDINGS)
def test_a_request_ends_only_once(again: Callable[[Proxy], list[str]]):
    proxy = Proxy(slots=1)
    proxy.ready(A, now=0.0)
    proxy.arrive(1, 0.0)
    proxy.done(1, 0.5)
    assert again(proxy) == []
    assert (proxy.queue.free, proxy.queue.open) == (1, 0)
