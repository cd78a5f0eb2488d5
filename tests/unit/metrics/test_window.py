"""Live throughput and latency: a sliding minute, absent without requests."""

from __future__ import annotations

import random

import pytest

from flexinfer.metrics.window import Live, Window, merge


def test_nothing_is_reported_without_a_request():
    assert Window().read(1000.0) is None


def test_one_request_is_seen_for_a_minute_and_then_no_more():
    window = Window()
    window.add(1000.0, 2.0, 120, 0.5)
    live = window.read(1000.0)
    assert live is not None
    assert live.tokens_per_second == 2.0
    assert live.latency_avg_s == 2.0
    assert live.latency_p95_s == pytest.approx(2.0, rel=0.05)
    assert window.read(1059.9) == live
    assert window.read(1060.0) is None


def test_tokens_of_a_long_answer_are_spread_over_the_time_they_took():
    window = Window()
    window.add(1000.0, 120.0, 1200, 120.0)
    live = window.read(1000.0)
    assert live is not None
    assert live.tokens_per_second == pytest.approx(10.0)


def test_an_answer_that_began_before_the_clock_did_is_counted_as_far_as_it_goes():
    window = Window()
    window.add(2.0, 30.0, 300, 30.0)
    live = window.read(2.0)
    assert live is not None
    assert live.tokens_per_second == pytest.approx(30 / 60)


@pytest.mark.parametrize("seed", range(5))
def test_the_percentile_is_right_within_five_percent(seed):
    choice = random.Random(seed)
    window, latencies = Window(), []
    for number in range(2000):
        latency = choice.lognormvariate(0.0, 1.5)
        latencies.append(latency)
        window.add(1000.0 + number * 0.02, latency, 0, 0.0)
    live = window.read(1040.0)
    assert live is not None
    assert live.latency_p95_s == pytest.approx(sorted(latencies)[1899], rel=0.05)


@pytest.mark.parametrize("latency", [pytest.param(0.0, id="none at all"), pytest.param(1e9, id="years")])
def test_odd_latencies_are_held(latency):
    window = Window()
    window.add(1000.0, latency, 1, latency)
    assert window.read(1000.0) is not None


def test_nodes_add_up_and_the_slowest_counts():
    fast = Live(tokens_per_second=10.0, latency_p95_s=1.0, latency_avg_s=0.5)
    slow = Live(tokens_per_second=5.0, latency_p95_s=4.0, latency_avg_s=2.0)
    assert merge([fast, slow]) == Live(tokens_per_second=15.0, latency_p95_s=4.0, latency_avg_s=2.0)
    assert merge([]) is None
