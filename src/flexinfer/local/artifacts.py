"""The bytes of a Model on this machine: where they lie, and whether they are what the backend reads.

A file is looked at once for each size and modification time it has.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from flexinfer import backends
from flexinfer.api.v1alpha2.model import Model
from flexinfer.artifacts import layout, source
from flexinfer.artifacts.gguf import GGUFFacts
from flexinfer.backends.base import Artifact
from flexinfer.errors import ArtifactError, FlexInferError
from flexinfer.storage import weights


class SourceUnavailable(FlexInferError):
    """This part of FlexInfer cannot get the bytes of such a source."""


class Artifacts:
    def __init__(self, models_dir: Path) -> None:
        self._models_dir = models_dir
        self._looked_at: dict[str, _Look] = {}

    def locate(self, model: Model) -> Artifact:
        """Raises ArtifactError for bytes that are missing or wrong, SourceUnavailable, InvalidField."""
        reads = backends.get(model.spec.backend).reads
        if reads == "nothing":
            return Artifact()
        parsed = source.parse(model.spec.source)
        if reads == "registry":
            if not isinstance(parsed, source.Ollama):
                raise SourceUnavailable(f"{model.spec.backend} takes ollama:// sources, not {model.spec.source}")
            return Artifact(model_id=parsed.model)
        if not isinstance(parsed, source.File):
            raise SourceUnavailable(f"{model.spec.source} cannot be downloaded yet: use a file:// source")
        path = Path(layout.host_path(parsed.path, str(self._models_dir)))
        if reads == "gguf":
            facts = self._look(path)
            return Artifact(path=str(path), size_bytes=facts.file_bytes, gguf=facts)
        if not path.is_dir():
            raise ArtifactError(f"{path}: expected a folder with a model in it")
        return Artifact(path=str(path), size_bytes=sum(_size(file) for file in path.iterdir() if file.is_file()))

    def _look(self, path: Path) -> GGUFFacts:
        try:
            found = path.stat()
        except OSError as error:
            raise ArtifactError(f"{path}: {error.strerror}") from None
        stamp = (found.st_size, found.st_mtime_ns)
        look = self._looked_at.get(str(path))
        if look is None or look.stamp != stamp:
            look = self._looked_at[str(path)] = _Look(stamp, _inspect(path))
        if isinstance(look.result, ArtifactError):
            raise look.result
        return look.result


class _Look(NamedTuple):
    stamp: tuple[int, int]
    """Size and modification time, ns."""
    result: GGUFFacts | ArtifactError


def _inspect(path: Path) -> GGUFFacts | ArtifactError:
    try:
        return weights.inspect(path)
    except ArtifactError as error:
        return error


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
