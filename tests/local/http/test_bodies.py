"""JSON bodies of exact bytes: one answer each, in bounded time; what is taken reaches the engine byte for byte."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing, suppress

import pytest
from tests.support.http_cases import Case, load
from tests.support.proxy import ANSWER, post
from tests.support.raw_proxy import RawProxy

from flexinfer.errors import RequestError
from flexinfer.openai.request import parse, replace_model

CASES = load("bodies.yaml")
MIB = 1024 * 1024


def test_there_are_enough_of_them():
    assert len(CASES) >= 80


def _request(case: Case) -> bytes:
    kind = (case.lines("type") or [b"Content-Type: application/json\r\n"])[0]
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n%bContent-Length: %d\r\n\r\n"
    return head % (kind, len(case.send)) + case.send


@pytest.fixture(scope="module")
def series(proxy: RawProxy) -> set[str]:
    """What is counted once the proxy has served."""
    with closing(proxy.client()) as client:
        client.send(post())
        assert client.answer().body == ANSWER
    proxy.engine.requests.clear()
    return proxy.series()


@pytest.mark.parametrize("case", [pytest.param(case, id=case.id) for case in CASES])
def test_body(proxy: RawProxy, series: set[str], case: Case):
    with closing(proxy.client()) as client:
        client.send(_request(case))
        answer = client.answer()
        forwarded = case.gets == "forwarded"
        if forwarded:
            assert (answer.status, answer.body) == (200, ANSWER)
        else:
            assert f"{answer.status} {answer.code}" == case.gets
            assert len(answer.body) < 1000
        received, proxy.engine.requests[:] = proxy.engine.requests[:], []
        assert [r.body for r in received] == [case.send] * forwarded
        client.send(post())
        assert (client.answer().status, answer.whole) == (200, True)
    proxy.engine.requests.clear()
    assert proxy.series() == series


def _cpu_s(work: Callable[[], object]) -> float:
    begin = time.process_time()
    with suppress(RequestError):
        work()
    return time.process_time() - begin


@pytest.mark.parametrize("case", [pytest.param(case, id=case.id) for case in CASES if len(case.send) > 50_000])
def test_no_body_costs_a_hundred_times_a_plain_one(case: Case):
    plain = b'{"model":"m1","x":"' + b"a" * (len(case.send) - 21) + b'"}'
    least = min(_cpu_s(lambda: parse(plain)) for _ in range(5))
    # The floor is a clock that ticks coarsely; a body of 64 MiB may not take more than seconds.
    assert min(_cpu_s(lambda: parse(case.send)) for _ in range(3)) <= max(100 * least, 0.005)


HUGE = [
    pytest.param(lambda size: b'"' + b"a" * (size - 2) + b'"', id="one string"),
    pytest.param(lambda size: b'"' + "ü".encode() * ((size - 2) // 2) + b'"', id="one string above ASCII"),
    pytest.param(lambda size: b'"' + b"\\u00fc" * ((size - 2) // 6) + b'"', id="escapes"),
    pytest.param(lambda size: b"[" + b"0," * (size // 2 - 2) + b"0]", id="a list of zeros"),
    pytest.param(lambda size: b"[" + b"[]," * (size // 3 - 2) + b"0]", id="a list of lists"),
    pytest.param(lambda size: b"{" + b'"":0,' * (size // 5 - 2) + b'"":0}', id="many keys"),
    pytest.param(lambda size: b"9" * size, id="one number"),
    pytest.param(lambda size: b" " * (size - 1) + b"0", id="white space"),
    pytest.param(lambda size: b"[" + b'{"model":"m1"},' * (size // 15 - 2) + b"0]", id="many nested models"),
]


@pytest.mark.parametrize("value", HUGE)
def test_64_mib_are_read_and_renamed_in_time(value: Callable[[int], bytes]):
    """Measured at 4 MiB, as both are linear; a plain body of that size sets the measure."""
    size = 4 * MIB
    plain = b'{"model":"m1","x":"' + b"a" * size + b'"}'
    odd = b'{"model":"m1","x":' + value(size) + b"}"
    for work in (parse, lambda body: replace_model(body, "other")):
        least = min(_cpu_s(lambda: work(plain)) for _ in range(3))  # noqa: B023
        assert _cpu_s(lambda: work(odd)) <= max(100 * least, 0.05)  # noqa: B023


def test_64_mib_pass(proxy: RawProxy):
    body = b'{"model":"m1","x":"' + b"a" * (64 * MIB - 21) + b'"}'
    with closing(proxy.client()) as client:
        client.send(post(body))
        assert client.answer().body == ANSWER
        assert proxy.engine.requests.pop().body == body
        client.send(post(body + b" "))
        assert (answer := client.answer()).status == 413
        assert answer.code == "request_too_large"
