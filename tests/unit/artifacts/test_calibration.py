"""Estimates against tests/data/calibration/vram_measured.csv; its README says where the rows come from."""

from __future__ import annotations

import csv
import json
import statistics
from collections import defaultdict
from pathlib import Path

import pytest

from flexinfer.artifacts import checkpoint, memory, overhead
from flexinfer.artifacts.architecture import Architecture
from flexinfer.artifacts.overhead import Band

FOLDER = Path(__file__).parents[2] / "data/calibration"
GIB = 2**30
Row = dict[str, str]


def _rows() -> list[Row]:
    with (FOLDER / "vram_measured.csv").open(newline="") as file:
        return list(csv.DictReader(file))


ROWS = _rows()
CONFIGS = json.loads((FOLDER / "architectures.json").read_text())


def architecture_of(row: Row) -> Architecture:
    return checkpoint.of_config(CONFIGS[row["model"]])


def named(rows: list[Row]) -> list[object]:
    return [pytest.param(row, id=f"{row['engine']} {row['version']} {row['model']} on {row['gpu']}") for row in rows]


WITH_KV = [row for row in ROWS if row["bytes_per_token_per_gpu"]]
WITH_PROFILE = [row for row in ROWS if row["activation_peak_gib"] and row["non_torch_gib"]]
WITH_AVAILABLE = [row for row in WITH_PROFILE if row["kv_avail_gib"] and row["gpu_total_gib"]]


@pytest.mark.parametrize("row", named(WITH_KV))
def test_kv_bytes_per_token(row: Row) -> None:
    found = memory.token_bytes(architecture_of(row), gpus=int(row["tp"]), value_bytes=2)
    assert found == pytest.approx(float(row["bytes_per_token_per_gpu"]), rel=0.001)


def test_eleven_rows_have_kv_bytes() -> None:
    assert (len(ROWS), len(WITH_KV), len(WITH_AVAILABLE)) == (18, 11, 12)


@pytest.mark.parametrize("row", named(WITH_AVAILABLE))
def test_available_kv_from_the_rows_own_profile(row: Row) -> None:
    taken = sum(float(row[name]) for name in ("weights_gib", "activation_peak_gib", "non_torch_gib"))
    found = float(row["gpu_total_gib"]) * float(row["util"]) - taken
    assert found == pytest.approx(float(row["kv_avail_gib"]), rel=0.05)
    assert found <= 1.02 * float(row["kv_avail_gib"])


@pytest.mark.parametrize("row", named([row for row in WITH_KV if row["kv_tokens"] and row["kv_avail_gib"]]))
def test_tokens_that_fit_into_the_available_memory(row: Row) -> None:
    each = memory.token_bytes(architecture_of(row), gpus=int(row["tp"]), value_bytes=2)
    assert float(row["kv_avail_gib"]) * GIB / each == pytest.approx(float(row["kv_tokens"]), rel=0.015)


@pytest.mark.parametrize("row", named([row for row in ROWS if row["engine"] == "llama.cpp"]))
def test_compute_buffer_of_llamacpp(row: Row) -> None:
    model = architecture_of(row)
    compute = 512 * (model.vocabulary + model.embedding) * 4
    assert compute / GIB == pytest.approx(float(row["activation_peak_gib"]), rel=0.01)
    kv = memory.token_bytes(model, value_bytes=2) * int(row["kv_tokens"])
    assert kv / GIB == pytest.approx(float(row["kv_avail_gib"]), rel=0.002)


def _measured() -> dict[str, list[float]]:
    """Version -> MiB besides weights and KV of each of its rows."""
    found: dict[str, list[float]] = defaultdict(list)
    for row in WITH_PROFILE:
        minor = ".".join(row["version"].split(".")[:2])
        found[minor].append((float(row["activation_peak_gib"]) + float(row["non_torch_gib"])) * 1024)
    return found


def _band(values: list[float]) -> Band:
    return Band(
        low_mib=int(min(values) / overhead.SPREAD),
        middle_mib=round(statistics.median(values)),
        high_mib=int(max(values) * overhead.SPREAD),
        rows=len(values),
    )


def _held(groups: dict[str, list[float]], everything: list[float]) -> list[bool]:
    """For each row: whether the band of its version's other rows holds it, of all others where there are none."""
    held = []
    for version, values in groups.items():
        for index, value in enumerate(values):
            others = values[:index] + values[index + 1 :]
            if not others:
                others = [other for name, rows in groups.items() if name != version for other in rows]
            band = _band(others)
            held.append(band.low_mib <= value <= band.high_mib)
    assert len(held) == len(everything)
    return held


def test_bands_are_those_of_the_rows() -> None:
    groups = _measured()
    everything = [value for values in groups.values() for value in values]
    expected = {version: _band(values) for version, values in groups.items() if len(values) > 1}
    assert expected | {"": _band(everything)} == overhead.VLLM


def test_bands_hold_nine_rows_of_ten_when_each_is_left_out() -> None:
    groups = _measured()
    held = _held(groups, [value for values in groups.values() for value in values])
    assert (sum(held), len(held)) == (12, 13)


def test_band_of_a_version_that_was_not_measured() -> None:
    assert overhead.band("vllm", "0.11.2") == overhead.VLLM["0.11"]
    assert overhead.band("vllm", "0.30.0") == overhead.band("sglang") == overhead.VLLM[""]
