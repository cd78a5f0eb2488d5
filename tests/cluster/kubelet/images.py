"""Which command an image stands for on this machine: ours and llama.cpp the real thing, other engines `flexinfer sim`.

An image that nothing stands for cannot be pulled, nor one that a test has put on its list.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from tests.cluster.kubelet.engines import Flavour


@dataclass(frozen=True)
class Image:
    """What a real image's configuration says; `flavour` is whose command lines its containers are started with."""

    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    working_dir: str = "/"
    user: int = 0
    flavour: Flavour = "plain"


class NotPulled(Exception):
    """The message is what the container's status says."""


TOOLS = "cluster.test/tools:1"
"""No entry point; every program of this machine."""
STATIC = "cluster.test/static:1"
"""A server of one answer that is there after 20 ms; `--port`, default 8080."""

_STATIC_SERVER = Path(__file__).with_name("static_server.py")

_REPOSITORIES: Mapping[str, Image] = {
    "cluster.test/tools": Image(),
    # -I and -S: no site packages are looked for, which is most of an interpreter's start.
    "cluster.test/static": Image(entrypoint=(f"{sys.base_prefix}/bin/python3", "-I", "-S", str(_STATIC_SERVER))),
    "ghcr.io/ggml-org/llama.cpp": Image(entrypoint=("/app/llama-server",), working_dir="/app", flavour="llamacpp"),
    "ollama/ollama": Image(entrypoint=("/bin/ollama",), command=("serve",), flavour="ollama"),
    "vllm/vllm-openai": Image(entrypoint=("vllm", "serve"), flavour="vllm"),
    "vllm/vllm-openai-rocm": Image(entrypoint=("vllm", "serve"), flavour="vllm"),
    "vllm/vllm-openai-xpu": Image(entrypoint=("vllm", "serve"), flavour="vllm"),
    "vllm/vllm-openai-cpu": Image(entrypoint=("vllm", "serve"), flavour="vllm"),
    "rocm/vllm": Image(flavour="vllm"),
    "vllm/vllm-omni": Image(flavour="vllm-omni"),
    "lmsysorg/sglang": Image(flavour="sglang"),
    "ghcr.io/huggingface/text-generation-inference": Image(
        entrypoint=("text-generation-launcher",), env={"PORT": "80"}, flavour="tgi"
    ),
    # Engines whose projects publish no image: what an installation would have made.
    "cluster.test/mlc-llm": Image(flavour="mlc-llm"),
    "cluster.test/tensorrt-llm": Image(flavour="tensorrt-llm"),
    "cluster.test/diffusers": Image(entrypoint=("diffusers-server",), flavour="diffusers"),
    "cluster.test/comfyui": Image(working_dir="/srv/ComfyUI", flavour="comfyui"),
}
_OURS = Image(entrypoint=("flexinfer",), flavour="flexinfer")


def repository(reference: str) -> str:
    """Without tag and digest; Docker's own registry is left out."""
    name = reference.partition("@")[0]
    head, slash, tail = name.rpartition("/")
    plain = head + slash + tail.partition(":")[0]
    for prefix in ("docker.io/library/", "docker.io/"):
        plain = plain.removeprefix(prefix)
    return plain


class Images:
    """Looks anew at the test's own list (a JSON file) with every pull."""

    def __init__(self, overrides: Path) -> None:
        self._overrides = overrides

    def pull(self, reference: str, policy: str = "IfNotPresent") -> Image:
        """Raises NotPulled."""
        said = json.loads(self._overrides.read_text()) if self._overrides.exists() else {}
        if reference in said.get("failing", ()):
            raise NotPulled(f'failed to pull and unpack image "{reference}": the test says so')
        if (given := said.get("images", {}).get(reference)) is not None:
            return msgspec.convert(given, Image)
        name = repository(reference)
        last = name.rpartition("/")[2]
        if last == "flexinfer" or last.startswith("flexinfer-"):
            return _OURS
        if name in _REPOSITORIES:
            return _REPOSITORIES[name]
        if policy == "Never":
            raise NotPulled(f'Container image "{reference}" is not present with pull policy of Never')
        raise NotPulled(f'failed to pull and unpack image "{reference}": no command stands for it on this machine')
