"""One proxy for all cases of a file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.support.proxy import answers, json_answer
from tests.support.raw_proxy import RawProxy

from flexinfer.proxy.settings import ProxySettings


@pytest.fixture(scope="module")
def proxy() -> Iterator[RawProxy]:
    settings = ProxySettings(header_timeout_s=60, sweep_interval_s=0.1)
    with RawProxy(answers(json_answer()), None, settings).running() as running:
        yield running
