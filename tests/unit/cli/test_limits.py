"""Time-outs and limits as users write them."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec
import pytest
from click.testing import CliRunner

from flexinfer.cli import limits
from flexinfer.lifecycle.activation import Limits
from flexinfer.proxy.settings import ProxySettings

DOCUMENT = Path(__file__).parents[3] / "docs" / "proxy.md"


def parsed(*words: str) -> tuple[int, str, dict]:
    seen: dict = {}

    @click.command()
    @limits.options
    def command(**given: object) -> None:
        seen.update(given)
        seen["proxy"] = limits.settings(given)

    result = CliRunner().invoke(command, words)
    return result.exit_code, result.output, seen


def test_the_defaults_are_those_of_the_proxy_and_its_queue():
    code, _, seen = parsed()
    assert (code, seen["proxy"], seen["queue_size"]) == (0, ProxySettings(), Limits().queue_size)
    assert (seen["grace"], seen["drain_delay"]) == (30.0, 0.0)


def test_each_flag_reaches_its_setting():
    code, _, seen = parsed(
        "--header-timeout", "1s", "--body-timeout", "2s", "--keepalive-timeout", "3s", "--first-byte-timeout", "4m",
        "--stream-idle-timeout", "1m30s", "--total-timeout", "2h", "--max-body", "1MiB", "--buffer-memory", "2Gi",
        "--max-connections", "7", "--queue-size", "0", "--drain-delay", "5s", "--grace", "10m",
    )  # fmt: skip
    assert code == 0
    assert seen.pop("proxy") == msgspec.structs.replace(
        ProxySettings(),
        header_timeout_s=1.0,
        body_timeout_s=2.0,
        keepalive_timeout_s=3.0,
        first_byte_timeout_s=240.0,
        stream_idle_timeout_s=90.0,
        total_timeout_s=7200.0,
        max_body_bytes=2**20,
        body_memory_bytes=2**31,
        max_connections=7,
    )
    assert (seen["queue_size"], seen["drain_delay"], seen["grace"]) == (0, 5.0, 600.0)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        pytest.param("64MiB", 64 * 2**20, id="binary, with its B"),
        pytest.param("64Mi", 64 * 2**20, id="binary, as Kubernetes writes it"),
        pytest.param("64MB", 64_000_000, id="decimal, with its B"),
        pytest.param("1.5Gi", 3 * 2**29, id="a fraction"),
        pytest.param("4096", 4096, id="bytes"),
    ],
)
def test_sizes_are_read(text, size):
    assert limits.SIZE.convert(text, None, None) == size


@pytest.mark.parametrize(
    ("words", "said"),
    [
        pytest.param(("--grace", "30"), "expected a duration with its unit, such as 90s", id="a time without its unit"),
        pytest.param(("--grace", "-1s"), "expected a duration", id="a negative time"),
        pytest.param(("--header-timeout", "0s"), "expected more than nothing", id="a time-out of nothing"),
        pytest.param(("--total-timeout", "soon"), "'soon': expected a duration", id="no time at all"),
        pytest.param(("--max-body", "64m"), "expected a size such as 64MiB", id="a thousandth of bytes"),
        pytest.param(("--max-body", "0"), "expected a size", id="a size of nothing"),
        pytest.param(("--max-body", "1.2.3Mi"), "expected a size", id="no number"),
        pytest.param(("--max-body", "lots"), "expected a size", id="no size at all"),
        pytest.param(("--max-connections", "0"), "x>=1", id="no connection"),
        pytest.param(("--max-body", "1Gi"), "larger than --buffer-memory", id="a body that fits into no memory"),
    ],
)
def test_a_wrong_limit_is_told_with_what_would_be_right(words, said):
    code, output, _ = parsed(*words)
    assert (code, said in output) == (2, True), output


def test_zero_is_a_grace():
    assert parsed("--grace", "0s")[2]["grace"] == 0.0


def test_the_document_has_the_table():
    assert limits.table() in DOCUMENT.read_text(encoding="utf-8")
