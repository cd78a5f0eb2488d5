"""Which image a backend comes in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from flexinfer.backends import images
from flexinfer.errors import InvalidField

Make = Callable[..., Any]
DIGEST = "a" * 64


@pytest.mark.parametrize(
    ("backend", "vendor", "arch", "environment", "expected"),
    [
        pytest.param("ollama", "amd", "gfx942", {}, "ollama/ollama:0.33.3-rocm", id="the table"),
        pytest.param("vllm", "cpu", "", {}, "vllm/vllm-openai-cpu:v0.32.0-x86_64", id="the table, for CPUs"),
        pytest.param(
            "sglang", "amd", "gfx950", {}, "lmsysorg/sglang:v0.5.18-rocm720-mi35x", id="the image of an architecture"
        ),
        pytest.param("sglang", "amd", "gfx942", {}, "lmsysorg/sglang:v0.5.18-rocm720-mi30x", id="that of another"),
        pytest.param("sglang", "amd", "gfx1100", {}, "", id="none for a third"),
        pytest.param("vllm", "amd", "gfx906", {}, "", id="an architecture that the images have left out"),
        pytest.param(
            "vllm", "amd", "gfx906", {"DEFAULT_VLLM_IMAGE_GFX906": "me/x:1"}, "me/x:1", id="the architecture's variable"
        ),
        pytest.param(
            "mlc-llm", "nvidia", "sm_52",
            {"DEFAULT_MLC_LLM_IMAGE": "me/x:1", "DEFAULT_MLC_LLM_IMAGE_MAXWELL": "me/x:2"}, "me/x:2",
            id="it comes before the backend's own",
        ),
        pytest.param(
            "llamacpp", "amd", "gfx1101",
            {"DEFAULT_LLAMACPP_IMAGE_AMD": "me/x:1", "DEFAULT_LLAMACPP_IMAGE": "me/x:2"}, "me/x:1",
            id="the vendor's variable",
        ),
        pytest.param("llamacpp", "amd", "gfx942", {"DEFAULT_LLAMACPP_IMAGE_GFX1100": "me/x:1"},
                     "ghcr.io/ggml-org/llama.cpp:server-rocm-b11243", id="the variable of another architecture"),
        pytest.param("llamacpp", "cpu", "", {"DEFAULT_LLAMACPP_IMAGE": "me/x:1"}, "me/x:1", id="the backend's"),
        pytest.param("vllm-omni", "nvidia", "sm_90", {"DEFAULT_VLLM_OMNI_IMAGE": "me/x:1"}, "me/x:1", id="a dash"),
        pytest.param("llamacpp", "cpu", "", {"DEFAULT_LLAMACPP_IMAGE": ""},
                     "ghcr.io/ggml-org/llama.cpp:server-b11243", id="an empty variable is none"),
        pytest.param("comfyui", "nvidia", "sm_89", {}, "", id="an image that nobody has named"),
        pytest.param("simulator", "cpu", "", {"FLEXINFER_IMAGE": "me/flexinfer:2"}, "me/flexinfer:2", id="our own"),
    ],
)  # fmt: skip
def test_image(backend: str, vendor: Any, arch: str, environment: dict[str, str], expected: str) -> None:
    assert images.image(backend, vendor, arch, environment) == expected


@pytest.mark.parametrize(
    ("image", "digest", "expected"),
    [
        pytest.param("me/x:1", "", "me/x:1", id="the image of the Model"),
        pytest.param("", DIGEST, f"ollama/ollama:0.33.3@sha256:{DIGEST}", id="the digest of the Model"),
        pytest.param("me/x:1@sha256:beef", f"sha256:{DIGEST}", f"me/x:1@sha256:{DIGEST}", id="both, one digest"),
    ],
)
def test_the_model_comes_first(model: Make, image: str, digest: str, expected: str) -> None:
    found = model("ollama", "ollama://x")
    found.spec.image, found.spec.image_digest = image, digest
    environment = {} if digest else {"DEFAULT_OLLAMA_IMAGE": "other/x:2"}
    assert images.resolve(found, "ollama", "nvidia", "sm_89", environment) == expected


@pytest.mark.parametrize(
    ("backend", "vendor", "arch", "message"),
    [
        pytest.param(
            "tensorrt-llm", "nvidia", "sm_90",
            "spec.image: '': expected an image of yours: tensorrt-llm has no official image, and the installation "
            "sets none of DEFAULT_TENSORRT_LLM_IMAGE",
            id="an engine that comes in no image of its own",
        ),
        pytest.param(
            "vllm", "amd", "gfx906",
            "spec.image: '': expected an image of yours: no image of vllm for amd (gfx906) is known, and the "
            "installation sets none of DEFAULT_VLLM_IMAGE_GFX906, DEFAULT_VLLM_IMAGE_AMD, DEFAULT_VLLM_IMAGE",
            id="an architecture without one",
        ),
        pytest.param(
            "simulator", "cpu", "",
            "spec.image: '': expected an image of FlexInfer: FLEXINFER_IMAGE names none", id="our own",
        ),
    ],
)  # fmt: skip
def test_an_image_that_nobody_names_is_refused(model: Make, backend: str, vendor: Any, arch: str, message: str) -> None:
    with pytest.raises(InvalidField) as refused:
        images.resolve(model(backend), backend, vendor, arch, {})
    assert str(refused.value) == message


def test_a_deployment_without_a_backend_runs_ollama() -> None:
    assert images.default_backend_image({}) == "ollama/ollama:0.33.3"
    assert images.default_backend_image({"DEFAULT_BACKEND_IMAGE": "me/ollama:1"}) == "me/ollama:1"
