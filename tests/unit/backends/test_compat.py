"""Which backend runs on which architecture, and which image it comes in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from flexinfer.backends import compat, images

Make = Callable[..., Any]


@pytest.mark.parametrize(
    ("backend", "arch", "level"),
    [
        ("vllm", "sm_52", "unsupported"), ("llamacpp", "sm_52", "full"), ("ollama", "sm_50", "full"),
        ("vllm", "sm_61", "unsupported"), ("vllm", "sm_70", "full"), ("vllm", "sm_89", "full"),
        ("diffusers", "gfx906", "experimental"), ("vllm", "gfx906", "full"), ("comfyui", "gfx1100", "full"),
        ("vllm", "gfx1201", "full"), ("vllm", "", "full"), ("vllm", "sm_120", "full"),
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


@pytest.mark.parametrize(
    ("backend", "vendor", "environment", "expected"),
    [
        pytest.param("llamacpp", "amd", {"DEFAULT_LLAMACPP_IMAGE_AMD": "me/x:1"}, "me/x:1", id="the vendor's variable"),
        pytest.param("llamacpp", "cpu", {"DEFAULT_LLAMACPP_IMAGE": "me/x:1"}, "me/x:1", id="the backend's variable"),
        pytest.param("vllm-omni", "nvidia", {"DEFAULT_VLLM_OMNI_IMAGE": "me/x:1"}, "me/x:1", id="a name with a dash"),
        pytest.param("vllm-omni", "nvidia", {}, "", id="no image of others is known"),
        pytest.param("ollama", "amd", {}, images.IMAGES["ollama"]["amd"].reference, id="ours"),
    ],
)
def test_image(backend: str, vendor: Any, environment: dict[str, str], expected: str) -> None:
    assert images.image(backend, vendor, environment) == expected
