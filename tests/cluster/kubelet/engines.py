"""Command lines of engines -> what runs here: our llama.cpp engine, or `flexinfer sim` in that engine's place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Literal

Flavour = Literal["plain", "flexinfer", "llamacpp", "vllm", "sglang", "ollama"]

_PORTS: Mapping[str, str] = {"vllm": "8000", "sglang": "30000", "ollama": "11434"}
# Options of the engines that the simulator has, under its own name.
_KNOWN: Mapping[str, Mapping[str, str]] = {
    "vllm": {
        "--port": "--port",
        "--max-num-seqs": "--slots",
        "--max-model-len": "--context",
        "--served-model-name": "--model",
    },
    "sglang": {
        "--port": "--port",
        "--max-running-requests": "--slots",
        "--context-length": "--context",
        "--served-model-name": "--model",
    },
}
_LISTS = frozenset({"--served-model-name"})
_MODEL_OPTIONS = frozenset({"--model", "--model-path"})


def translate(flavour: Flavour, argv: Sequence[str], env: Mapping[str, str], flexinfer: str) -> tuple[str, ...]:
    """`argv` as it is, unless its program is one of the flavour's: then what stands in for it."""
    if not argv:
        return ()
    program, rest = PurePosixPath(argv[0]).name, list(argv[1:])
    if program == "flexinfer":
        return (flexinfer, *rest)
    if flavour == "llamacpp" and program == "llama-server":
        return (flexinfer, "engine", *rest)
    if flavour == "vllm" and program == "vllm" and rest[:1] == ["serve"]:
        return _simulated("vllm", rest[1:], flexinfer)
    if flavour == "vllm" and rest[:2] == ["-m", "vllm.entrypoints.openai.api_server"]:
        return _simulated("vllm", rest[2:], flexinfer)
    if flavour == "sglang" and rest[:2] == ["-m", "sglang.launch_server"]:
        return _simulated("sglang", rest[2:], flexinfer)
    if flavour == "ollama" and program == "ollama" and rest[:1] == ["serve"]:
        host, _, port = env.get("OLLAMA_HOST", "127.0.0.1:11434").rpartition("//")[2].partition(":")
        return (flexinfer, "sim", "--engine", "ollama", "--host", host, "--port", port or _PORTS["ollama"])
    return tuple(argv)


def _simulated(engine: Literal["vllm", "sglang"], args: Sequence[str], flexinfer: str) -> tuple[str, ...]:
    """Options that the simulator does not have change nothing that a client sees: they are left out."""
    known = _KNOWN[engine]
    given: dict[str, list[str]] = {}
    source = ""
    for option, values in _options(args):
        if option in known and values:
            given[known[option]] = values if option in _LISTS else values[:1]
        elif values and (not option or option in _MODEL_OPTIONS):
            source = values[0]
    given.setdefault("--model", [source] if source else [])
    given.setdefault("--port", [_PORTS[engine]])
    pairs = [part for option, values in given.items() for value in values for part in (option, value)]
    return (flexinfer, "sim", "--engine", engine, "--host", "0.0.0.0", *pairs)


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
