"""Names of models that do not exist: not found, and no trace of them in metrics, in the log or in a header."""

from __future__ import annotations

from contextlib import closing

import pytest
from tests.support.http_cases import Case, load
from tests.support.proxy import get, post
from tests.support.raw_proxy import RawProxy

CASES = load("names.yaml")


def test_there_are_enough_of_them():
    assert len(CASES) >= 65


@pytest.mark.parametrize("case", [pytest.param(case, id=case.id) for case in CASES])
def test_name(proxy: RawProxy, case: Case):
    if case.more.get("path"):
        request = get("/v1/models/" + case.send.decode())
    else:
        request = post(b'{"model":"' + case.send + b'"}')
    series = proxy.series()
    with closing(proxy.client()) as client:
        client.send(request)
        answer = client.answer()
        assert f"{answer.status} {answer.code}" == case.gets
        assert len(answer.body) < 2000
        client.send(get("/v1/models/m1"))
        assert client.answer().status == 200
    assert proxy.series() == series
    assert proxy.engine.requests == []
