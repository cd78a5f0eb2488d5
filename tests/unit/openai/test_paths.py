from __future__ import annotations

import pytest

from flexinfer.errors import RequestError
from flexinfer.openai.paths import INFERENCE_TARGETS, find


@pytest.mark.parametrize(
    ("method", "target", "kind", "model_id"),
    [
        pytest.param(b"POST", b"/v1/chat/completions", "inference", "", id="chat"),
        pytest.param(b"POST", b"/v1/completions", "inference", "", id="completions"),
        pytest.param(b"POST", b"/v1/embeddings?api-version=1", "inference", "", id="a query is ignored"),
        pytest.param(b"GET", b"/v1/models", "models", "", id="the list"),
        pytest.param(b"HEAD", b"/v1/models", "models", "", id="HEAD where GET is"),
        pytest.param(b"GET", b"/v1/models/m1", "model", "m1", id="one model"),
        pytest.param(b"GET", b"/v1/models/acme/tiny:v1", "model", "acme/tiny:v1", id="an id with a plain slash"),
        pytest.param(b"GET", b"/v1/models/acme%2Ftiny%3Av1", "model", "acme/tiny:v1", id="an id with escapes"),
        pytest.param(b"GET", b"/v1/models/a+b", "model", "a+b", id="a plus is a plus"),
        pytest.param(b"GET", b"/v1/models/%C3%BC", "model", "ü", id="an id in UTF-8"),
        pytest.param(b"GET", b"/v1/models/..%2Fx", "model", "../x", id="dots are only compared"),
        pytest.param(b"GET", b"/", "root", "", id="what is served"),
        pytest.param(b"GET", b"/healthz", "healthz", "", id="alive"),
        pytest.param(b"GET", b"/readyz", "readyz", "", id="ready"),
        pytest.param(b"GET", b"/metrics", "metrics", "", id="metrics"),
    ],
)
def test_served(method, target, kind, model_id):
    match = find(method, target)
    assert (match.route.kind, match.model_id) == (kind, model_id)


@pytest.mark.parametrize(
    ("method", "target", "code"),
    [
        pytest.param(b"GET", b"/healthz/../v1/models", "not_found", id="dot segments are not followed"),
        pytest.param(b"GET", b"//v1/models", "not_found", id="a doubled slash"),
        pytest.param(b"POST", b"/v1/chat/completions/", "not_found", id="a trailing slash"),
        pytest.param(b"POST", b"/V1/chat/completions", "not_found", id="another case"),
        pytest.param(b"POST", b"/v1/chat%2Fcompletions", "not_found", id="an escape in a fixed path"),
        pytest.param(b"POST", b"/v1/load_lora_adapter", "not_found", id="vLLM's adapter route"),
        pytest.param(b"POST", b"/api/pull", "not_found", id="Ollama's pull route"),
        pytest.param(b"POST", b"/sleep", "not_found", id="vLLM's sleep route"),
        pytest.param(b"GET", b"/v1/models/", "not_found", id="an empty id"),
        pytest.param(b"GET", b"/v1/models/%zz", "not_found", id="a broken escape"),
        pytest.param(b"GET", b"/v1/models/%ff", "not_found", id="an id that is not UTF-8"),
        pytest.param(b"GET", b"/v1/models/{id}", "model", id="the pattern is no path of its own"),
        pytest.param(b"OPTIONS", b"*", "not_found", id="the asterisk"),
        pytest.param(b"GET", b"/v1/chat/completions", "method_not_allowed", id="GET on chat"),
        pytest.param(b"POST", b"/v1/models", "method_not_allowed", id="POST on the list"),
        pytest.param(b"DELETE", b"/v1/models/m1", "method_not_allowed", id="DELETE on a model"),
        pytest.param(b"TRACE", b"/healthz", "method_not_allowed", id="TRACE"),
    ],
)
def test_not_served(method, target, code):
    if code == "model":
        assert find(method, target).model_id == "{id}"
        return
    with pytest.raises(RequestError) as refusal:
        find(method, target)
    assert refusal.value.code == code


@pytest.mark.parametrize(
    ("target", "meant"),
    [
        pytest.param(b"/health", "; did you mean /healthz?", id="the name that engines give it"),
        pytest.param(b"/chat/completions", "; did you mean /v1/chat/completions?", id="a base address without /v1"),
        pytest.param(b"/v1/v1/chat/completions", "; did you mean /v1/chat/completions?", id="one /v1 too many"),
        pytest.param(b"/v1/chat/completions/", "; did you mean /v1/chat/completions?", id="a trailing slash"),
        pytest.param(b"/v1/chat/completion", "; did you mean /v1/chat/completions?", id="a letter missing"),
        pytest.param(b"/V1/models", "; did you mean /v1/models?", id="another case"),
        pytest.param(b"/v1/models/", "; did you mean /v1/models?", id="an empty id"),
        pytest.param(b"/api/tags", "; did you mean /v1/models?", id="Ollama's list"),
        pytest.param(b"/v1/images/generations", "; the API of OpenAI is below /v1/", id="nothing near"),
        pytest.param(b"/" + b"x" * 64, "", id="too long to compare"),
    ],
)
def test_what_was_probably_meant(target, meant):
    with pytest.raises(RequestError) as refusal:
        find(b"POST", target)
    assert refusal.value.message == f"nothing is served at {target.decode()}{meant}"


def test_the_targets_of_the_fast_way_are_the_inference_routes():
    assert {find(b"POST", target).route.kind for target in INFERENCE_TARGETS} == {"inference"}
    assert len(INFERENCE_TARGETS) == 3
