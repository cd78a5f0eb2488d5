"""Several processes as one in /metrics."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.manual_clock import ManualClock

from flexinfer.metrics.proxy import Gauges, ProxyMetrics
from flexinfer.metrics.registry import Registry
from flexinfer.metrics.shared import SharedSeries


class Process:
    def __init__(self, folder: Path, own: str, models: set[str]) -> None:
        self.metrics = ProxyMetrics(ManualClock())
        self.series = SharedSeries(folder, own, self.metrics, lambda name: name in models)

    def count(self, model: str, requests: int) -> None:
        series = self.metrics.model(model, "llamacpp", lambda: Gauges(requests, 0, 1))
        series.requests["success"] += requests
        series.endpoint_changes["added"] = 1
        for _ in range(requests):
            series.duration.observe(0.2)
            series.answered(0.0, "local", 0.2, 60, 0.1)

    def lines(self) -> list[str]:
        return Registry(self.series).render().decode().splitlines()


SUCCESS = 'flexinfer_proxy_requests_total{model="m",status="success"} '
ACTIVE = 'flexinfer_proxy_active_connections{model="m"} '


def test_counts_and_rates_add_up_and_what_each_sees_for_itself_does_not(tmp_path):
    one, other = Process(tmp_path, "0", {"m"}), Process(tmp_path, "1", {"m"})
    one.count("m", 3)
    other.count("m", 4)
    other.series.publish()
    lines = one.lines()
    assert lines == other.lines()
    for line in (
        SUCCESS + "7",
        ACTIVE + "7",
        'flexinfer_proxy_endpoint_count{model="m"} 1',
        'flexinfer_proxy_endpoint_changes_total{model="m",change_type="added"} 1',
        'flexinfer_proxy_request_duration_seconds_count{model="m"} 7',
        'flexinfer_proxy_request_duration_seconds_bucket{model="m",le="0.1"} 0',
        'flexinfer_proxy_request_duration_seconds_bucket{model="m",le="0.25"} 7',
        'flexinfer_tokens_per_second{model="m",backend="llamacpp",node="local"} 7.0',
    ):
        assert line in lines


@pytest.mark.parametrize("broken", [b"", b"{", b'{"\xff":[]}', b'{"a":' + b"[" * 100_000], ids=lambda raw: raw[:5])
def test_a_file_that_cannot_be_read_counts_for_nothing(tmp_path, broken):
    (tmp_path / "1.series").write_bytes(broken)
    one = Process(tmp_path, "0", {"m"})
    one.count("m", 3)
    assert SUCCESS + "3" in one.lines()


def test_a_successor_goes_on_from_the_counters_of_the_dead_and_not_from_its_gauges(tmp_path):
    Process(tmp_path, "0", {"m"}).lines()
    dead = Process(tmp_path, "0", {"m"})
    dead.count("m", 3)
    dead.series.publish()
    successor = Process(tmp_path, "0", {"m"})
    assert SUCCESS + "3" in successor.lines()
    assert not [line for line in successor.lines() if line.startswith(ACTIVE)]
    successor.count("m", 2)
    assert SUCCESS + "5" in successor.lines()
    assert ACTIVE + "2" in successor.lines()


def test_a_deleted_model_is_forgotten_for_good(tmp_path):
    models = {"m"}
    dead = Process(tmp_path, "0", models)
    dead.count("m", 3)
    dead.series.publish()
    successor = Process(tmp_path, "0", models)
    models.clear()
    assert successor.lines() == []
    models.add("m")
    successor.count("m", 1)
    assert SUCCESS + "1" in successor.lines()


def test_a_spoilt_file_and_a_folder_that_has_gone_hide_nothing_else(tmp_path):
    (tmp_path / "1.series").write_bytes(b"{")
    one = Process(tmp_path, "0", {"m"})
    one.count("m", 3)
    assert SUCCESS + "3" in one.lines()
    elsewhere = Process(tmp_path / "gone", "0", {"m"})
    elsewhere.count("m", 3)
    assert elsewhere.lines() == []
