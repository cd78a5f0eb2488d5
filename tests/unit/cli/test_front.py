"""What one of several workers may use."""

from __future__ import annotations

import pytest

from flexinfer.cli.front import FrontSettings, share
from flexinfer.proxy.settings import MIB, ProxySettings


@pytest.mark.parametrize(
    ("whole", "count", "shares"),
    [
        pytest.param(8, 2, [4, 4], id="what can be divided is"),
        pytest.param(7, 3, [3, 2, 2], id="the first get what is left over"),
        pytest.param(2, 3, [1, 1, 1], id="less than one for each: one for each"),
    ],
)
def test_shares(whole, count, shares):
    assert [share(whole, index, count) for index in range(count)] == shares


def test_limits_are_divided_and_time_outs_are_not():
    whole = FrontSettings(
        proxy=ProxySettings(
            max_connections=11, max_body_bytes=64 * MIB, body_memory_bytes=100 * MIB, total_timeout_s=7.0
        ),
        queue_size=5,
        allowed_cidrs=("203.0.113.0/24",),
    )
    # Each can take the largest body that is allowed.
    proxy = ProxySettings(max_connections=5, max_body_bytes=64 * MIB, body_memory_bytes=64 * MIB, total_timeout_s=7.0)
    assert whole.shared(1, 2) == FrontSettings(proxy=proxy, queue_size=2, allowed_cidrs=("203.0.113.0/24",))


def test_a_queue_of_nothing_stays_one():
    assert FrontSettings(proxy=ProxySettings(), queue_size=0).shared(0, 2).queue_size == 0
