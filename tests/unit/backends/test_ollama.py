"""Ollama: its tag, its environment, its pull."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from flexinfer.backends import ollama
from flexinfer.backends.base import Device, Serving
from flexinfer.errors import InvalidField

Make = Callable[..., Any]
AMD = Device(vendor="amd", index=1, arch="gfx1100")


@pytest.mark.parametrize(
    ("source", "tag"),
    [("ollama://llama3:8b", "llama3:8b"), ("ollama://llama3", "llama3:latest"), ("ollama://library/x:1", "x:1")],
)
def test_the_engine_knows_the_model_by_its_tag(model: Make, site: Make, source: str, tag: str) -> None:
    plan = ollama.plan(model("ollama", source), site(path=""))
    assert (plan.program, plan.args, plan.served_model) == ("ollama", ("serve",), tag)
    ((method, path, body),) = plan.prepare
    assert (method, path, msgspec.json.decode(body)["model"]) == ("POST", "/api/pull", tag)
    assert ollama.serving(model("ollama", source)) == Serving(slots=4, served_model=tag)


def test_environment(model: Make, site: Make) -> None:
    found = model("ollama", "ollama://x", parallel=2, contextSize=4096, flashAttention=True, kvCacheType="q8_0")
    assert dict(ollama.plan(found, site(path="/srv/ollama")).env) == {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": "-1",
        "HIP_VISIBLE_DEVICES": "-1",
        "OLLAMA_CONTEXT_LENGTH": "4096",
        "OLLAMA_FLASH_ATTENTION": "1",
        "OLLAMA_HOST": "127.0.0.1:40000",
        "OLLAMA_KEEP_ALIVE": "-1",
        "OLLAMA_KV_CACHE_TYPE": "q8_0",
        "OLLAMA_MAX_LOADED_MODELS": "1",
        "OLLAMA_MODELS": "/srv/ollama",
        "OLLAMA_NOPRUNE": "1",
        "OLLAMA_NUM_PARALLEL": "2",
    }


def test_a_tag_that_lies_on_the_volume_is_not_pulled(model: Make, site: Make) -> None:
    plan = ollama.plan(model("ollama", "ollama://x"), site(path="/models/ollama"))
    assert (plan.prepare, plan.served_model, plan.container_command) == ((), "x:latest", ("/bin/ollama",))


def test_rocm_is_not_hidden_from_it(model: Make, site: Make) -> None:
    env = ollama.plan(model("ollama", "ollama://x"), site(AMD, path="")).env
    shown = {name: value for name, value in env.items() if name.endswith(("DEVICES", "LIBRARY"))}
    assert shown == {"HIP_VISIBLE_DEVICES": "0", "OLLAMA_LLM_LIBRARY": "rocm", "ROCR_VISIBLE_DEVICES": "1"}


def test_other_sources_are_refused(model: Make, site: Make) -> None:
    with pytest.raises(InvalidField, match="a name of Ollama's registry"):
        ollama.plan(model("ollama", "file:///models/m.gguf"), site())
