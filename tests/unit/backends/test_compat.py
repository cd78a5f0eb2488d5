"""Which backend runs on which architecture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from flexinfer.backends import compat

Make = Callable[..., Any]


@pytest.mark.parametrize(
    ("backend", "arch", "level"),
    [
        ("vllm", "sm_52", "unsupported"), ("llamacpp", "sm_52", "full"), ("ollama", "sm_50", "full"),
        ("vllm", "sm_61", "unsupported"), ("vllm", "sm_70", "experimental"), ("vllm", "sm_75", "full"),
        ("sglang", "sm_70", "unsupported"), ("tensorrt-llm", "sm_75", "unsupported"), ("tensorrt-llm", "sm_80", "full"),
        ("vllm", "sm_89", "full"), ("vllm", "sm_90", "full"), ("vllm", "sm_100", "full"), ("vllm", "sm_120", "full"),
        ("tgi", "sm_100", "experimental"), ("tgi", "sm_121", "experimental"), ("ollama", "sm_37", "unsupported"),
        ("diffusers", "gfx906", "experimental"), ("vllm", "gfx906", "experimental"),
        ("mlc-llm", "gfx906", "experimental"),
        ("vllm", "gfx90a", "full"), ("sglang", "gfx90a", "experimental"), ("sglang", "gfx942", "full"),
        ("sglang", "gfx950", "full"), ("tgi", "gfx950", "experimental"), ("vllm", "gfx1030", "experimental"),
        ("llamacpp", "gfx1030", "full"), ("comfyui", "gfx1100", "full"), ("vllm", "gfx1151", "full"),
        ("vllm", "gfx1201", "full"), ("vllm", "", "full"), ("diffusers", "sm_61", "experimental"),
    ],
)  # fmt: skip
def test_judge(backend: str, arch: str, level: str) -> None:
    assert compat.judge(backend, arch).level == level


@pytest.mark.parametrize(
    ("backend", "arch", "source", "config", "refused"),
    [
        pytest.param("llamacpp", "sm_52", "file:///models/m-f16.gguf", {}, "no half precision", id="f16 on Maxwell"),
        pytest.param("llamacpp", "sm_52", "file:///models/m-FP16.gguf", {}, "no half precision", id="FP16 on Maxwell"),
        pytest.param("llamacpp", "sm_52", "file:///models/bf160.gguf", {}, None, id="a name that only looks like it"),
        pytest.param("llamacpp", "sm_60", "file:///models/m-f16.gguf", {}, None, id="f16 on Pascal"),
        pytest.param("mlc-llm", "sm_52", "HF://org/m", {}, "set config.modelLibPath", id="mlc-llm without a library"),
        pytest.param("mlc-llm", "sm_52", "HF://org/m", {"modelLibPath": "/models/x/a.so"}, None, id="with one"),
        pytest.param("mlc-llm", "sm_52", "file:///models/x", {}, None, id="mlc-llm with a compiled folder"),
        pytest.param("vllm", "sm_52", "HF://org/m", {}, "Maxwell", id="vllm on Maxwell"),
    ],
)
def test_refusal(
    model: Make, backend: str, arch: str, source: str, config: dict[str, Any], refused: str | None
) -> None:
    why = compat.refusal(backend, arch, model(backend, source, **config))
    assert why is None if refused is None else refused in (why or "")
