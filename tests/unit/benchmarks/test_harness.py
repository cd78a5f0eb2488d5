"""The parts of the figures that can be wrong without anybody seeing it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable

import pytest
from benchmarks import large_body, machine, memory_slope, peers, sse, wrk
from benchmarks.table import Table, median, percentile


def test_an_event_is_one_chunk_of_180_bytes_that_carries_the_clock():
    now_ns = time.monotonic_ns()
    size, payload = (sse.BEFORE_CLOCK + b"%d" % now_ns + sse.AFTER_CLOCK).split(b"\r\n", 1)
    assert (int(size, 16), len(payload)) == (sse.EVENT_BYTES, sse.EVENT_BYTES + len(b"\r\n"))
    assert json.loads(payload.removeprefix(b"data: "))["t"] == now_ns


def test_bodies_have_the_sizes_that_the_figures_name():
    assert 600 <= len(wrk.chat_body()) <= 1024
    assert len(peers.answer_of_one_kilobyte()) == 1024


@pytest.mark.parametrize(
    ("values", "middle", "high"),
    [
        pytest.param([3.0], 3.0, 3.0, id="one value is everything"),
        pytest.param([4.0, 1.0, 2.0], 2.0, 4.0, id="an odd number has a middle"),
        pytest.param([4.0, 1.0, 3.0, 2.0], 2.5, 4.0, id="an even number has two"),
        pytest.param([float(n) for n in range(1, 201)], 100.5, 199.0, id="the 99th of a hundred, not the highest"),
    ],
)
def test_median_and_99th_percentile(values: list[float], middle: float, high: float):
    assert (median(values), percentile(values, 0.99)) == (middle, high)


def test_a_table_is_markdown():
    table = Table(title="T", command="c", columns=("a", "b"), rows=[("1", "2")], notes=["n"])
    assert table.markdown() == "## T\n\n`c`\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n- n"


def test_cpu_and_memory_of_this_process_are_seen():
    tree = machine.process_tree(os.getpid())
    assert tree[0] == os.getpid()
    assert machine.cpu_ns(tree) > 0
    assert machine.pss_mib(os.getpid()) > 1


def test_a_large_body_is_as_large_as_its_figure_says():
    assert len(large_body.body()) == large_body.BODY_BYTES


@pytest.mark.parametrize(
    ("mib_of", "slope"),
    [
        pytest.param(lambda done: 27.0, 0.0, id="nothing grows"),
        pytest.param(lambda done: 27.0 + done / 100_000, 1.0, id="a MiB in 100,000 requests"),
        pytest.param(lambda done: 20.0 if done <= 20_000 else 27.0, 0.0, id="what the first tenth takes is no growth"),
    ],
)
def test_growth_per_100_000_requests(mib_of: Callable[[int], float], slope: float):
    samples = [(done, mib_of(done)) for done in range(10_000, 210_000, 10_000)]
    assert memory_slope.slope_mib(samples) == pytest.approx(slope, abs=0.05)
