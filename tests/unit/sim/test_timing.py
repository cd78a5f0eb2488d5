"""The simulator's timing model: step times, slots and queue, prefix cache."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexinfer.sim.timing import Admission, PrefixCache, Timing, block_keys, prompt_tokens


@pytest.mark.parametrize(
    ("timing", "uncached_tokens", "running", "expected"),
    [
        pytest.param(Timing(prefill_rate=1000, decode_rate=50), 500, 1, (0.5, 0.02), id="one request alone"),
        pytest.param(Timing(prefill_rate=1000, decode_rate=50), 500, 8, (0.5, 0.02), id="batching is free by default"),
        pytest.param(
            Timing(prefill_rate=1000, decode_rate=50, batch_slowdown=0.5), 0, 3, (0.0, 0.04), id="or costs a fraction"
        ),
        pytest.param(Timing(prefill_rate=0, decode_rate=0), 500, 8, (0.0, 0.0), id="0 is no wait"),
    ],
)
def test_step_times(timing: Timing, uncached_tokens: int, running: int, expected: tuple[float, float]) -> None:
    assert (timing.prefill_s(uncached_tokens), timing.step_s(running)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("prompt", "tokens"),
    [pytest.param(b"", 1, id="empty"), pytest.param(b"abc", 2, id="part"), pytest.param(b"abcdefgh", 3, id="whole")],
)
def test_prompt_tokens(prompt: bytes, tokens: int) -> None:
    assert prompt_tokens(prompt) == tokens


def test_slots_are_taken_in_order_of_arrival() -> None:
    admission = Admission(slots=2, kv_tokens=1_000)
    assert [admission.arrive(number, 10) for number in (1, 2, 3, 4)] == [[1], [2], [], []]
    assert (admission.running, admission.waiting) == (2, 2)
    assert admission.leave(1) == [3]
    assert admission.leave(4) == []
    assert admission.leave(2) == []
    assert (admission.running, admission.waiting) == (1, 0)


def test_a_request_waits_for_room_in_the_kv_cache_and_holds_back_those_behind_it() -> None:
    admission = Admission(slots=8, kv_tokens=100)
    assert admission.arrive(1, 60) == [1]
    assert admission.arrive(2, 50) == []
    assert admission.arrive(3, 10) == []
    assert admission.leave(1) == [2, 3]


def test_a_request_larger_than_the_cache_runs_alone() -> None:
    admission = Admission(slots=8, kv_tokens=100)
    assert admission.arrive(1, 500) == [1]
    assert admission.arrive(2, 1) == []


def test_kv_usage_is_what_running_requests_have_computed() -> None:
    admission = Admission(slots=8, kv_tokens=100)
    admission.arrive(1, 50)
    admission.arrive(2, 50)
    admission.computed(1, 10)
    admission.computed(2, 15)
    assert (admission.kv_used_tokens, admission.kv_usage) == (25, 0.25)
    admission.leave(2)
    assert admission.kv_usage == 0.10


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9), st.integers(1, 150)), max_size=60))
@settings(max_examples=40)
def test_nothing_is_lost_doubled_or_over_the_limits(steps: list[tuple[bool, int, int]]) -> None:
    admission = Admission(slots=3, kv_tokens=200)
    present: set[int] = set()
    begun: list[int] = []
    running: set[int] = set()
    for number, (arrives, pick, tokens) in enumerate(steps):
        if arrives or not present:
            present.add(number)
            new = admission.arrive(number, tokens)
        else:
            gone = sorted(present)[pick % len(present)]
            present.discard(gone)
            running.discard(gone)
            new = admission.leave(gone)
        begun += new
        running |= set(new)
        assert running <= present
        assert admission.running == len(running) <= 3
        assert admission.running + admission.waiting == len(present)
        assert admission.running > 0 or not present
    assert len(begun) == len(set(begun))


def test_the_prefix_cache_gives_back_whole_blocks_of_equal_beginnings() -> None:
    cache = PrefixCache(kv_tokens=1_000)
    assert cache.take(b"s" * 150) == 0
    assert cache.take(b"s" * 150) == 32
    assert cache.take(b"s" * 64 + b"t" * 64) == 16
    assert cache.take(b"t" * 64) == 0
    assert (cache.queried_tokens, cache.hit_tokens) == (39 + 39 + 33 + 17, 48)


def test_the_prefix_cache_forgets_what_was_used_longest_ago() -> None:
    cache = PrefixCache(kv_tokens=32)
    cache.take(b"a" * 64)
    cache.take(b"b" * 64)
    cache.take(b"a" * 64)
    cache.take(b"c" * 64)
    assert [cache.take(letter * 64) for letter in (b"a", b"b")] == [16, 0]


def test_a_block_s_key_depends_on_all_before_it() -> None:
    first, second = block_keys(b"a" * 128)
    assert first != second
    assert block_keys(b"b" * 64 + b"a" * 64)[1] != second
    assert block_keys(b"a" * 200) == [first, second, *block_keys(b"a" * 192)[2:]]
