"""Two real models that are small: one recites what demo models recite, the other another sentence."""

from __future__ import annotations

from pathlib import Path

from flexinfer.engine import demo_model

OTHER_SENTENCE = "a second model speaks other words and goes to sleep as well"


def write(folder: Path) -> Path:
    """demo.gguf and other.gguf in a new folder."""
    folder.mkdir()
    demo_model.write(folder / "demo.gguf")
    demo_model.write(folder / "other.gguf", sentence=OTHER_SENTENCE)
    return folder
