"""Programs that images have under /app, for manifests that call them by a shell: our engine and our command."""

from __future__ import annotations

from pathlib import Path

from tests.cluster.kubelet.sandbox import this_machine


def write_programs(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    flexinfer = this_machine(folder).flexinfer
    for name, words in (("llama-server", f"{flexinfer} engine"), ("flexinfer", flexinfer)):
        program = folder / name
        program.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
        program.chmod(0o755)
    return folder
