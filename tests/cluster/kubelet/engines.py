"""Command lines of engines -> what runs here: our llama.cpp engine, or `flexinfer sim` in that engine's place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

Flavour = Literal[
    "plain", "flexinfer", "llamacpp", "vllm", "sglang", "ollama", "tgi", "mlc-llm", "tensorrt-llm", "vllm-omni",
    "diffusers", "comfyui",
]  # fmt: skip


@dataclass(frozen=True)
class Play:
    """How an engine is started, and which of its options the simulator has under its own name."""

    starts: tuple[tuple[str, ...], ...]
    """Program and first words, each a way to start it."""
    port: str
    options: Mapping[str, str]


_VLLM = {
    "--port": "--port",
    "--max-num-seqs": "--slots",
    "--max-model-len": "--context",
    "--served-model-name": "--model",
}
_PLAYS: Mapping[Flavour, Play] = {
    "vllm": Play((("vllm", "serve"), ("python3", "-m", "vllm.entrypoints.openai.api_server")), "8000", _VLLM),
    "vllm-omni": Play((("vllm", "serve"),), "8000", _VLLM),
    "sglang": Play(
        (("sglang", "serve"), ("python3", "-m", "sglang.launch_server")),
        "30000",
        {
            "--port": "--port",
            "--max-running-requests": "--slots",
            "--context-length": "--context",
            "--served-model-name": "--model",
        },
    ),
    "tgi": Play(
        (("text-generation-launcher",),),
        "3000",
        {"--port": "--port", "--max-concurrent-requests": "--slots", "--max-total-tokens": "--context"},
    ),
    "mlc-llm": Play((("mlc_llm", "serve"),), "8000", {"--port": "--port"}),
    "tensorrt-llm": Play(
        (("trtllm-serve", "serve"), ("trtllm-serve",)),
        "8000",
        {"--port": "--port", "--max_batch_size": "--slots", "--max_seq_len": "--context"},
    ),
    "comfyui": Play((("python", "main.py"),), "8188", {"--port": "--port"}),
}
_LISTS = frozenset({"--served-model-name"})
_MODEL_OPTIONS = frozenset({"--model", "--model-path", "--model-id"})


def translate(flavour: Flavour, argv: Sequence[str], env: Mapping[str, str], flexinfer: str) -> tuple[str, ...]:
    """`argv` as it is, unless its program is one of the flavour's: then what stands in for it."""
    if not argv:
        return ()
    program, rest = PurePosixPath(argv[0]).name, list(argv[1:])
    if program == "flexinfer":
        return (flexinfer, *rest)
    if flavour == "llamacpp" and program == "llama-server":
        return (flexinfer, "engine", *rest)
    if flavour == "ollama" and program == "ollama" and rest[:1] == ["serve"]:
        host, _, port = env.get("OLLAMA_HOST", "127.0.0.1:11434").rpartition("//")[2].partition(":")
        return (flexinfer, "sim", "--engine", "ollama", "--host", host, "--port", port or "11434")
    if flavour == "diffusers" and program == "diffusers-server":
        name, port = env.get("MODEL", "diffusers"), env.get("PORT", "8000")
        return (
            flexinfer,
            "sim",
            "--engine",
            flavour,
            "--host",
            env.get("HOST", "0.0.0.0"),
            "--port",
            port,
            "--model",
            name,
        )
    play = _PLAYS.get(flavour)
    for start in play.starts if play is not None else ():
        if play is not None and (program, *rest)[: len(start)] == start:
            return _simulated(flavour, play, rest[len(start) - 1 :], flexinfer)
    return tuple(argv)


def _simulated(engine: Flavour, play: Play, args: Sequence[str], flexinfer: str) -> tuple[str, ...]:
    """Options that the simulator does not have change nothing that a client sees: they are left out."""
    given: dict[str, list[str]] = {}
    source = ""
    for option, values in _options(args):
        if option in play.options and values:
            given[play.options[option]] = values if option in _LISTS else values[:1]
        elif values and (not option or option in _MODEL_OPTIONS):
            source = values[0]
    given.setdefault("--model", [source] if source else [])
    given.setdefault("--port", [play.port])
    pairs = [part for option, values in given.items() for value in values for part in (option, value)]
    # vLLM-Omni is vLLM with an option.
    played = "vllm-omni" if engine == "vllm" and "--omni" in args else engine
    return (flexinfer, "sim", "--engine", played, "--host", "0.0.0.0", *pairs)


def _options(args: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Options with the words after them; words before the first option belong to the empty one."""
    found: list[tuple[str, list[str]]] = [("", [])]
    for word in args:
        if word.startswith("--"):
            option, equals, value = word.partition("=")
            found.append((option, [value] if equals else []))
        else:
            found[-1][1].append(word)
    return found if found[0][1] else found[1:]
