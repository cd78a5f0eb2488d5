"""/metrics: the exposition text, and the documentation that is made from the same families."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.manual_clock import ManualClock
from tests.support.models import model

from flexinfer.metrics import registry
from flexinfer.metrics.family import SECONDS, Family, Histogram
from flexinfer.metrics.model import ModelMetrics
from flexinfer.metrics.proxy import FAMILIES, Gauges, ModelSeries, ProxyMetrics

DOCUMENT = Path(__file__).parents[3] / "docs" / "reference" / "metrics.md"


def busy(series: ModelSeries, now: float) -> None:
    """One of everything."""
    series.requests["success"] += 2
    series.requests["cancelled"] += 1
    series.scale_ups = series.queued = series.queue_rejected = 1
    series.endpoint_changes["added"] = 1
    series.routed["least-loaded", "none", "only"] = 2
    series.hits["least-loaded", "m-0"] = 2
    series.activation_failures["timeout"] = 1
    series.activation_retries = 1
    series.stalled["LoadingWeights"] = 1
    series.completions["true"] = 2
    series.retries["conn_refused"] = 1
    series.duration.observe(0.2)
    series.queue_wait.observe(1.0)
    series.prompt_tokens.observe(40_000)
    series.tokens.observe(7)
    series.activation("ready", 3.0)
    series.answered(now, "local", 0.2, 30, 0.1)


def samples(body: bytes) -> dict[str, float]:
    return {
        f"{sample.name}{sorted(sample.labels.items())}": sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


def test_every_family_of_the_proxy_is_written_and_can_be_read_back(clock: ManualClock):
    metrics = ProxyMetrics(clock)
    busy(metrics.model("m", "llamacpp", lambda: Gauges(3, 4, 2)), clock.monotonic())
    metrics.shutdown("drained", 2.0)
    metrics.endpoint_refresh.observe(0.001)
    body = registry.Registry(metrics).render()
    found = {family.name for family in text_string_to_metric_families(body.decode())}
    assert found == {family.name.removesuffix("_total") for family in FAMILIES}
    values = samples(body)
    assert values["flexinfer_proxy_requests_total[('model', 'm'), ('status', 'success')]"] == 2
    assert values["flexinfer_proxy_requests_total[('model', 'm'), ('status', 'error')]"] == 0
    assert values["flexinfer_proxy_active_connections[('model', 'm')]"] == 3
    assert values["flexinfer_proxy_queue_depth[('model', 'm')]"] == 4
    assert values["flexinfer_proxy_endpoint_count[('model', 'm')]"] == 2
    assert values["flexinfer_tokens_per_second[('backend', 'llamacpp'), ('model', 'm'), ('node', 'local')]"] == 0.5
    assert values["flexinfer_proxy_request_duration_seconds_bucket[('le', '0.25'), ('model', 'm')]"] == 1
    assert values["flexinfer_proxy_request_duration_seconds_bucket[('le', '0.1'), ('model', 'm')]"] == 0
    assert values["flexinfer_proxy_request_duration_seconds_bucket[('le', '+Inf'), ('model', 'm')]"] == 1


def test_a_deleted_model_leaves_no_series(clock: ManualClock):
    metrics = ProxyMetrics(clock)
    busy(metrics.model("m", "llamacpp", lambda: Gauges(3, 4, 2)), clock.monotonic())
    metrics.forget("m")
    assert registry.Registry(metrics).render() == b""


def test_live_figures_are_absent_a_minute_after_the_last_request(clock: ManualClock):
    metrics = ProxyMetrics(clock)
    metrics.model("m", "llamacpp", lambda: Gauges(3, 4, 2)).answered(0.0, "local", 0.2, 60, 0.1)
    live = metrics.live("m")
    assert live is not None
    assert live.tokens_per_second == 1.0
    clock.advance(60.0)
    assert metrics.live("m") is None
    assert metrics.live("other") is None
    assert b"flexinfer_tokens_per_second" not in registry.Registry(metrics).render()


def test_the_manager_shows_phase_and_load_time_of_the_models_there_are():
    there = [
        model("a", {"phase": "Ready", "metrics": {"loadTimeSeconds": "2.500"}, "gpu": {"node": "gpu-1"}}),
        model("b", {"metrics": {"loadTimeSeconds": "soon"}}),
    ]
    values = samples(registry.Registry(ModelMetrics(lambda: there)).render())
    assert values["flexinfer_model_load_seconds[('model', 'a'), ('node', 'gpu-1')]"] == 2.5
    assert {name for name, value in values.items() if value == 1 and "phase" in name} == {
        "flexinfer_model_phase[('model', 'a'), ('namespace', 'default'), ('phase', 'Ready')]",
        "flexinfer_model_phase[('model', 'b'), ('namespace', 'default'), ('phase', 'Idle')]",
    }


def test_label_values_and_help_are_escaped():
    family = Family(name="x", type="gauge", help="a\nb\\c", labels=("model",))
    lines = "".join(family.lines([(('a"b\nc\\d',), 1.5)]))
    (read,) = text_string_to_metric_families(lines)
    assert (read.documentation, read.samples[0].labels, read.samples[0].value) == (
        "a\nb\\c", {"model": 'a"b\nc\\d'}, 1.5,
    )  # fmt: skip


def test_a_family_without_values_is_left_out():
    assert list(Family(name="x", type="gauge", help="h").lines([])) == []


def test_a_histogram_counts_a_value_on_a_bound_below_it():
    histogram = Histogram(SECONDS)
    histogram.observe(0.005)
    assert (histogram.counts[0], histogram.count, histogram.total) == (1, 1, 0.005)


ALL_FAMILIES = [family for _, families in registry.SUBJECTS for family in families]


def test_names_are_unique():
    assert len({family.name for family in ALL_FAMILIES}) == len(ALL_FAMILIES)


@pytest.mark.parametrize("family", ALL_FAMILIES, ids=lambda family: family.name)
def test_names_follow_the_conventions(family: Family):
    # What every Prometheus client calls alike keeps that name.
    assert family.name.startswith(("flexinfer_", "process_"))
    assert family.name.endswith("_total") == (family.type == "counter")
    assert family.help.endswith(".")


def test_the_documentation_is_what_the_code_says():
    assert DOCUMENT.read_text() == registry.table()
