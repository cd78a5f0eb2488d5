from __future__ import annotations

import json

import pytest

from flexinfer.errors import RequestError
from flexinfer.openai.request import InferenceRequest, parse, replace_model


@pytest.mark.parametrize(
    ("body", "request_"),
    [
        pytest.param(b'{"model":"m"}', InferenceRequest("m", None), id="only a model"),
        pytest.param(b' {"stream" : true , "model" : "m"} ', InferenceRequest("m", True), id="white space around"),
        pytest.param(b'{"model":"m","stream":null}', InferenceRequest("m", None), id="stream null"),
        pytest.param(b'{"model":"a","model":"b"}', InferenceRequest("b"), id="of two models the last counts"),
        pytest.param(b'{"model":"a","\\u006dodel":"b"}', InferenceRequest("b"), id="an escaped key is the same key"),
        pytest.param(b'{"Model":"a","model":"b"}', InferenceRequest("b"), id="another case is another key"),
        pytest.param(b'{"model":"b","x":{"model":"c"}}', InferenceRequest("b"), id="a nested model does not count"),
        pytest.param(b'{"model":"\\u00fc/\xc3\xbc"}', InferenceRequest("ü/ü"), id="escapes and UTF-8 in the name"),
        pytest.param(b'{"model":"m","n":1e999}', InferenceRequest("m"), id="a huge exponent is the engine's affair"),
        pytest.param(b'{"model":"m","n":' + b"9" * 5000 + b"}", InferenceRequest("m"), id="5,000 digits"),
        pytest.param(b'{"model":"m","x":' + b"[" * 200 + b"]" * 200 + b"}", InferenceRequest("m"), id="200 deep"),
    ],
)
def test_read(body, request_):
    assert parse(body) == request_


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        pytest.param(b"", "invalid_request_body", None, id="empty"),
        pytest.param(b"hello", "invalid_request_body", None, id="not JSON"),
        pytest.param(b'{"model":"m"', "invalid_request_body", None, id="cut off"),
        pytest.param(b'{"model":"m"} x', "invalid_request_body", None, id="text behind"),
        pytest.param(b'{"model":"m"}\x00', "invalid_request_body", None, id="NUL behind"),
        pytest.param(b'{"model":"m",}', "invalid_request_body", None, id="trailing comma"),
        pytest.param(b'\xef\xbb\xbf{"model":"m"}', "invalid_request_body", None, id="byte order mark"),
        pytest.param('{"model":"m"}'.encode("utf-16"), "invalid_request_body", None, id="UTF-16"),
        pytest.param('{"model":"m"}'.encode("utf-32-le"), "invalid_request_body", None, id="UTF-32"),
        pytest.param(b'{"model":"m","x":"\xff"}', "invalid_request_body", None, id="invalid UTF-8 in a skipped string"),
        pytest.param(b'{"model":"m","x":"\xc0\xaf"}', "invalid_request_body", None, id="overlong UTF-8"),
        pytest.param(b'{"model":"m","x":"\xed\xa0\x80"}', "invalid_request_body", None, id="surrogate in UTF-8"),
        pytest.param(b'{"model":"m","x":"\\ud800"}', "invalid_request_body", None, id="lone escaped surrogate"),
        pytest.param(b'{"model":"m","x":NaN}', "invalid_request_body", None, id="NaN"),
        pytest.param(b'{"model":"m","x":-Infinity}', "invalid_request_body", None, id="Infinity"),
        pytest.param(b'{"model":"m","x":01}', "invalid_request_body", None, id="leading zero"),
        pytest.param(b'{"model":"m","x":"a\nb"}', "invalid_request_body", None, id="raw newline in a string"),
        pytest.param(b'{"model":"m","x":"\\q"}', "invalid_request_body", None, id="unknown escape"),
        pytest.param(b'{"x":' + b"[" * 100_000, "invalid_request_body", None, id="100,000 deep"),
        pytest.param(b"[]", "invalid_request_body", None, id="a list"),
        pytest.param(b'"m"', "invalid_request_body", None, id="a string"),
        pytest.param(b"{}", "missing_required_field", "model", id="no model"),
        pytest.param(b'{"model":null}', "missing_required_field", "model", id="model null"),
        pytest.param(b'{"model":""}', "missing_required_field", "model", id="model empty"),
        pytest.param(b'{"model":1}', "invalid_request_body", "model", id="model a number"),
        pytest.param(b'{"model":["m"]}', "invalid_request_body", "model", id="model a list"),
        pytest.param(b'{"model":{"a":1}}', "invalid_request_body", "model", id="model an object"),
        pytest.param(b'{"model":1,"model":"m"}', "invalid_request_body", "model", id="the first of two not a string"),
        pytest.param(b'{"model":"m","stream":"yes"}', "invalid_request_body", "stream", id="stream a string"),
        pytest.param(b'{"model":"m","stream":1}', "invalid_request_body", "stream", id="stream a number"),
    ],
)
def test_refused(body, code, param):
    with pytest.raises(RequestError) as refusal:
        parse(body)
    assert (refusal.value.status, refusal.value.code, refusal.value.param) == (400, code, param)


@pytest.mark.parametrize(
    "content_type",
    [b"application/json", b"Application/JSON", b"application/json; charset=utf-8", b"application/json;charset=latin1"],
)
def test_json_types_are_taken(content_type):
    assert parse(b'{"model":"m"}', content_type).model == "m"


@pytest.mark.parametrize(
    ("content_type", "said"),
    [
        pytest.param(b"", "the request names none", id="none"),
        pytest.param(b"text/plain", "the request says text/plain", id="another one"),
        pytest.param(
            b"application/x-www-form-urlencoded",
            "the request says application/x-www-form-urlencoded; with curl: -H 'Content-Type: application/json'",
            id="what curl -d says",
        ),
        pytest.param(b"application/jsonp", "the request says application/jsonp", id="a longer name"),
        pytest.param(b"application/json; x=1", "the request says application/json; x=1", id="another parameter"),
        pytest.param(b"a\xff" + b"x" * 300, "the request says a\\xff" + "x" * 98, id="long, and no ASCII"),
    ],
)
def test_other_types_are_refused(content_type, said):
    with pytest.raises(RequestError) as refusal:
        parse(b'{"model":"m"}', content_type)
    assert (refusal.value.status, refusal.value.code) == (415, "unsupported_media_type")
    assert refusal.value.message == f"this route takes Content-Type: application/json, {said}"


@pytest.mark.parametrize(
    ("body", "replaced"),
    [
        pytest.param(b'{"model":"a"}', b'{"model":"new"}', id="plain"),
        pytest.param(b'{"x":1, "model" : "a" }', b'{"x":1, "model" : "new" }', id="white space stays"),
        pytest.param(b'{"model":"a","model":"b"}', b'{"model":"a","model":"new"}', id="the last of two"),
        pytest.param(b'{"model":"a","\\u006dodel":"b"}', b'{"model":"a","\\u006dodel":"new"}', id="an escaped key"),
        pytest.param(b'{"x":{"model":"a"},"model":"b"}', b'{"x":{"model":"a"},"model":"new"}', id="not a nested one"),
        pytest.param(b'{"x":["model","a"],"model":"b"}', b'{"x":["model","a"],"model":"new"}', id="not in a list"),
        pytest.param(b'{"x":"model","model":"b"}', b'{"x":"model","model":"new"}', id="not a value"),
        pytest.param(b'{"m\\"":"}","model":"a\\"b"}', b'{"m\\"":"}","model":"new"}', id="quotes and braces in strings"),
        pytest.param(
            b'{"model":"a","y":{"z":[{"model":"q"}]}}', b'{"model":"new","y":{"z":[{"model":"q"}]}}', id="deep"
        ),
    ],
)
def test_one_value_is_replaced_and_nothing_else(body, replaced):
    assert replace_model(body, "new") == replaced
    assert json.loads(replaced)["model"] == "new"


def test_a_body_without_a_model_cannot_be_changed():
    with pytest.raises(ValueError, match="no top-level key"):
        replace_model(b'{"x":{"model":"a"}}', "new")
