"""Executables named `vllm`, `ollama` or `llama-server` that start our simulator with that engine's command line.

`install(folder, "llama-server", gpu=True)` writes one; put the folder on the PATH of whoever starts engines.
Options that the engine has and the simulator does not need are taken and forgotten.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

ENGINES: Mapping[str, str] = {"vllm": "vllm", "ollama": "ollama", "llama-server": "llamacpp"}
_ROOT = Path(__file__).resolve().parents[2]


def install(
    folder: Path,
    program: Literal["vllm", "ollama", "llama-server"],
    *,
    layers: Literal["gpu", "cpu", "none"] = "none",
    sim_args: Sequence[str] = (),
) -> Path:
    """Write the executable; `layers` is what its log says of the device, `sim_args` go to `flexinfer sim`."""
    folder.mkdir(parents=True, exist_ok=True)
    stub = folder / program
    stub.write_text(
        f"#!{sys.executable}\n"
        f"import sys\n"
        f"sys.path[:0] = [{str(_ROOT)!r}, {str(_ROOT / 'src')!r}]\n"
        f"from tests.support.stub_engines import start\n"
        f"start({program!r}, sys.argv[1:], {['--gpu-log', layers, *sim_args]!r})\n"
    )
    stub.chmod(0o755)
    return stub


def start(program: str, argv: Sequence[str], sim_args: Sequence[str]) -> None:
    """What the executable does."""
    if "--version" in argv or "-v" in argv:
        print(f"{program} 0.0.0-stub")
        return
    from flexinfer.cli.sim import command

    args = ["--engine", ENGINES[program], *sim_argv(program, argv, os.environ), *sim_args]
    command.main(args, prog_name=program)


def sim_argv(program: str, argv: Sequence[str], env: Mapping[str, str]) -> list[str]:
    """The simulator's options for an engine's command line."""
    if program == "ollama":
        if list(argv) != ["serve"]:
            raise SystemExit(f'Error: unknown command "{" ".join(argv)}" for "ollama"')
        host, _, port = env.get("OLLAMA_HOST", "127.0.0.1:11434").removeprefix("http://").rpartition(":")
        return ["--host", host, "--port", port]
    if program == "vllm" and (len(argv) < 2 or argv[0] != "serve"):
        raise SystemExit("vllm: error: expected: vllm serve MODEL [options]")
    options = argv[2:] if program == "vllm" else argv
    host = _values(options, "--host")
    port = _values(options, "--port")
    names = (
        _values(options, "--served-model-name") or [argv[1]] if program == "vllm" else _values(options, "--alias", "-a")
    )
    slots = _values(options, "--max-num-seqs", "--parallel", "-np")
    args = ["--host", host[0] if host else "127.0.0.1", "--port", port[0] if port else "8000"]
    for name in names or ["default"]:
        args += ["--model", name]
    return args + (["--slots", slots[0]] if slots else [])


def _values(argv: Sequence[str], *names: str) -> list[str]:
    """What follows the option up to the next one; the last occurrence counts."""
    found: list[str] = []
    for place, word in enumerate(argv):
        name, equals, value = word.partition("=")
        if name in names:
            found = [value] if equals else []
            for following in argv[place + 1 :] if not equals else ():
                if following.startswith("-"):
                    break
                found.append(following)
    return found
