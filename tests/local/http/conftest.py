"""One proxy for all cases of a file."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from tests.support.proxy import answers, json_answer
from tests.support.raw_proxy import RawProxy

from flexinfer.openai.paths import ROUTES
from flexinfer.proxy.settings import ProxySettings


@pytest.fixture(scope="module")
def proxy() -> Iterator[RawProxy]:
    settings = ProxySettings(header_timeout_s=60, sweep_interval_s=0.1)
    with RawProxy(answers(json_answer()), None, settings).running() as running:
        yield running


@pytest.fixture(scope="module", autouse=True)
def one_line_per_answer(proxy: RawProxy) -> Iterator[None]:
    """When all cases are through: each answer has one line in the access log, with its status, and no name but m1."""
    yield
    deadline = time.monotonic() + 5
    while len(proxy.access_lines) < len(proxy.answered) and time.monotonic() < deadline:
        time.sleep(0.02)
    logged = sorted((line["request_id"], line["status"]) for line in proxy.access_lines)
    assert logged == sorted(proxy.answered)
    assert {line.get("model", "") for line in proxy.access_lines} <= {"", "m1"}
    assert {line["path"] for line in proxy.access_lines} <= {"", "other", *(route.path for route in ROUTES)}
