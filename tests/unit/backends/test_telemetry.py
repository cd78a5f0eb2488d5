"""What engines say of their load."""

from __future__ import annotations

from pathlib import Path

import pytest

from flexinfer.backends import telemetry
from flexinfer.backends.telemetry import Load

BUSY = (Path(__file__).parents[2] / "data/engines/vllm-0.32.0-busy.prom").read_bytes()
OLD_VLLM = (
    b'vllm:num_requests_running{model_name="a b}"} 1\nvllm:gpu_cache_usage_perc{model_name="m"} 0.25 1700000000\n'
)
JUNK = b"llamacpp:requests_processing NaN\nllamacpp:requests_deferred\nllamacpp:requests_deferred x\n\xff"
TWO_ENGINES = b"""vllm:num_requests_running{engine="0"} 2.0
vllm:num_requests_running{engine="1"} 3.0
vllm:kv_cache_usage_perc{engine="0"} 0.5
vllm:kv_cache_usage_perc{engine="1"} 0.75
"""


@pytest.mark.parametrize(
    ("backend", "body", "expected"),
    [
        pytest.param("vllm", BUSY, Load(running=4, waiting=2, kv_cache_use=0.00030518509475996325), id="vLLM 0.32"),
        pytest.param("vllm", OLD_VLLM, Load(running=1, kv_cache_use=0.25), id="vLLM before 0.9.2"),
        pytest.param("vllm", TWO_ENGINES, Load(running=5, kv_cache_use=0.75), id="two engines: the sum, the fullest"),
        pytest.param(
            "sglang",
            b'sglang:num_running_reqs{a="b"} 7\nsglang:num_queue_reqs{a="b"} 1\nsglang:token_usage{a="b"} 0.5\n',
            Load(running=7, waiting=1, kv_cache_use=0.5),
            id="SGLang",
        ),
        pytest.param(
            "llamacpp",
            b"llamacpp:requests_processing 1\nllamacpp:requests_deferred 3\nllamacpp:kv_cache_usage_ratio 0.1\n",
            Load(running=1, waiting=3, kv_cache_use=0.1),
            id="llama.cpp",
        ),
        pytest.param("tgi", b"tgi_batch_current_size 2\ntgi_queue_size 0\n", Load(running=2, waiting=0), id="TGI"),
        pytest.param(
            "ollama", b'{"models":[{"name":"a","size":100,"size_vram":50},{"size":1}]}', Load(loaded_bytes=101),
            id="Ollama",
        ),
        pytest.param("ollama", b'{"models":[{"size":"x"}]}', Load(), id="Ollama with junk"),
        pytest.param("ollama", b"<html>", Load(), id="Ollama with a page"),
        pytest.param("ollama", b'{"models":' + b"[" * 100_000, Load(), id="Ollama with a hundred thousand brackets"),
        pytest.param(
            "llamacpp", JUNK,
            Load(), id="values that are none",
        ),
        pytest.param("external", BUSY, Load(), id="a backend that is not read"),
        pytest.param("nobody", BUSY, Load(), id="a backend that is not known"),
    ],
)  # fmt: skip
def test_load(backend: str, body: bytes, expected: Load) -> None:
    assert telemetry.load(backend, body) == expected
