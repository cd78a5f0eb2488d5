"""The error table: the document says what the code does, and every answer has OpenAI's shape."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from flexinfer.errors import RequestError
from flexinfer.openai.errors import CODES, MethodNotAllowed, error_answer, refuse, stream_error_event

DOCUMENT = Path(__file__).parents[3] / "docs" / "errors.md"


def test_the_document_has_the_table_of_the_code():
    rows = re.findall(r"^\| (\d{3}) \| `(\w+)` \| `(\w+)` \| (.+) \| (yes|–) \|$", DOCUMENT.read_text(), re.MULTILINE)
    code = [(str(c.status), name, c.type, c.when, "yes" if c.retry_after else "–") for name, c in CODES.items()]
    assert rows == code


@pytest.mark.parametrize(
    ("error", "status", "fields", "body"),
    [
        pytest.param(
            refuse("model_not_found", "no model 'x'", param="model"),
            404,
            {},
            {"message": "no model 'x'", "type": "not_found_error", "param": "model", "code": "model_not_found"},
            id="a refusal without a wait has no Retry-After",
        ),
        pytest.param(
            refuse("model_loading", "40 %", retry_after_s=12.4),
            503,
            {"Retry-After": "12"},
            {"message": "40 %", "type": "service_unavailable_error", "param": None, "code": "model_loading"},
            id="a wait is rounded to whole seconds",
        ),
        pytest.param(
            refuse("model_loading", "", retry_after_s=3600),
            503,
            {"Retry-After": "60"},
            {"message": "", "type": "service_unavailable_error", "param": None, "code": "model_loading"},
            id="a long wait is told as a minute",
        ),
        pytest.param(
            refuse("queue_full", "", retry_after_s=0),
            503,
            {"Retry-After": "1"},
            {"message": "", "type": "service_unavailable_error", "param": None, "code": "queue_full"},
            id="no wait at all is told as a second",
        ),
        pytest.param(
            refuse("overloaded", ""),
            503,
            {"Retry-After": "1"},
            {"message": "", "type": "service_unavailable_error", "param": None, "code": "overloaded"},
            id="a code that always carries Retry-After has one",
        ),
        pytest.param(
            RequestError(500, "from_somewhere", "boom"),
            500,
            {},
            {"message": "boom", "type": "server_error", "param": None, "code": "from_somewhere"},
            id="a code outside the table keeps its status",
        ),
        pytest.param(
            MethodNotAllowed("PUT", "/v1/models", "GET, HEAD"),
            405,
            {"Allow": "GET, HEAD"},
            {
                "message": "PUT is not allowed on /v1/models; allowed: GET, HEAD",
                "type": "invalid_request_error",
                "param": None,
                "code": "method_not_allowed",
            },
            id="405 names the methods that are allowed",
        ),
    ],
)
def test_an_error_as_an_answer(error, status, fields, body):
    answer = error_answer(error)
    assert (answer[0], dict(answer[1]), json.loads(answer[2])) == (
        status,
        {"Content-Type": "application/json", **fields},
        {"error": body},
    )


def test_a_broken_stream_ends_with_one_error_event():
    event = stream_error_event(refuse("bad_gateway", 'it said "x"\n'))
    assert event.startswith(b"event: error\ndata: {")
    assert event.endswith(b"}\n\n")
    assert event.count(b"\n") == 3
    assert json.loads(event[19:])["error"]["message"] == 'it said "x"\n'
