"""Durations and quantities: what they mean and what is none."""

from __future__ import annotations

import pytest

from flexinfer.api.quantity import Duration, Quantity


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        pytest.param("90s", 90.0, id="seconds"),
        pytest.param("1h30m", 5400.0, id="hours and minutes"),
        pytest.param("1.5h", 5400.0, id="a fraction"),
        pytest.param("250ms", 0.25, id="milliseconds"),
        pytest.param("5us", 5e-6, id="microseconds"),
        pytest.param("0s", 0.0, id="nothing"),
        pytest.param("87600h", 315_360_000.0, id="ten years"),
    ],
)
def test_duration(text, seconds):
    duration = Duration(text)
    assert (duration.seconds, str(duration)) == (seconds, text)


@pytest.mark.parametrize("text", ["", "5", "5 m", "-5m", "+5m", "5d", "m", ".5s", "5.s", "0.5ns", "5m\n", "87601h"])
def test_no_duration(text):
    with pytest.raises(ValueError, match="a duration with its unit"):
        Duration(text)


@pytest.mark.parametrize(
    ("text", "amount", "mib"),
    [
        pytest.param("2", 2, 0, id="a number"),
        pytest.param("8Gi", 8 * 2**30, 8192, id="binary"),
        pytest.param("8G", 8 * 10**9, 7629, id="decimal"),
        pytest.param("1500m", 2, 0, id="thousandths are rounded up"),
        pytest.param("1e3", 1000, 0, id="an exponent"),
        pytest.param("1E", 10**18, 10**18 // 2**20, id="exa is no exponent"),
        pytest.param("+.5Ki", 512, 0, id="a plus and no digit before the point"),
    ],
)
def test_quantity(text, amount, mib):
    quantity = Quantity(text)
    assert (quantity.bytes, quantity.mib, str(quantity)) == (amount, mib, text)


@pytest.mark.parametrize("text", ["", "-1", "1 Gi", "1GB", "Gi", ".", "1e", "1e100", "9" * 31, "1\n"])
def test_no_quantity(text):
    with pytest.raises(ValueError, match="a quantity"):
        Quantity(text)


def test_equal_when_written_alike():
    assert (Quantity("1Gi") == Quantity("1Gi"), Quantity("1Gi") == Quantity("1024Mi"), Duration("1m") == "1m") == (
        True,
        False,
        False,
    )
