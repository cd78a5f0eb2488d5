"""docs/proxy.md says what the code does: paths, entries, fixed limits, and what is not there yet."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from flexinfer.metrics.proxy import FAMILIES
from flexinfer.openai.errors import CODES
from flexinfer.openai.paths import ROUTES
from flexinfer.proxy import memory, retries, upstream
from flexinfer.proxy.admission import ListedModel
from flexinfer.proxy.settings import ProxySettings

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs" / "proxy.md").read_text("utf-8")


def section(title: str) -> str:
    return TEXT.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_every_path_is_in_the_table_with_its_methods():
    rows = re.findall(r"^\| `(/[^`]*)` \| ([A-Z, ]+) \|", section("Paths"), re.MULTILINE)
    assert sorted(rows) == sorted((route.path, route.allow) for route in ROUTES)


def test_every_field_of_an_entry_is_explained():
    cells = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", section("Names"), re.MULTILINE)
    assert sorted(re.findall(r"`(\w+)`", " ".join(cells))) == sorted(ListedModel.__struct_fields__)


def test_limits_without_a_flag_are_those_of_the_code():
    settings = ProxySettings()
    found = [
        (f"{settings.connect_timeout_s:g} s", "a connection to an engine"),
        (f"{settings.write_buffer_bytes // 1024} KiB", "what waits for a slow client"),
        (f"{settings.upstream_idle_s:g} s", "how long an idle connection to an engine"),
        (f"{settings.max_answer_header_bytes // 1024} KiB, 256 fields, {settings.max_interim_answers} interim answers",
         "the head of an engine's answer"),
        (f"{memory.MARK:.0%} of a memory limit of the process or its control group, or less than "
         f"{memory.MACHINE_FLOOR_BYTES // 2**20} MiB left on the machine".replace("95%", "95 %"), "above it"),
    ]  # fmt: skip
    for limit, what in found:
        assert f"| {limit} | {what}" in section("Time-outs and limits")
    assert (
        f"a head over {settings.max_header_bytes // 1024} KiB or with more than {settings.max_header_fields} fields"
        in TEXT
    )
    assert upstream.AnswerReader()._max_fields == 256


def test_the_budget_of_retries_is_that_of_the_code():
    text = section("What is sent again")
    assert (retries.SHARE, retries.LEAST, retries.SPAN_S) == (0.2, 3, 10.0)
    assert "At most a fifth of the requests of the last 10 s are sent again, or three." in text


@pytest.mark.parametrize(
    "code", ["model_not_allowed", "rate_limit_exceeded", "context_window_exceeded", "model_parked"]
)
def test_a_code_that_waits_for_its_part_is_given_by_nobody(code):
    assert code in CODES
    assert f"`{code}`" in section("Requests")
    users = [path for path in (ROOT / "src").rglob("*.py") if f'"{code}"' in path.read_text("utf-8")]
    assert [path.name for path in users] == ["errors.py"]


def test_a_metric_that_waits_for_its_part_is_not_shown():
    waiting = set(re.findall(r"`((?!flexinfer)\w+)`", section("Names of metrics that wait for their parts")))
    assert len(waiting) == 10
    assert not waiting & {family.name.removeprefix("flexinfer_proxy_") for family in FAMILIES}
