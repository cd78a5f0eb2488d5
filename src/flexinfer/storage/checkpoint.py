"""A checkpoint's folder: its `config.json` and how many bytes its tensors have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from flexinfer.artifacts import safetensors
from flexinfer.errors import ArtifactError
from flexinfer.storage.weights import reader

MOST_CONFIG_BYTES = 4 << 20


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    config: dict[str, Any]
    weights_bytes: int


def inspect(folder: Path) -> Checkpoint:
    """Raises ArtifactError with the path and what is wrong."""
    path = folder / "config.json"
    try:
        with path.open("rb") as file:
            text = file.read(MOST_CONFIG_BYTES + 1)
        weights = sum(_tensor_bytes(path) for path in _weights(folder))
    except FileNotFoundError as error:
        raise ArtifactError(f"{error.filename}: no such file") from None
    except OSError as error:
        raise ArtifactError(f"{path}: {error.strerror or error}") from error
    if len(text) > MOST_CONFIG_BYTES:
        raise ArtifactError(f"{path}: more than {MOST_CONFIG_BYTES} bytes")
    try:
        config = msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ArtifactError(f"{path}: {error}") from error
    if weights == 0:
        raise ArtifactError(f"{folder}: no .safetensors file")
    return Checkpoint(config=config, weights_bytes=weights)


def _tensor_bytes(path: Path) -> int:
    with path.open("rb") as file:
        try:
            return safetensors.read(reader(file), path.stat().st_size).tensor_bytes
        except ArtifactError as error:
            raise type(error)(f"{path}: {error}") from error


def _weights(folder: Path) -> list[Path]:
    """The files of one copy: some repositories hold a second one, `consolidated`, in another layout."""
    found = sorted(folder.glob("*.safetensors"))
    return [path for path in found if not path.name.startswith("consolidated")] or found
