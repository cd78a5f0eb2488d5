"""`spec.source` taken apart, and the verdict of the grammar."""

from __future__ import annotations

import pytest
from tests.support import bad_models

from flexinfer.api import admission, sourcegrammar
from flexinfer.artifacts import source
from flexinfer.artifacts.source import HTTP, OCI, Claim, File, HuggingFace, Ollama
from flexinfer.errors import InvalidField

GOOD = [
    ("HF://meta-llama/Llama-3.1-8B", HuggingFace("meta-llama", "Llama-3.1-8B")),
    ("hf://org/name@v1.0", HuggingFace("org", "name", "v1.0")),
    ("HF://_o/" + "n" * 96, HuggingFace("_o", "n" * 96)),
    ("org/name", HuggingFace("org", "name")),
    ("ollama://llama3", Ollama("llama3", "latest")),
    ("ollama://llama3:8b", Ollama("llama3", "8b")),
    ("ollama://library/llama3.1:8b-q4_0", Ollama("llama3.1", "8b-q4_0")),
    ("ollama://mannix/llama3:8b", Ollama("llama3", "8b", "mannix")),
    ("pvc://models/llama", Claim("models", "llama")),
    ("pvc://models.a-b/sub/llama.gguf/", Claim("models.a-b", "sub/llama.gguf")),
    ("oci://ghcr.io/org/model", OCI("ghcr.io", "org/model")),
    ("oci://localhost:5000/model:v1", OCI("localhost:5000", "model", "v1")),
    ("oci://10.0.0.1:5000/a/b__c@sha256:" + "a" * 64, OCI("10.0.0.1:5000", "a/b__c", "", "sha256:" + "a" * 64)),
    ("file:///models/demo.gguf", File("/models/demo.gguf")),
    ("file:///models/..data/x", File("/models/..data/x")),
    ("file:///home/müller/模型/x.gguf", File("/home/müller/模型/x.gguf")),
    ("file:///etcetera/x/", File("/etcetera/x")),
    ("file:///var/runner/x", File("/var/runner/x")),
]
ADDRESSES = [
    ("http://10.0.0.1:8000", HTTP("10.0.0.1", 8000)),
    ("https://example.com", HTTP("example.com", 443, True)),
    ("http://gpu-box", HTTP("gpu-box", 80)),
    ("http://[::1]:8000", HTTP("::1", 8000)),
    ("https://[fd00::12:3]", HTTP("fd00::12:3", 443, True)),
    ("http://[::ffff:10.0.0.1]:1", HTTP("::ffff:10.0.0.1", 1)),
    ("http://[1:2:3:4:5:6:7:8]:65535", HTTP("1:2:3:4:5:6:7:8", 65535)),
]


@pytest.mark.parametrize(("text", "parsed"), [pytest.param(*row, id=row[0][:60]) for row in GOOD + ADDRESSES])
def test_parse(text, parsed):
    assert source.parse(text) == parsed


@pytest.mark.parametrize("text", [pytest.param(text, id=text[:60]) for text, _ in GOOD])
def test_what_parses_is_admitted(text):
    assert admission.admit(bad_models.edited({"spec.source": text})) == []


@pytest.mark.parametrize("text", [pytest.param(text, id=text[:60]) for text, _ in ADDRESSES])
def test_an_address_is_admitted_with_external_only(text):
    assert admission.admit(bad_models.edited({"spec.source": text, "spec.backend": "external"})) == []
    assert [error.path for error in admission.admit(bad_models.edited({"spec.source": text}))] == ["spec.source"]


BAD = [
    text
    for row in (*bad_models.SOURCES, *bad_models.ADDRESSES)
    if isinstance(text := row.edits["spec.source"], str) and not text.startswith(("http://10.0.0.1:8000", "https://e"))
]


@pytest.mark.parametrize("text", [pytest.param(text, id=repr(text)[:60]) for text in BAD if text not in dict(GOOD)])
def test_refused(text):
    allowed_elsewhere = {"org/name", "file:///models/x", "ollama://llama3"}
    if text in allowed_elsewhere:
        source.parse(text)
        return
    with pytest.raises(InvalidField) as caught:
        source.parse(text)
    error = caught.value
    assert (error.path, error.value, error.expected) == ("spec.source", text, sourcegrammar.expected(text))


@pytest.mark.parametrize(
    ("text", "begins"),
    [
        pytest.param("HF://x", "HF://org/name", id="by its scheme"),
        pytest.param("ftp://x/y", "a source: ", id="an unknown scheme"),
        pytest.param("demo.gguf", "a file as file:", id="no scheme and no slash"),
        pytest.param("a b/c", "org/name, the name", id="no scheme and a slash"),
        pytest.param("file:///etc/x", "file:///absolute/path", id="a folder of the system"),
        pytest.param("file:///" + "x" * 3000, "at most 2048", id="too long"),
    ],
)
def test_what_would_have_been_right(text, begins):
    assert sourcegrammar.expected(text).startswith(begins)


@pytest.mark.parametrize(
    ("parsed", "text"),
    [
        pytest.param(Ollama("llama3", "8b").model, "llama3:8b", id="an Ollama model of the library"),
        pytest.param(Ollama("llama3", "8b", "mannix").model, "mannix/llama3:8b", id="an Ollama model of a user"),
        pytest.param(HTTP("::1", 8000).url, "http://[::1]:8000", id="an IPv6 address"),
        pytest.param(HTTP("example.com", 443, True).url, "https://example.com:443", id="an address with TLS"),
        pytest.param(HuggingFace("org", "name", "v1").repository, "org/name", id="a repository"),
    ],
)
def test_names_that_others_take(parsed, text):
    assert parsed == text
