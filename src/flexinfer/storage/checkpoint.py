"""A checkpoint's folder: its `config.json` and how many bytes its tensors have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from flexinfer.errors import ArtifactError

MOST_CONFIG_BYTES = 4 << 20
_LENGTH_BYTES = 8


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    config: dict[str, Any]
    weights_bytes: int


def inspect(folder: Path) -> Checkpoint:
    """Raises ArtifactError with the path and what is wrong."""
    path = folder / "config.json"
    try:
        with path.open("rb") as file:
            text = file.read(MOST_CONFIG_BYTES + 1)
        weights = sum(_tensor_bytes(file) for file in sorted(folder.glob("*.safetensors")))
    except FileNotFoundError:
        raise ArtifactError(f"{path}: no such file") from None
    except OSError as error:
        raise ArtifactError(f"{path}: {error.strerror or error}") from error
    if len(text) > MOST_CONFIG_BYTES:
        raise ArtifactError(f"{path}: more than {MOST_CONFIG_BYTES} bytes")
    try:
        config = msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ArtifactError(f"{path}: {error}") from error
    if weights == 0:
        raise ArtifactError(f"{folder}: no .safetensors file")
    return Checkpoint(config=config, weights_bytes=weights)


def _tensor_bytes(path: Path) -> int:
    """All bytes behind the header of a safetensors file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        header = int.from_bytes(file.read(_LENGTH_BYTES), "little")
    if size < _LENGTH_BYTES or header > size - _LENGTH_BYTES:
        raise ArtifactError(f"{path}: is no safetensors file, or cut off")
    return size - _LENGTH_BYTES - header
