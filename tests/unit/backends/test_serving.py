"""What the proxy is told of an engine's context, from the config alone."""

from __future__ import annotations

import pytest
from tests.support.models import model

from flexinfer import backends


@pytest.mark.parametrize(
    ("backend", "config", "tokens"),
    [
        pytest.param("llamacpp", {}, 4096, id="llamacpp has a default for each slot"),
        pytest.param("llamacpp", {"contextSize": 8192, "parallel": 2}, 4096, id="llamacpp's slots share the context"),
        pytest.param("llamacpp", {"contextSize": 0}, None, id="0 leaves it to the model"),
        pytest.param("llamacpp", {"contextSize": "x"}, 4096, id="a value of a wrong type counts as not set"),
        pytest.param("vllm", {}, None, id="vllm takes the model's own"),
        pytest.param("vllm", {"maxModelLen": 8192}, 8192, id="vllm's is of one request"),
        pytest.param("vllm", {"maxModelLen": -1}, None, id="-1 lets vllm choose"),
        pytest.param("vllm", {"maxModelLen": "auto"}, None, id="text is for vllm to read"),
        pytest.param("ollama", {}, None, id="ollama decides by its memory"),
        pytest.param("ollama", {"contextSize": 2048}, 2048, id="ollama's is of one request"),
        pytest.param("simulator", {}, 32768, id="the simulator has a default"),
        pytest.param("simulator", {"contextSize": 100}, 100, id="the simulator's own"),
        pytest.param("external", {}, None, id="a server elsewhere tells nothing"),
    ],
)
def test_tokens_of_one_request(backend, config, tokens):
    source = "http://127.0.0.1:9" if backend == "external" else "file:///models/m.gguf"
    assert backends.serving(model(backend=backend, source=source, config=config)).context_tokens == tokens
