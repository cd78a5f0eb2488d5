"""Requests as the simulator reads them."""

from __future__ import annotations

from typing import Any

import pytest

from flexinfer.sim import jobs
from flexinfer.sim.jobs import Job, Refused
from flexinfer.sim.options import Options

OPTIONS = Options(models=("m",), output_tokens=8, context=100)
HELLO = [{"role": "user", "content": "hi"}]


def job(**changes: Any) -> Job:
    fields: dict[str, Any] = {
        "model": "m",
        "prompt": b"user: hi\n",
        "prompt_tokens": 4,
        "output_tokens": 8,
        "finish_reason": "stop",
        "chat": True,
    }
    return Job(**{**fields, **changes})


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param({"messages": HELLO}, job(), id="a plain chat"),
        pytest.param({"model": "x", "messages": HELLO}, job(model="x"), id="another model"),
        pytest.param(
            {"messages": HELLO, "max_tokens": 5}, job(output_tokens=5, finish_reason="length"), id="cut by its limit"
        ),
        pytest.param(
            {"messages": HELLO, "max_tokens": 5, "max_completion_tokens": 3},
            job(output_tokens=3, finish_reason="length"),
            id="the newer limit counts",
        ),
        pytest.param({"messages": HELLO, "max_tokens": 50}, job(), id="a limit it does not reach"),
        pytest.param(
            {"messages": HELLO, "max_tokens": 50, "ignore_eos": True},
            job(output_tokens=50, finish_reason="length"),
            id="told not to stop by itself",
        ),
        pytest.param(
            {"messages": HELLO, "stream": True, "stream_options": {"include_usage": True}},
            job(stream=True, include_usage=True),
            id="a stream with usage",
        ),
        pytest.param(
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]}, job(), id="content in parts"
        ),
    ],
)
def test_a_chat_is_read(body: dict[str, Any], expected: Job) -> None:
    assert jobs.completion(body, OPTIONS, chat=True) == expected


def test_a_completion_is_read() -> None:
    expected = job(chat=False, prompt=b"once", prompt_tokens=2)
    assert jobs.completion({"prompt": "once"}, OPTIONS, chat=False) == expected
    assert jobs.completion({"prompt": ["once"]}, OPTIONS, chat=False) == expected


@pytest.mark.parametrize(
    ("body", "refusal"),
    [
        pytest.param({}, ("missing", "messages", 400), id="no messages"),
        pytest.param({"messages": "hi"}, ("wrong-type", "messages", 400), id="messages that are no list"),
        pytest.param({"messages": HELLO, "max_tokens": "9"}, ("wrong-type", "max_tokens", 400), id="text as a limit"),
        pytest.param({"messages": HELLO, "max_tokens": 0}, ("bad-value", "max_tokens", 400), id="a limit of 0"),
        pytest.param(
            {"messages": [{"role": "user", "content": "x" * 500}]}, ("too-long", "input_tokens", 400), id="too long"
        ),
    ],
)
def test_a_bad_request_is_refused_with_its_case(body: dict[str, Any], refusal: tuple[str, str, int]) -> None:
    with pytest.raises(Refused) as raised:
        jobs.completion(body, OPTIONS, chat=True)
    assert (raised.value.case, raised.value.param, raised.value.status) == refusal


@pytest.mark.parametrize(
    ("body", "case"),
    [
        pytest.param(b"{", "broken-json", id="cut"),
        pytest.param(b"\xff", "broken-json", id="no UTF-8"),
        pytest.param(b"[" * 100_000, "broken-json", id="too deep"),
        pytest.param(b"[]", "wrong-type", id="a list"),
    ],
)
def test_a_body_that_is_no_object_is_refused(body: bytes, case: str) -> None:
    with pytest.raises(Refused) as raised:
        jobs.decode(body)
    assert raised.value.case == case


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param({"input": "a"}, [b"a"], id="a text"),
        pytest.param({"input": ["a", "b"]}, [b"a", b"b"], id="two texts"),
        pytest.param({"input": [1, 2]}, [b"1 2"], id="tokens"),
        pytest.param({"input": [[1, 2], [3]]}, [b"1 2", b"3"], id="two lists of tokens"),
    ],
)
def test_inputs_of_embeddings(body: dict[str, Any], expected: list[bytes]) -> None:
    assert jobs.inputs(body) == expected
