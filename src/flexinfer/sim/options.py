"""What a simulator is started with."""

from __future__ import annotations

from typing import Literal

import msgspec

from flexinfer.sim.faults import Faults
from flexinfer.sim.timing import Timing

EngineName = Literal[
    "vllm", "sglang", "tgi", "mlc-llm", "tensorrt-llm", "llamacpp", "ollama", "vllm-omni", "diffusers", "comfyui",
]  # fmt: skip
OnSigterm = Literal["exit", "drain", "abort", "error", "silent", "ignore"]

ON_SIGTERM: dict[OnSigterm, str] = {
    "exit": "exit 0 at once; open streams break off",
    "drain": "finish what is open, answer 500 to what is new, then exit 0",
    "abort": '`finish_reason: "abort"` and `[DONE]` to open streams, then exit 0',
    "error": "an error event and `[DONE]` to open streams, then exit 0",
    "silent": "open streams go silent; exit 0 only when their clients have gone",
    "ignore": "nothing",
}


class Options(msgspec.Struct, frozen=True, kw_only=True):
    engine: EngineName = "vllm"
    host: str = "127.0.0.1"
    port: int = 0
    """0 takes a free one, which the log names."""
    models: tuple[str, ...] = ("simulated",)
    """Names the one model goes by; with Ollama, the models that are on disk."""

    load_seconds: float = 0.0
    """Start to ready; with Ollama, first use of a model to its first token, and the time of a pull."""
    timing: Timing = Timing()
    slots: int = 64
    kv_tokens: int = 65_536
    context: int = 32_768
    """Tokens of one request, prompt and answer."""
    output_tokens: int = 32
    """Length of an answer that `max_tokens` does not cut."""
    token_bytes: int = 0
    """Fill each token up to so many bytes."""
    embeddings: bool = True
    embedding_width: int = 64
    ollama_models: str = ""
    """Folder in Ollama's layout whose models are on disk too."""
    old_metric_names: bool = False
    """vLLM's names before 0.9.2."""
    gpu_log: Literal["none", "gpu", "cpu"] = "none"
    """Say in the log (and in Ollama's /api/ps) where the layers are."""

    exit_after: float = -1.0
    """Exit so many seconds after the start, with `exit_code`; negative: never."""
    exit_code: int = 1
    never_ready: bool = False
    on_sigterm: OnSigterm = "exit"
    worker: bool = False
    """Fork a worker that outlives this process and ignores SIGTERM."""
    daemon: bool = False
    """Start a process in a session of its own, orphaned at birth, that outlives this one."""
    faults: Faults = Faults()
