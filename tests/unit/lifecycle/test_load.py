"""How many replicas the requests in flight ask for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexinfer.lifecycle.load import EVERY_S, STABLE_S, Sample, kept, replicas

NOW_S = 1000.0
LONG_AGO = Sample(NOW_S - STABLE_S, 0)


def ago(seconds: float, in_flight: int, *, complete: bool = True) -> Sample:
    return Sample(NOW_S - seconds, in_flight, complete)


@pytest.mark.parametrize(
    ("samples", "running", "asked"),
    [
        pytest.param([], 3, 3, id="nothing is known: those that run"),
        pytest.param([ago(0, 40)], 1, 5, id="up at once"),
        pytest.param([ago(0, 41)], 1, 6, id="a part of a replica is a whole one"),
        pytest.param([ago(0, 0)], 3, 3, id="not down before it has watched for long enough"),
        pytest.param([LONG_AGO, ago(60, 40), ago(0, 8)], 5, 5, id="not down while it was needed lately"),
        pytest.param([ago(125, 40), ago(115, 17), ago(0, 8)], 5, 3, id="down to what was needed lately"),
        pytest.param([ago(125, 40), ago(115, 0), ago(0, 0)], 5, 0, id="nothing was asked"),
        pytest.param([LONG_AGO, ago(5, 8, complete=False), ago(0, 8)], 4, 4, id="a silent proxy takes no replica away"),
        pytest.param([LONG_AGO, ago(0, 48, complete=False)], 4, 6, id="what the others tell may add some"),
    ],
)
def test_replicas(samples, running, asked):
    assert replicas(samples, 8, running, NOW_S) == asked


@given(
    counts=st.lists(st.tuples(st.integers(0, 200), st.booleans()), max_size=80),
    running=st.integers(0, 20),
    target=st.integers(1, 50),
)
def test_what_is_forgotten_changes_nothing_and_no_silence_takes_one_away(counts, running, target):
    samples: list[Sample] = []
    whole: list[Sample] = []
    for step, (count, complete) in enumerate(counts):
        now_s = step * EVERY_S
        whole.append(Sample(now_s, count, complete))
        samples = kept([*samples, whole[-1]], now_s)
        asked = replicas(samples, target, running, now_s)
        assert asked == replicas(whole, target, running, now_s)
        assert asked >= -(-count // target)
        if not complete:
            assert asked >= running
    assert len(samples) <= STABLE_S / EVERY_S + 2
